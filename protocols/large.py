"""Takes the large parts out of a value on its way into the cluster, so that they go to the blob store.

A text, bytes, or an encoded value of more than `inline_bytes` is a large part. While the value is made plain, each
large part becomes a `Stored` with a number. Then its content goes to the store, and the number becomes a key. Lists and
dicts stay, because expressions look into them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, TypeAlias

import msgpack

from .encoded import Encoded, Travelling, map_encoded
from .errors import InvalidInput
from .stored import BYTES, FILE, TEXT, WHOLE, BlobKey, Buffer, Stored, stored_in

INLINE_BYTES = 256 * 1024
"""Default size above which a part goes to the blob store; the setting `inline_bytes` replaces it."""
MAX_BLOB_BYTES = 5 * 1024**3
"""Default limit of one part; the setting `max_blob_bytes` replaces it."""
PREVIEW_CHARS = 80
Value: TypeAlias = Any


class Pieces(tuple[Buffer, ...]):
    """The data of an encoded value in several pieces, so that a large array need not be copied."""

    __slots__ = ()

    @property
    def size(self) -> int:
        return sum(memoryview(piece).nbytes for piece in self)

    def joined(self) -> bytes:
        return b"".join(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pieces) and self.joined() == other.joined()

    __hash__ = None  # type: ignore[assignment]


class LocalFile(NamedTuple):
    """The content of a part that is still a file of this machine."""

    path: str


Content: TypeAlias = Pieces | LocalFile


class Part(NamedTuple):
    """A large part that is not in the store yet."""

    content: Content
    is_packed: bool
    load: Callable[[], Any]
    """Returns the object that the part stands for."""


def too_large(size: int, most: int) -> str:
    """Return why lists and dicts are refused for their size, and the ways out."""
    way = "give an array, a podium.Lazy or a podium.File instead of a long list, or raise `max_value_bytes`"
    return f"{size} bytes packed, the limit is {most}: {way}"


class Unstorable(TypeError):
    """Raised for a part that cannot go to a blob store; says why, and what to do."""


class LargeParts:
    """The large parts of one value. Use it as a context manager around what makes the value plain."""

    def __init__(self, inline_bytes: int = INLINE_BYTES, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        self.inline_bytes, self.max_bytes = inline_bytes, max_blob_bytes
        self.parts: dict[int, Part] = {}
        """The parts by their numbers."""
        self._numbers = itertools.count()
        self.packed_bytes = 0
        """Size of the value when it was packed last, without the parts that were taken out."""
        self._token: Token[LargeParts | None] | None = None

    def __enter__(self) -> LargeParts:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._token is not None
        _CURRENT.reset(self._token)

    def take(self, codec: str, about: Mapping[str, Any], part: Part) -> Stored:
        """Take a part out; returns what stands for it. Raises Unstorable."""
        if isinstance(part.content, Pieces) and part.content.size > self.max_bytes:
            raise Unstorable(f"a {codec} of {part.content.size} bytes, the limit is {self.max_bytes}")
        number = next(self._numbers)
        self.parts[number] = part
        return Stored.at(codec, about, number)

    def is_large(self, value: Value) -> bool:
        """Whether a text or bytes are a large part."""
        return isinstance(value, str | bytes) and len(value) > self.inline_bytes

    def lifted(self, plain: Value, name: str, max_value_bytes: int) -> Value:
        """Return plain data without its large texts and bytes. Raises InvalidInput if any of it is too large."""
        if self.packed_bytes > self.inline_bytes:
            try:
                plain = self._lift(plain)
            except Unstorable as error:
                raise InvalidInput(problem=str(error), path=name) from error
        if self.packed_bytes > max_value_bytes:
            raise InvalidInput(problem=too_large(self.packed_bytes, max_value_bytes), path=name)
        if self.parts:  # what was tried by another hint is not in the value
            used = {part.number for part in stored_in(plain)}
            self.parts = {number: part for number, part in self.parts.items() if number in used}
        return plain

    def _lift(self, value: Value) -> Value:
        if isinstance(value, dict):
            return {key: self._lift(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._lift(item) for item in value]
        if not self.is_large(value):
            return value
        if isinstance(value, str):
            return self._text_part(value)
        self.packed_bytes -= len(value)
        return self.bytes_part(value)

    def _text_part(self, text: str) -> Value:
        content = text.encode()
        if len(content) <= self.inline_bytes:
            return text
        self.packed_bytes -= len(content)
        about = {"chars": len(text), "preview": text[:PREVIEW_CHARS]}
        return self.take(TEXT, about, Part(Pieces((content,)), False, lambda: text))

    def bytes_part(self, content: bytes) -> Stored:
        """Take bytes out. Raises Unstorable."""
        return self.take(BYTES, {}, Part(Pieces((content,)), False, lambda: content))

    def contents(self) -> list[bytes]:
        """Return the contents of the parts that are in memory, as copies."""
        return [part.content.joined() for part in self.parts.values() if isinstance(part.content, Pieces)]

    def keep_copies(self) -> None:
        """Keep copies of the contents, because the objects may change before they are stored."""
        for number, part in self.parts.items():
            if isinstance(part.content, Pieces):
                self.parts[number] = part._replace(content=Pieces((part.content.joined(),)))

    def placed(self, plain: Value, keys: Sequence[BlobKey]) -> Value:
        """Return the value with the keys of its parts, in the order of `parts`, in place of their numbers."""
        by_number = dict(zip(self.parts, keys, strict=True))

        def place(part: Encoded) -> Encoded:
            if not isinstance(part, Stored) or part.number is None:
                return part
            return Stored.under(by_number[part.number], part.codec, part.about, self.parts[part.number].is_packed)

        return map_encoded(plain, place)


_CURRENT: ContextVar[LargeParts | None] = ContextVar("large_parts", default=None)
current: Callable[[], LargeParts | None] = _CURRENT.get


def object_of(part: Stored) -> Any:
    """Return the object that a part stands for, which is on its way out. Raises InvalidInput for a foreign number."""
    large, number = current(), part.number
    if large is None or number not in large.parts:
        raise InvalidInput(problem=f"a {part.codec} that is in no blob store")
    return large.parts[number].load()


def file_part(path: str, name: str, load: Callable[[], Any]) -> msgpack.ExtType:
    """Return a file of this machine as a part that goes to the store. Raises Unstorable where there is no store."""
    large = current()
    if large is None:
        raise Unstorable("a file that is in no blob store: submit it, or return it from a step")
    return large.take(FILE, {"name": name}, Part(LocalFile(path), False, load)).travel()


def whole_part(plain: Callable[[int], Value], load: Callable[[], Any]) -> Value:
    """Return plain data as one part that goes to the store as a whole, if it is large; else the data as they are.

    No part of it goes to the store by itself, because the journal would not know of a key that stands in a blob. Data
    with parts that are in the store already stay as they are, for the same reason.

    Args:
        plain: returns the data, which may have as many bytes as it is given. Raises InvalidInput.
    """
    large = current()
    if large is None:
        return plain(MAX_BLOB_BYTES)
    token = _CURRENT.set(None)
    try:
        value = plain(large.max_bytes)
    finally:
        _CURRENT.reset(token)
    packed: bytes = msgpack.packb(value, datetime=True, default=_travel)
    if len(packed) <= large.inline_bytes or next(stored_in(value), None) is not None:
        return value
    about = {"items": len(value)} if isinstance(value, list | dict) else {}
    return large.take(WHOLE, about, Part(Pieces((packed,)), False, load)).travel()


def _travel(item: object) -> object:
    if isinstance(item, Travelling):
        return item.travel()
    raise TypeError(f"cannot pack {type(item).__name__}")
