"""Makes the blob store of an installation."""

from __future__ import annotations

from pathlib import Path

from ...supervisors.ports.blobs import BlobStore
from ..store.address import StoreAddress
from .cached import CachedBlobs
from .folder import FolderBlobs

MIB = 1024 * 1024


def blobs_of(address: StoreAddress) -> BlobStore:
    """Return the blob store of an installation. Raises InvalidSetting if what it needs is not installed."""
    if address.blobs.startswith("file://"):
        return FolderBlobs(Path(address.blobs.removeprefix("file://")))
    if not address.url:
        return FolderBlobs(address.path / "blobs")
    from ..store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
    from .postgres import PostgresBlobs  # noqa: PLC0415

    remote = PostgresBlobs(Database(address.url, address.schema, address.timeout_s))
    return CachedBlobs(remote, address.path / "blob-cache", int(address.blob_cache_mb * MIB))
