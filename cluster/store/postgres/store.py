"""The store of an installation in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....supervisors.ports.journal import Journal
from ..contract import Ownership, Reader
from ..threaded import opened
from .connecting import Database, translated
from .journal import PostgresJournal
from .lease import Lease, is_shared
from .machines import Machines, name_of
from .reading import PostgresReader
from .schema import FORMAT
from .tables import format_of


class PostgresStore:
    """Implements `Store`."""

    def __init__(self, database: Database, folder: Path, lease_s: float) -> None:
        """`folder`: the place on this machine for what need not outlive it; `lease_s`: see lease.py."""
        self._database, self._folder, self._lease_s = database, folder, lease_s
        self.reader: Reader = PostgresReader(database)

    def ownership(self) -> Ownership:
        return Lease(self._database, self._lease_s)

    def cluster(self) -> dict[str, Any] | None:
        machines = Machines(self._database)
        with translated("*", self._database), self._database.connect() as db:
            if format_of(db, self._database) != FORMAT:
                return None
            claim = machines.claim(db)
            if claim is None or not claim.is_alive or not is_shared(claim):
                return None
            facts = {name: value for name, value in claim.facts.items() if name != "setup"}
            listed = [
                {"host": name_of(each.host), "node": each.node, "home": each.id == claim.home, "lease_s": each.left_s}
                for each in machines.listed(db)
            ]
        return {**facts, "host": name_of(claim.host), "machines": listed}

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        return await opened(PostgresJournal(self._database, shards_folder(self._folder), shard))


def shards_folder(folder: Path) -> Path:
    """Return the place, in the folder of an installation on this machine, for what need not outlive it."""
    return folder / "shards"
