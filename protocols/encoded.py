"""A value of a type that has a codec, as it travels: the name of the codec, a description, and the encoded data.

Whoever only passes a value on, as supervisors and journals do, never decodes it, and needs no library for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgpack

EXTENSION = 1
"""The code of msgpack's extension type that an encoded value is on the wire."""
MOST_FACTS = 64
"""Most entries of a description, and of a list in it."""
_FACTS = (str, int, float, bool, type(None))
DAMAGED = "damaged"
"""Name of the codec of what is no encoded value."""
MET = [False]
"""Whether this process has met an encoded value yet. As long as it has not, nobody need look for one."""


class Travelling:
    """The base of objects that travel in a form of their own, wherever they stand in a value."""

    __slots__ = ()

    def travel(self) -> Any:
        """Return the form, which msgpack can pack."""
        raise NotImplementedError


class Encoded(Travelling):
    """An encoded value. Two are equal if their codec and data are."""

    __slots__ = ("_parts", "packed")

    def __init__(self, packed: bytes) -> None:
        """`packed`: the content of the extension, [name of the codec, description, data] in msgpack."""
        self.packed = packed
        self._parts: tuple[str, dict[str, Any], Any] | None = None
        MET[0] = True

    @property
    def codec(self) -> str:
        return self._read()[0]

    @property
    def about(self) -> Mapping[str, Any]:
        """A short description of the value, such as its shape."""
        return self._read()[1]

    @property
    def data(self) -> Any:
        """The data that `dump` of the codec gave."""
        return self._read()[2]

    def _read(self) -> tuple[str, dict[str, Any], Any]:
        if self._parts is None:
            self._parts = _parts_of(self.packed)
        return self._parts

    def described(self) -> dict[str, Any]:
        """Return what stands for the value where it is only shown: its type, size in bytes, and description."""
        own = {"$type": self.codec, "bytes": len(self.packed)}
        return {**own, **self.about, **own}  # first, and whatever the description says

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and other.packed == self.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        about = "".join(f" {name}={value}" for name, value in self.about.items())
        return f"<{self.codec}{about}, {len(self.packed)} bytes>"

    def travel(self) -> msgpack.ExtType:
        return msgpack.ExtType(EXTENSION, self.packed)


def _parts_of(packed: bytes) -> tuple[str, dict[str, Any], Any]:
    """Return codec, description and data. What a foreign client has sent may be anything."""
    try:
        codec, about, data = UNPACK(packed)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return DAMAGED, {}, None
    return (codec, about, data) if isinstance(codec, str) and is_description(about) else (DAMAGED, {}, None)


def is_description(about: object) -> bool:
    """Whether it is a small mapping of texts, numbers and short lists of these, which everybody can look at."""
    if not isinstance(about, dict) or len(about) > MOST_FACTS or not all(isinstance(key, str) for key in about):
        return False
    lists = [value if isinstance(value, list) else [value] for value in about.values()]
    return all(len(items) <= MOST_FACTS and all(isinstance(item, _FACTS) for item in items) for items in lists)


FORMS: dict[int, Callable[[bytes], Encoded]] = {EXTENSION: Encoded}
"""The extension types that are allowed, by code, with what makes the part of its content."""


def _extension(code: int, data: bytes) -> Encoded:
    if code not in FORMS:
        raise ValueError(f"extension type {code} is not allowed")
    return FORMS[code](data)


UNPACK = partial(msgpack.unpackb, timestamp=3, raw=False, strict_map_key=False, ext_hook=_extension)
"""Unpacks plain data with encoded parts. Raises various errors."""


def encoded_in(value: Any) -> Iterator[Encoded]:
    """Yield each encoded part of a value."""
    if isinstance(value, Encoded):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from encoded_in(key)
            yield from encoded_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from encoded_in(item)


def map_encoded(value: Any, change: Callable[[Encoded], Any]) -> Any:
    """Return a value with `change` applied to each encoded part of it; the value itself if there is none."""
    if isinstance(value, Encoded):
        return change(value)
    if isinstance(value, dict):
        changed = [(map_encoded(key, change), map_encoded(item, change)) for key, item in value.items()]
        is_same = all(k is key and i is item for (k, i), (key, item) in zip(changed, value.items(), strict=True))
        return value if is_same else dict(changed)
    if isinstance(value, list):
        items = [map_encoded(item, change) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
