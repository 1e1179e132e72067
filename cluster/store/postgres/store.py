"""The store of an installation in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ....supervisors.ports.journal import Journal
from ..contract import Ownership, Reader
from ..threaded import opened
from .connecting import Database
from .journal import PostgresJournal
from .lease import Lease
from .reading import PostgresReader


class PostgresStore:
    """Implements `Store`."""

    def __init__(self, database: Database, folder: Path, lease_s: float) -> None:
        """`folder`: the place on this machine for what need not outlive it; `lease_s`: see lease.py."""
        self._database, self._folder, self._lease_s = database, folder, lease_s
        self.reader: Reader = PostgresReader(database)

    def ownership(self) -> Ownership:
        return Lease(self._database, self._lease_s)

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        return await opened(PostgresJournal(self._database, self._folder / "shards", shard))
