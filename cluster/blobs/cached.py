"""A blob store that is not on this machine, with a cache in a folder that is.

What is put or read goes through a file of the cache. So a content that one step puts, and the next one on this machine
reads, is not sent back, and is mapped as in a folder store. The cache may be lost at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from ...protocols.errors import BlobCorrupt, BlobMissing
from ...protocols.probes import hit
from ...protocols.stored import BlobKey, Buffer
from ...supervisors.ports.blobs import Blob
from .drafts import committed, filled
from .folder import FolderBlobs, FolderDraft
from .hashing import bounded, check_name

T = TypeVar("T")
FETCHES = 3
"""Times that a content is fetched for one reading: another process may drop it from a small cache meanwhile."""
EVICT_EVERY_SHARE = 0.1
"""Share of the cache that is written between two looks at its size."""


class Remote(Protocol):
    """A store on another machine. All methods block, and raise BlobsAway if it cannot be used at present."""

    place: str
    """Name of the store for messages, without passwords."""

    def size_of(self, name: str) -> int | None:
        """Return the size of a blob; None if it is not there."""

    def is_doomed(self, name: str) -> bool: ...

    def upload(self, name: str, path: Path) -> None:
        """Store the content of a file, durably. A reader never sees a part of it. It may be there already."""

    def download(self, name: str) -> Iterator[bytes]:
        """Yield a content in pieces. Raises BlobMissing."""

    def listing(self) -> Iterator[Blob]: ...

    def doom(self, name: str, at: float) -> None: ...

    def spare(self, name: str) -> None: ...

    def delete(self, name: str, doomed_at: float) -> None:
        """Delete a blob that is doomed since then, then its mark of doom. No error if it is not."""


class CachedBlobs:
    """Implements `BlobStore`."""

    def __init__(self, remote: Remote, folder: Path, most_bytes: int) -> None:
        """`folder`: that of the cache. `most_bytes`: its size; a content that is larger is there for a while, too."""
        self.remote, self.cache = remote, FolderBlobs(folder, is_durable=False)
        self._most_bytes, self._written = most_bytes, 0

    @property
    def place(self) -> str:
        return self.remote.place

    def new_draft(self) -> CachedDraft:
        return CachedDraft(self)

    def put(self, pieces: Iterable[Buffer]) -> BlobKey:
        return committed(self.new_draft(), pieces)

    def put_file(self, path: str, most_bytes: int) -> BlobKey:
        return self.put(bounded(path, most_bytes))

    def get(self, key: BlobKey) -> Buffer:
        return self._cached(self.cache.get, key)

    def open(self, key: BlobKey) -> BinaryIO:
        return self._cached(self.cache.open, key)

    def save(self, key: BlobKey, path: str) -> None:
        self._cached(lambda key: self.cache.save(key, path), key)

    def _cached(self, read: Callable[[BlobKey], T], key: BlobKey) -> T:
        """Read from the cache. What is not in it, or damaged there, is fetched first."""
        for _ in range(FETCHES):
            try:
                return read(key)
            except (BlobMissing, BlobCorrupt):
                self.cache.path(key.name).unlink(missing_ok=True)
                self._fetch(key)
        return read(key)

    def _fetch(self, key: BlobKey) -> None:
        with filled(self.cache.new_draft(), self.remote.download(key.name)) as draft:
            check_name(draft.key(), key.name, self.place)
            draft.move_to(self.cache.path(key.name))
        self.wrote(key.size)

    def wrote(self, size: int) -> None:
        """Note that the cache has grown; now and then, drop what was not used for the longest time."""
        self._written += size
        if self._written < EVICT_EVERY_SHARE * self._most_bytes:
            return
        self._written = 0
        used = sorted(self._files(), reverse=True)  # the last used first
        total = 0
        for _, size_bytes, path in used:
            total += size_bytes
            if total > self._most_bytes:
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for blob in self.cache.listing():
            path = self.cache.path(blob.name)
            with suppress(OSError):
                yield path.stat().st_atime, blob.size, path

    def renewed(self, key: BlobKey) -> BlobKey:
        if self.remote.size_of(key.name) is None:
            raise BlobMissing(name=key.name, place=self.place)
        return self.put([self.get(key)]) if self.remote.is_doomed(key.name) else key

    def read(self, name: str) -> Iterator[Buffer]:
        return self.remote.download(name)

    def adopt(self, name: str, pieces: Iterable[Buffer]) -> None:
        with filled(self.cache.new_draft(), pieces) as draft:
            check_name(draft.key(), name, self.place)
            if self.remote.size_of(name) is None:
                self.remote.upload(name, draft.path)

    def size_of(self, name: str) -> int | None:
        return self.remote.size_of(name)

    def listing(self) -> Iterator[Blob]:
        return self.remote.listing()

    def doom(self, name: str, at: float) -> None:
        self.remote.doom(name, at)

    def spare(self, name: str) -> None:
        self.remote.spare(name)

    def delete(self, name: str, doomed_at: float) -> None:
        self.remote.delete(name, doomed_at)
        with suppress(OSError):
            self.cache.path(name).unlink()

    def drop_drafts(self, before: float) -> int:
        return self.cache.drop_drafts(before)


class CachedDraft:
    """Implements `Draft`: a file of the cache, until it is sent."""

    def __init__(self, store: CachedBlobs) -> None:
        self._store, self._local = store, store.cache.new_draft()

    @property
    def is_broken(self) -> bool:
        return self._local.is_broken

    def write(self, piece: Buffer) -> None:
        self._local.write(piece)

    def commit(self) -> BlobKey:
        remote, key = self._store.remote, self._local.key()
        while remote.is_doomed(key.name):
            hit("blob stored under another generation")
            key = key._replace(generation=key.generation + 1)
        if remote.size_of(key.name) != key.size:
            remote.upload(key.name, self._local.path)
        self._keep(self._local, key)
        return key

    def _keep(self, local: FolderDraft, key: BlobKey) -> None:
        """Move the file into the cache. That it cannot be cached is no error: it is stored."""
        with suppress(OSError):
            local.move_to(self._store.cache.path(key.name))
            self._store.wrote(key.size)
        local.abandon()

    def abandon(self) -> None:
        self._local.abandon()
