"""Makes the blob store of an installation."""

from __future__ import annotations

from pathlib import Path

from ...supervisors.ports.blobs import BlobStore
from ..store.address import StoreAddress
from .folder import FolderBlobs


def blobs_of(address: StoreAddress) -> BlobStore:
    """Return the blob store of an installation."""
    return FolderBlobs(Path(address.path) / "blobs")
