"""Makes the store of an installation."""

from __future__ import annotations

from ...protocols.errors import InvalidSetting
from .address import StoreAddress
from .contract import Store
from .sqlite.store import FileStore


def store_of(address: StoreAddress) -> Store:
    """Return the store at an address. Raises InvalidSetting if the driver of the database is not installed."""
    return _in_database(address) if address.url else FileStore(address.path)


def _in_database(address: StoreAddress) -> Store:
    try:
        from .postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
        from .postgres.store import PostgresStore  # noqa: PLC0415
    except ImportError as error:
        way = "install podium with the extra `postgres`, or pip install 'psycopg[binary]'"
        problem = f"a database needs more: {way} ({error})"
        raise InvalidSetting(name="data", source=address.place, problem=problem) from error
    database = Database(address.url, address.schema, address.timeout_s)
    return PostgresStore(database, address.path, address.lease_s)
