"""What a store is: the journals of shards, and reading them without owning them.

A store is made once (`store_of`) and handed to worlds, sessions and gateways. Nobody else builds a journal or a reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...protocols.outcomes import TaskRecord, TaskStatus
from ...protocols.values import Value
from ...supervisors.ports.journal import Journal


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One task with what its shard knows of it."""

    shard: str
    record: TaskRecord
    definition: dict[str, Value]
    """The workflow version that it runs."""
    bodies: list[bytes]
    """Its packed events, in order."""
    stalled: str = ""
    """Why it is set aside, if it is."""


class Reader(Protocol):
    """What clients read of a store without owning it; see reading.py for the meanings."""

    def list_tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[TaskRecord]: ...

    def dead_letters(
        self, workflow: str | None = None, user: str | None = None, limit: int | None = 50
    ) -> list[StoredTask]: ...

    def find_task(self, task_id: str) -> StoredTask | None: ...

    def subtasks(self, task_id: str) -> list[StoredTask]: ...

    def definitions(self) -> list[dict[str, Any]]: ...

    def open_count(self, shard: str) -> int: ...

    def blocked(self, workflow: str) -> dict[str, dict[str, str]]: ...


class Store(Protocol):
    """Where tasks are kept."""

    @property
    def reader(self) -> Reader: ...

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        """Take a shard over under its next epoch.

        Returns the journal, and what lets the shard go when its owner is dead: nothing more is acknowledged then.
        Raises JournalCorrupt, JournalFailed, DataInUse.
        """
