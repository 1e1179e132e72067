"""A large part of a value, as it travels: the key of its content in the blob store, and a description.

The content is in the blob store before a journal entry names its key. Supervisors, journals and expressions pass the
part on as they pass on any encoded part. Only who uses a value reads the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

import msgpack

from .encoded import FORMS, UNPACK, Encoded, encoded_in
from .errors import InvalidInput

EXTENSION = 2
"""The code of msgpack's extension type that a stored part is on the wire."""
TEXT, BYTES, WHOLE, FILE = "str", "bytes", "podium.value", "podium.File"
"""Names, in place of that of a codec, of parts that are a text, bytes, plain data as a whole, and a file."""
DIGEST_BYTES = 32
MET = [False]
"""Whether this process has met a stored part yet. As long as it has not, nobody need look for one."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""The bytes of a content. It may also be a mapped file, which has the same methods."""

PLAIN: dict[str, Callable[[Buffer], Any]] = {
    TEXT: lambda content: str(content, "utf-8"),
    BYTES: bytes,
    WHOLE: UNPACK,
}
"""Functions that make plain data of a content, by the names of the parts that are plain data."""


class BlobKey(NamedTuple):
    """The key of a content in the blob store: what it is found by, and what it is checked by."""

    digest: bytes
    """BLAKE2b of the content, 32 bytes."""
    size: int
    crc: int
    """CRC-32 of the content: its seal, which is checked when it is read."""
    generation: int = 0
    """Rises when a content is stored again while its blob is about to be swept, so that one digest has two blobs."""

    @property
    def name(self) -> str:
        return self.digest.hex() + (f".{self.generation}" if self.generation else "")


NO_BLOBS: frozenset[BlobKey] = frozenset()


class BlobSource(Protocol):
    """Gives the contents of keys. Its methods block. They raise BlobMissing, BlobCorrupt or BlobsAway."""

    def get(self, key: BlobKey) -> Buffer:
        """Return a whole content, checked. Writing into it changes nothing in the store."""

    def open(self, key: BlobKey) -> BinaryIO:
        """Return a stream over a content."""

    def save(self, key: BlobKey, path: str) -> None:
        """Write a content to a new file. Raises OSError, too."""


class Stored(Encoded):
    """A stored part. Its data is its place: [whether the content is packed, *key].

    On its way out, before its content is in the store, its place is a number (large.py).
    """

    __slots__ = ("content", "source")

    def __init__(self, packed: bytes) -> None:
        super().__init__(packed)
        self.content: Buffer | None = None
        """The content, once it was read for this object."""
        self.source: BlobSource | None = None
        """Where the content can be read later; None in processes that only pass the part on."""
        MET[0] = True

    @classmethod
    def at(cls, codec: str, about: Mapping[str, Any], place: int | list[Any]) -> Stored:
        packed: bytes = msgpack.packb([codec, dict(about), place])
        return cls(packed)

    @classmethod
    def under(cls, key: BlobKey, codec: str, about: Mapping[str, Any], is_packed: bool) -> Stored:
        """`is_packed`: whether the content is plain data in msgpack, and not the very bytes that the codec gave."""
        return cls.at(codec, about, [is_packed, *key])

    @property
    def number(self) -> int | None:
        """The place among the parts of a value that is on its way out; None for any other."""
        return self.data if type(self.data) is int else None

    @property
    def key(self) -> BlobKey:
        """Raises InvalidInput for a part without one, which no honest client sends."""
        if not _is_place(self.data):
            raise InvalidInput(problem=f"a {self.codec} that is in no blob store")
        return BlobKey(*self.data[1:])

    @property
    def is_placed(self) -> bool:
        """Whether it has a key."""
        return _is_place(self.data)

    @property
    def is_packed(self) -> bool:
        return _is_place(self.data) and self.data[0]

    def read_content(self) -> Buffer:
        """Return the content. It blocks if it was not read before. Raises InvalidInput if it cannot be read here."""
        if self.content is not None:
            return self.content
        if self.source is None:
            raise InvalidInput(
                problem=f"a {self.codec} of {self.key.size} bytes is in the blob store, not at hand here"
            )
        return self.source.get(self.key)

    def unpacked(self) -> Any:
        """Return the content as plain data, or as bytes if these are for a codec. It blocks if it was not read before.

        Raises InvalidInput if the content is not what the part says, which no honest client sends.
        """
        content = self.read_content()
        unpack = PLAIN.get(self.codec, UNPACK if self.is_packed else None)
        try:
            return content if unpack is None else unpack(content)
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            raise InvalidInput(problem=f"the content of a {self.codec} cannot be read: {error}") from error

    def described(self) -> dict[str, Any]:
        size = self.data[2] if _is_place(self.data) else 0
        own = {"$type": self.codec, "bytes": size}
        return {**own, **self.about, **own}

    def __repr__(self) -> str:
        about = "".join(f" {name}={value}" for name, value in self.about.items())
        return f"<{self.codec}{about}, {self.described()['bytes']} bytes, stored>"

    def travel(self) -> msgpack.ExtType:
        return msgpack.ExtType(EXTENSION, self.packed)

    def of_any_generation(self) -> Stored:
        """Return the same part for comparisons, to which it does not matter how often its content was stored."""
        key = self.key
        return Stored.under(key._replace(generation=0), self.codec, self.about, self.is_packed)


FORMS[EXTENSION] = Stored
_MOST = (2**63, 2**32, 2**31)
"""Bounds of size, CRC and generation: a journal keeps no larger integers."""


def _is_place(data: object) -> bool:
    if not isinstance(data, list) or len(data) != 5:
        return False
    is_packed, digest, *numbers = data
    is_key = isinstance(digest, bytes) and len(digest) == DIGEST_BYTES
    are_numbers = all(type(n) is int and 0 <= n < most for n, most in zip(numbers, _MOST, strict=True))
    return type(is_packed) is bool and is_key and are_numbers


def stored_in(value: Any) -> Iterator[Stored]:
    """Yield each stored part of a value. Call it only if MET."""
    return (part for part in encoded_in(value) if isinstance(part, Stored))


def keys_in(value: Any) -> frozenset[BlobKey]:
    """Return the keys that a value names."""
    return frozenset(part.key for part in stored_in(value) if part.is_placed) if MET[0] else NO_BLOBS
