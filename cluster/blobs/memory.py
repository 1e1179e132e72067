"""The blob store in memory, for the simulated cluster. It outlives its writers, and may be out of reach."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...protocols.errors import BlobCorrupt, BlobMissing, BlobsAway
from ...protocols.probes import hit
from ...protocols.stored import BlobKey, Buffer
from ...supervisors.ports.blobs import Blob
from .drafts import committed
from .hashing import Hashing, bounded, check_name, crc_of, flat


@dataclass(slots=True)
class BlobDisk:
    """The contents on a simulated disk."""

    blobs: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Content and time of each blob, by name."""
    doomed: dict[str, float] = field(default_factory=dict)


class MemoryBlobs:
    """Implements `BlobStore` on a simulated disk."""

    place = "memory"

    def __init__(self, disk: BlobDisk, now: Callable[[], float], is_reached: Callable[[], bool] = lambda: True) -> None:
        self._disk, self._now, self._is_reached = disk, now, is_reached

    def check(self) -> None:
        if not self._is_reached():
            raise BlobsAway(place=self.place, reason="it is out of reach")

    def new_draft(self) -> MemoryDraft:
        self.check()
        return MemoryDraft(self)

    def put(self, pieces: Iterable[Buffer]) -> BlobKey:
        return committed(self.new_draft(), pieces)

    def keep(self, key: BlobKey, content: bytes) -> BlobKey:
        self.check()
        while key.name in self._disk.doomed:
            hit("blob stored under another generation")
            key = key._replace(generation=key.generation + 1)
        if self._disk.blobs.get(key.name, (None, 0.0))[0] != content:
            self._disk.blobs[key.name] = content, self._now()
        return key

    def put_file(self, path: str, most_bytes: int) -> BlobKey:
        return self.put(bounded(path, most_bytes))

    def get(self, key: BlobKey) -> Buffer:
        self.check()
        if key.name not in self._disk.blobs:
            raise BlobMissing(name=key.name, place=self.place)
        content, _ = self._disk.blobs[key.name]
        if len(content) != key.size or crc_of(content) != key.crc:
            raise BlobCorrupt(name=key.name, place=self.place, problem="the checksum does not match")
        return bytearray(content)

    def open(self, key: BlobKey) -> BinaryIO:
        return io.BytesIO(self.get(key))

    def save(self, key: BlobKey, path: str) -> None:
        content = self.get(key)
        with Path(path).open("xb") as file:
            file.write(content)

    def renewed(self, key: BlobKey) -> BlobKey:
        content = self.get(key)
        return self.put([content]) if key.name in self._disk.doomed else key

    def read(self, name: str) -> Iterator[Buffer]:
        self.check()
        if name not in self._disk.blobs:
            raise BlobMissing(name=name, place=self.place)
        yield self._disk.blobs[name][0]

    def adopt(self, name: str, pieces: Iterable[Buffer]) -> None:
        self.check()
        content = b"".join(pieces)
        hashing = Hashing()
        hashing.see(memoryview(content))
        check_name(hashing.key(), name, self.place)
        self._disk.blobs.setdefault(name, (content, self._now()))

    def size_of(self, name: str) -> int | None:
        self.check()
        found = self._disk.blobs.get(name)
        return None if found is None else len(found[0])

    def listing(self) -> Iterator[Blob]:
        self.check()
        for name, (content, at) in list(self._disk.blobs.items()):
            yield Blob(name, len(content), at, self._disk.doomed.get(name))

    def doom(self, name: str, at: float) -> None:
        self.check()
        self._disk.doomed[name] = at

    def spare(self, name: str) -> None:
        self.check()
        self._disk.doomed.pop(name, None)

    def delete(self, name: str, doomed_at: float) -> None:
        self.check()
        if self._disk.doomed.get(name) == doomed_at:
            self._disk.blobs.pop(name, None)
            del self._disk.doomed[name]

    def drop_drafts(self, before: float) -> int:
        """Do nothing: drafts die with their writers here."""
        return 0


class MemoryDraft:
    """Implements `Draft`."""

    is_broken = False

    def __init__(self, store: MemoryBlobs) -> None:
        self._store, self._hashing, self._content = store, Hashing(), bytearray()

    def write(self, piece: Buffer) -> None:
        self._store.check()
        self._hashing.see(flat(piece))
        self._content += piece

    def commit(self) -> BlobKey:
        return self._store.keep(self._hashing.key(), bytes(self._content))

    def abandon(self) -> None:
        self._content.clear()
