"""Computes the key of a content while it is written: the digest in one thread, the writing in another."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from typing import cast

from ...protocols.errors import BlobCorrupt, InvalidInput
from ...protocols.stored import DIGEST_BYTES, BlobKey, Buffer
from ..threads import Threads

SLICE_BYTES = 4 * 1024 * 1024
"""Size of the slices in which a large piece is hashed and written."""
PIECE_BYTES = 4 * 1024 * 1024
"""Size of the pieces that are digested by themselves. It can never change: keys depend on it."""
AHEAD = 2 * (os.cpu_count() or 1)
"""Most pieces of one content that wait to be digested."""


@cache
def aside(_process: int) -> Threads:
    """Return the threads of a process that digest, and wait for the disk. A forked child has none of its parent's."""
    return Threads("podium-blobs", most=2 * (os.cpu_count() or 1))


def flat(piece: Buffer) -> memoryview:
    """Return the bytes of a piece, without a copy."""
    view = memoryview(piece)
    return view.cast("B") if view.nbytes else memoryview(b"")


def slices(piece: Buffer, size: int = SLICE_BYTES) -> Iterator[memoryview]:
    """Yield a piece in slices that are not copied."""
    view = flat(piece)
    for at in range(0, len(view), size):
        yield view[at : at + size]


def pieces_of(path: str, size: int = SLICE_BYTES) -> Iterator[bytes]:
    """Yield what is in a file of this machine, in pieces. Raises InvalidInput if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(size):
                yield piece
    except OSError as error:
        raise InvalidInput(problem=f"the file '{path}' cannot be read on this machine: {error.strerror}") from error


def bounded(path: str, most_bytes: int) -> Iterator[bytes]:
    """Yield what is in a file. Raises InvalidInput if it cannot be read, or as soon as it is too large."""
    size = 0
    for piece in pieces_of(path):
        size += len(piece)
        if size > most_bytes:
            raise InvalidInput(problem=f"the file '{path}' has more than {most_bytes} bytes, which is the limit")
        yield piece


class Hashing:
    """The key of what was seen so far.

    The digest of a content of several pieces is the digest of the digests of its pieces, so that many processors can
    work on it. That of a single piece is plain BLAKE2b.
    """

    def __init__(self) -> None:
        self._digests: list[bytes | Future[object]] = []
        """Digests of the pieces that are complete. Between two calls none is under way."""
        self._piece, self._filled = _blake(), 0
        self._crc = self._size = 0

    def see(self, view: Buffer) -> None:
        self._digest(view)
        self._seal(view)

    def _seal(self, view: Buffer) -> None:
        self._crc = zlib.crc32(view, self._crc)
        self._size += len(view)

    def _digest(self, content: Buffer) -> None:
        """Digest what follows, piece by piece, in this thread."""
        view, at = flat(content), 0
        while at < len(view):
            part = view[at : at + PIECE_BYTES - self._filled]
            self._piece.update(part)
            self._filled += len(part)
            at += len(part)
            if self._filled == PIECE_BYTES:
                self._digests.append(self._piece.digest())
                self._piece, self._filled = _blake(), 0

    def see_written(self, write: Callable[[memoryview], Buffer], content: Buffer) -> None:
        """Write a content, and digest what was written, at the same time if it is large.

        Args:
            write: writes a piece, and returns what is written now, where nobody changes it: somebody may write into the
                content meanwhile. The key is that of what was written in any case.
        """
        begun = deque[Future[object]]()
        for piece in self._aligned(flat(content)):
            written = write(piece)
            if len(piece) == PIECE_BYTES:
                begun.append(aside(os.getpid()).submit(partial(_digest_of, written)))
                self._digests.append(begun[-1])
            else:
                self._digest(written)
            self._seal(written)
            if len(begun) > AHEAD:
                begun.popleft().result()
        self._digests = [each if isinstance(each, bytes) else cast(bytes, each.result()) for each in self._digests]

    def _aligned(self, view: memoryview) -> Iterator[memoryview]:
        """Yield parts of a view that end where pieces of the content do."""
        rest = min(len(view), -self._size % PIECE_BYTES)
        if rest:
            yield view[:rest]
        yield from slices(view[rest:], PIECE_BYTES)

    def key(self) -> BlobKey:
        return BlobKey(self._whole_digest(), self._size, self._crc)

    def _whole_digest(self) -> bytes:
        digests = [cast(bytes, each) for each in self._digests]
        if self._filled or not digests:
            digests.append(self._piece.digest())
        return digests[0] if len(digests) == 1 else _blake(b"".join(digests), person=b"podium pieces").digest()


_blake = partial(hashlib.blake2b, digest_size=DIGEST_BYTES)


def _digest_of(piece: Buffer) -> bytes:
    return _blake(piece).digest()


def check_name(key: BlobKey, name: str, place: str) -> None:
    """Raise BlobCorrupt unless a name is that of a key, in whatever generation."""
    if name.partition(".")[0] != key.digest.hex():
        raise BlobCorrupt(name=name, place=place, problem="the content is not what its name says")


def crc_of(content: Buffer) -> int:
    crc = 0
    for piece in slices(content):
        crc = zlib.crc32(piece, crc)
    return crc
