"""Blobs in a folder of another machine of the Ray cluster. Ray carries the contents, as objects of its own.

A host that is not on the machine of the data directory uses this, through a cache on its own machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from ...protocols.errors import BlobsAway
from ...supervisors.ports.blobs import Blob
from ..blobs.cached import CachedBlobs
from ..blobs.folder import FolderBlobs
from ..blobs.hashing import pieces_of
from ..store.address import StoreAddress
from .many_machines import on_node

T = TypeVar("T")
PIECE_BYTES = 32 * 1024 * 1024
"""Size of the objects of Ray that carry a content."""
MIB = 1024 * 1024


def blobs_on(place: StoreAddress) -> CachedBlobs:
    """Return the blob store in the data directory of another machine."""
    remote = NodeBlobs(place.node, str(place.path / "blobs"))
    return CachedBlobs(remote, place.path / "blob-cache", int(place.blob_cache_mb * MIB))


class NodeBlobs:
    """Implements `Remote`. `node` is Ray's id of the machine that has the folder."""

    def __init__(self, node: str, folder: str) -> None:
        self._node, self._folder = node, folder
        self.place = folder

    def _there(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the machine of the folder. Raises its errors, or BlobsAway if it cannot be reached."""
        task = _CALL.options(scheduling_strategy=on_node(self._node))
        try:
            done: T = ray.get(task.remote(work, self._folder, *arguments))
            return done
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), Exception) and not isinstance(cause, RayError):
                raise cause from None
            reason = f"the machine that has it cannot be reached: {str(error).splitlines()[0]}"
            raise BlobsAway(place=self.place, reason=reason) from error

    def size_of(self, name: str) -> int | None:
        return self._there(_size_of, name)

    def is_doomed(self, name: str) -> bool:
        return self._there(_is_doomed, name)

    def upload(self, name: str, path: Path) -> None:
        draft = self._there(_begin)
        for piece in pieces_of(str(path), PIECE_BYTES):
            self._there(_append, draft, ray.put(piece))
        self._there(_adopt, name, draft)

    def download(self, name: str) -> Iterator[bytes]:
        at = 0
        while piece := self._there(_piece, name, at):
            yield piece
            at += len(piece)

    def listing(self) -> Iterator[Blob]:
        return iter(self._there(_listing))

    def doom(self, name: str, at: float) -> None:
        self._there(_doom, name, at)

    def spare(self, name: str) -> None:
        self._there(_spare, name)

    def delete(self, name: str, doomed_at: float) -> None:
        self._there(_delete, name, doomed_at)


# on the machine of the folder


def _call(work: Callable[..., Any], folder: str, *arguments: Any) -> Any:
    return work(FolderBlobs(Path(folder)), *arguments)


_CALL = ray.remote(num_cpus=0, max_retries=0)(_call)


def _size_of(store: FolderBlobs, name: str) -> int | None:
    return store.size_of(name)


def _is_doomed(store: FolderBlobs, name: str) -> bool:
    return store.doomed_path(name).exists()


def _begin(store: FolderBlobs) -> str:
    """Make an empty file among the drafts; returns its path. If it is never adopted, it is dropped like a draft."""
    with store.faults():
        return str(store.new_plain_draft())


def _append(store: FolderBlobs, draft: str, piece: bytes) -> None:
    with store.faults(), Path(draft).open("ab") as file:
        file.write(piece)


def _adopt(store: FolderBlobs, name: str, draft: str) -> None:
    try:
        store.adopt(name, pieces_of(draft))
    finally:
        Path(draft).unlink(missing_ok=True)


def _piece(store: FolderBlobs, name: str, at: int) -> bytes:
    """Return a piece of a content; b"" at its end. Raises BlobMissing."""
    return store.read_at(name, at, PIECE_BYTES)


def _listing(store: FolderBlobs) -> list[Blob]:
    return list(store.listing())


def _doom(store: FolderBlobs, name: str, at: float) -> None:
    store.doom(name, at)


def _spare(store: FolderBlobs, name: str) -> None:
    store.spare(name)


def _delete(store: FolderBlobs, name: str, doomed_at: float) -> None:
    store.delete(name, doomed_at)
