"""Computes the key of a content while it is written: the digest in one thread, the writing in another."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from ...protocols.errors import InvalidInput
from ...protocols.stored import DIGEST_BYTES, BlobKey, Buffer
from ..threads import Threads

SLICE_BYTES = 4 * 1024 * 1024
"""Size of the slices in which a large piece is hashed and written."""
_ASIDE = Threads("podium-hash")


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


class Hashing:
    """The key of what was seen so far."""

    def __init__(self) -> None:
        self._blake = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._crc = self._size = 0

    def see(self, piece: memoryview) -> None:
        self._blake.update(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self._size += len(piece)

    def _see_all(self, view: memoryview) -> None:
        for each in slices(view):
            self.see(each)

    def see_and(self, write: Callable[[memoryview], None], piece: Buffer) -> None:
        """Hash a piece and write it at the same time. Returns when both are done."""
        view = flat(piece)
        if len(view) <= SLICE_BYTES // 4:  # another thread would cost more than it saves
            self.see(view)
            write(view)
            return
        hashed: list[Future[object]] = []
        try:
            hashed.append(_ASIDE.submit(lambda: self._see_all(view)))
            for each in slices(view):
                write(each)
        finally:
            for future in hashed:
                future.result()

    def key(self) -> BlobKey:
        return BlobKey(self._blake.digest(), self._size, self._crc)


def crc_of(content: Buffer) -> int:
    crc = 0
    for piece in slices(content):
        crc = zlib.crc32(piece, crc)
    return crc
