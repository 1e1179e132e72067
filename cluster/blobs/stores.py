"""Makes the blob store of an installation."""

from __future__ import annotations

from pathlib import Path

from ...protocols.errors import InvalidSetting
from ...supervisors.ports.blobs import BlobStore
from ..store.address import StoreAddress
from .cached import CachedBlobs, Remote
from .folder import FolderBlobs
from .installation import has_name, installation_of
from .place import BlobPlace, read_place

MIB = 1024 * 1024


def blobs_of(address: StoreAddress) -> BlobStore:
    """Return the blob store of an installation. Raises InvalidSetting if what it needs is not installed."""
    if address.blobs:
        return _at(read_place(address.blobs), address)
    return _cached(_in_database(address), address) if address.url else FolderBlobs(address.path / "blobs")


def blobs_there(address: StoreAddress) -> BlobStore | None:
    """Return the blob store for somebody who only looks; None if the installation has no name in it yet.

    Raises InvalidSetting, or JournalFailed if the database that has the name is away.
    """
    return None if address.blobs and not has_name(address) else blobs_of(address)


def _at(place: BlobPlace, address: StoreAddress) -> BlobStore:
    """Return the store at a URL. What several installations have there lies apart."""
    if place.scheme == "file":
        return FolderBlobs(Path(place.path) / installation_of(address))
    return _cached(_in_bucket(place, address), address)


def _cached(remote: Remote, address: StoreAddress) -> BlobStore:
    return CachedBlobs(remote, address.path / "blob-cache", int(address.blob_cache_mb * MIB))


def _in_bucket(place: BlobPlace, address: StoreAddress) -> Remote:
    try:
        from .objects import ObjectBlobs  # noqa: PLC0415  (obstore is an extra)
    except ImportError as error:
        way = "install podium with the extra `objects`, or pip install obstore"
        raise InvalidSetting(
            name="blobs", source=str(place), problem=f"a bucket needs more: {way} ({error})"
        ) from error
    return ObjectBlobs(place, installation_of(address))


def _in_database(address: StoreAddress) -> Remote:
    from ..store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
    from .postgres import PostgresBlobs  # noqa: PLC0415

    return PostgresBlobs(Database(address.url, address.schema, address.timeout_s))
