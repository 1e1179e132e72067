"""Computes the key of a content while it is written: the digest in one thread, the writing in another."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
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
ALONE_BYTES = 1024 * 1024
"""Size of a piece up to which another thread would cost more than it saves."""


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


class Hashing:
    """The key of what was seen so far.

    The digest of a content of several pieces is the digest of the digests of its pieces, so that many processors can
    work on it. That of a single piece is plain BLAKE2b.
    """

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        """Digests of the pieces that are complete."""
        self._piece, self._filled = _blake(), 0
        self._crc = self._size = 0

    def see(self, view: memoryview) -> None:
        self._digest(view)
        self._seal(view)

    def _seal(self, view: memoryview) -> None:
        self._crc = zlib.crc32(view, self._crc)
        self._size += len(view)

    def _digest(self, view: memoryview) -> None:
        """Digest what follows, piece by piece, in this thread."""
        at = 0
        while at < len(view):
            part = view[at : at + PIECE_BYTES - self._filled]
            self._piece.update(part)
            self._filled += len(part)
            at += len(part)
            if self._filled == PIECE_BYTES:
                self._digests.append(self._piece.digest())
                self._piece, self._filled = _blake(), 0

    def see_and(self, write: Callable[[memoryview], None], content: Buffer) -> None:
        """Digest a content and write it, at the same time if it is large. Returns when both are done."""
        view = flat(content)
        if len(view) <= ALONE_BYTES:
            self.see(view)
            write(view)
            return
        finish = self._begin_aside(view)
        try:
            for each in slices(view):
                write(each)
                self._seal(each)
        finally:
            finish()

    def _begin_aside(self, view: memoryview) -> Callable[[], None]:
        """Begin to digest in other threads; returns the function that waits for the end."""
        begun = 0 if self._filled == 0 else min(len(view), PIECE_BYTES - self._filled)
        whole = begun + (len(view) - begun) // PIECE_BYTES * PIECE_BYTES
        self._digest(view[:begun])
        submit = aside(os.getpid()).submit
        digests = [submit(partial(_digest_of, each)) for each in slices(view[begun:whole], PIECE_BYTES)]

        def finish() -> None:
            self._digests += [cast(bytes, future.result()) for future in digests]
            self._digest(view[whole:])

        return finish

    def key(self) -> BlobKey:
        return BlobKey(self._whole_digest(), self._size, self._crc)

    def _whole_digest(self) -> bytes:
        if self._size <= PIECE_BYTES:
            return self._digests[0] if self._digests else self._piece.digest()
        rest = [self._piece.digest()] if self._filled else []
        return _blake(b"".join([*self._digests, *rest]), person=b"podium pieces").digest()


_blake = partial(hashlib.blake2b, digest_size=DIGEST_BYTES)


def _digest_of(piece: memoryview) -> bytes:
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
