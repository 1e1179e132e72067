"""The embedded store: one SQLite file for each shard, in a data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ....supervisors.ports.journal import Journal
from ..contract import Reader
from .journal import SqliteJournal
from .reading import FileReader


class FileStore:
    def __init__(self, data: Path) -> None:
        self._data = data
        self.reader: Reader = FileReader(data)

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        journal = SqliteJournal(self._data, shard)
        try:
            await journal.open()
        except BaseException:
            journal.let_go()
            raise
        return journal, journal.let_go
