"""The embedded store: one SQLite file for each shard, in a data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....supervisors.ports.journal import Journal
from ..contract import Ownership, Reader
from ..threaded import opened
from .journal import SqliteJournal
from .reading import FileReader


class FolderOwnership:
    """The ownership of a directory: its lock says it all (see cluster_file.py)."""

    def take(self) -> None:
        """Nothing is left to do."""

    def release(self) -> None:
        """Nothing is left to do."""


class FileStore:
    def __init__(self, data: Path) -> None:
        self._data = data
        self.reader: Reader = FileReader(data)

    def ownership(self) -> Ownership:
        return FolderOwnership()

    def cluster(self) -> dict[str, Any] | None:
        return None

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        return await opened(SqliteJournal(self._data, shard))
