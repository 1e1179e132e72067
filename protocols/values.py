"""Values that travel between steps: plain data, one binary form, explicit limits.

A value is None, bool, int (64 bit), float, str, bytes, an aware datetime, a list, or a dict. A key of a dict is any of
these but a list or dict; mostly it is a text. Between processes and on disk a value is packed by msgpack, and never
pickled. Unpacking limits size and depth before anything is built, because with msgpack's own defaults a few kilobytes
may grow to many megabytes (docs/architecture.md, "Values").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import is_dataclass
from io import IOBase
from typing import Any, TypeAlias

import msgpack
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from .advice import not_plain
from .errors import InvalidInput

Value: TypeAlias = Any
"""Plain data as described above; a type checker cannot say it without drowning every signature."""

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""Default limit of one packed value; the setting `max_value_bytes` replaces it."""
MAX_DEPTH = 100
"""Deepest nesting of lists and dicts in one value."""
_SPARE: list[Any] = []
"""Packers that are not in use, kept because making one takes as long as packing a small value. At a time, each thread
uses one, and each call of `default` one more."""
_SPARE_BYTES = 64 * 1024
"""Largest value, in bytes, after which a packer is kept: buffers of packers only grow."""


def pack(value: Value) -> bytes:
    """Return the binary form of `value`.

    pydantic models, dataclasses, enums, UUIDs, paths and decimals inside it become their JSON form first.

    Raises:
        InvalidInput: something in it is not plain data; the path names the place.
    """
    try:
        packer = _SPARE.pop()
    except IndexError:
        packer = _packer()
    try:
        packed: bytes = packer.pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _explain(value, error) from error
    if len(packed) < _SPARE_BYTES:
        _SPARE.append(packer)
    return packed


def unpack(packed: bytes, max_bytes: int = MAX_VALUE_BYTES, pairs_hook: Any = None) -> Value:
    """Return the value that `pack` packed.

    Args:
        pairs_hook: makes mappings of pairs of their keys and values; see `unpack_marked`.

    Raises:
        InvalidInput: too large, damaged, or not a value of ours.
    """
    size_bytes = len(packed)
    if size_bytes > max_bytes:
        raise InvalidInput(problem=f"{size_bytes} bytes, the limit is {max_bytes}")
    try:
        return msgpack.unpackb(
            packed,
            timestamp=3,
            raw=False,
            strict_map_key=False,
            max_str_len=size_bytes,
            max_bin_len=size_bytes,
            max_array_len=size_bytes,
            max_map_len=size_bytes,
            max_ext_len=64,
            ext_hook=_refuse_extension,
            object_pairs_hook=pairs_hook,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        # TypeError: a list as a key; OverflowError: a moment of the year 1 or 9999 that is in none in UTC
        raise InvalidInput(problem=f"not a packed value: {error}") from error


class Unreadable:
    """Stands for a mapping with a key that no mapping can have, in a message that is read all the same."""


def unpack_marked(packed: bytes, max_bytes: int) -> Value:
    """Unpack with Unreadable in place of parts that pack but do not unpack, to find them in a message of many parts.

    Slower than `unpack`; use it when `unpack` has failed.
    """
    return unpack(packed, max_bytes, _marked)


def _marked(pairs: list[tuple[Value, Value]]) -> Value:
    try:
        return dict(pairs)
    except TypeError:
        return Unreadable()


def is_readable(value: Value) -> bool:
    """Whether no part of a value is Unreadable."""
    if isinstance(value, dict):
        return all(map(is_readable, value.values()))
    if isinstance(value, list):
        return all(map(is_readable, value))
    return not isinstance(value, Unreadable)


def check_value(value: Value, name: str, max_bytes: int = MAX_VALUE_BYTES) -> Value:
    """Return `value` as plain data, after a full round trip. Errors call it `name`.

    An iterator gives its items only once: go on with the returned value.

    Raises:
        InvalidInput: not plain data, nested over MAX_DEPTH, or larger than `max_bytes` when packed.
    """
    try:
        packed = pack(value)
    except InvalidInput as error:
        raise InvalidInput(problem=error.problem, path=f"{name}{error.path}") from error
    if len(packed) > max_bytes:
        raise InvalidInput(problem=f"{len(packed)} bytes packed, the limit is {max_bytes}", path=name)
    try:
        plain = unpack(packed, max_bytes)
    except InvalidInput as error:
        raise _bad_key(value, name) or error from error
    if _too_deep(plain, MAX_DEPTH):
        raise InvalidInput(problem=f"nested deeper than {MAX_DEPTH} levels", path=name)
    return plain


def _bad_key(value: Value, path: str) -> InvalidInput | None:
    """Return the error for the first key that packs but does not unpack as a key."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, tuple | frozenset):
                problem = f"the key {str(key)[:60]} is a {type(key).__name__}, keys are texts"
                return InvalidInput(problem=problem, path=path)
            if (found := _bad_key(item, f"{path}.{key}")) is not None:
                return found
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if (found := _bad_key(item, f"{path}[{index}]")) is not None:
                return found
    return None


def check_text(value: object, name: str) -> None:
    """Raise InvalidInput unless `value` is a text that can be encoded. The error calls it `name`."""
    if not isinstance(value, str):
        raise InvalidInput(problem=f"a text is wanted, not {type(value).__name__}", path=name)
    check_value(value, name)


def digest(value: Value) -> str:
    """Return the SHA-256 of a value, hexadecimal. The order of keys in dicts makes no difference."""
    return hashlib.sha256(pack(_ordered(value))).hexdigest()


def _ordered(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def _packer() -> Any:
    return msgpack.Packer(datetime=True, default=_plain, buf_size=512)


def _plain(item: object) -> Value:
    if isinstance(item, IOBase):
        raise TypeError("cannot pack an open file")
    if isinstance(item, Iterator):
        return list(item)
    try:
        return to_jsonable_python(item)
    except PydanticSerializationError as error:
        raise TypeError(f"cannot pack {type(item).__name__}") from error


def _refuse_extension(code: int, _data: bytes) -> Value:
    raise ValueError(f"extension type {code} is not allowed")


def _too_deep(value: Value, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    if levels == 0:
        return True
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, list | dict) and _too_deep(item, levels - 1):
            return True
    return False


def _explain(value: Value, error: Exception) -> InvalidInput:
    """Find the innermost part that cannot be packed, so that the message can name it."""
    path, part = _first_bad(value, "", MAX_DEPTH)
    problem = not_plain(part)
    if isinstance(part, IOBase):
        problem = "an open file is not plain data: give its name, or what is in it"
    elif isinstance(part, int) and not isinstance(part, bool):
        problem = "an integer must fit in 64 bits"
    elif isinstance(error, UnicodeEncodeError):
        problem = f"a text that cannot be encoded ({error.reason})"
    elif isinstance(error, RecursionError) or "recursion" in str(error):
        problem = f"nested deeper than {MAX_DEPTH} levels"
    return InvalidInput(problem=problem, path=path)


def _first_bad(value: Value, path: str, levels: int) -> tuple[str, Value]:
    items: Any = ()
    if isinstance(value, dict):
        items = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        items = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif is_dataclass(value) or isinstance(value, BaseModel):
        items = ((f"{path}.{name}", item) for name, item in vars(value).items())
    for inner_path, item in items:
        try:
            _packer().pack(item)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return _first_bad(item, inner_path, levels - 1) if levels else (path, value)
    return path, value
