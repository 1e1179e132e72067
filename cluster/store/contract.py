"""The interface of a store: it opens the journals of shards, and reads shards without owning them.

`store_of` makes the stores for worlds, sessions and gateways. Nothing else makes a journal or a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ...protocols.outcomes import TaskRecord, TaskStatus
from ...protocols.tree import Wait
from ...protocols.values import Value
from ...supervisors.ports.journal import Journal, ListedWait, Rest

COORDINATOR = "coordinator"
"""The shard that holds the coordinator's notes."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One task, with everything that its shard has about it."""

    shard: str
    record: TaskRecord
    definition: dict[str, Value]
    """The workflow version that the task runs."""
    bodies: list[bytes]
    """The packed events of each entry of the task, in order."""
    stalled: str = ""
    """The reason if the task is set aside, else ""."""


class StoredWait(NamedTuple):
    """An open wait of a task."""

    shard: str
    task_id: str
    workflow: str
    user: str
    """The user whom the task belongs to."""
    node: Wait | None
    """The node that waits; None if its version cannot be read."""
    wait: ListedWait


class BlobUse(NamedTuple):
    """A blob that a task names."""

    shard: str
    task_id: str
    name: str
    size: int


class ShardSize(NamedTuple):
    """The size of a shard, also of one without tasks."""

    shard: str
    tasks: int
    """The number of tasks, or of nested runs if it is the shard of a tier."""
    size_bytes: int


class Reader(Protocol):
    """Reads a store for clients, without owning a shard. Methods without a text are described in sqlite/reading.py."""

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

    def definitions(self) -> list[dict[str, object]]: ...

    def open_count(self, shard: str) -> int: ...

    def rest(self, shard: str) -> Rest: ...

    def waits(
        self, workflow: str | None = None, name: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[StoredWait]: ...

    def blocked(self, workflow: str) -> dict[str, dict[str, str]]: ...

    def blob_uses(self) -> Iterator[BlobUse]:
        """Yield each blob that a task of any shard names. Raises JournalCorrupt or JournalFailed."""

    def sizes(self) -> list[ShardSize]:
        """Return the size of each shard: of its files, or of the values in its rows. Raises JournalCorrupt or
        JournalFailed."""

    def ids(self, start: str, most: int) -> list[str]:
        """Return ids of tasks that begin with `start`, an exact match first, then the newest. Nested runs are left out.

        Of each shard at most `most` are returned.
        """


class Ownership(Protocol):
    """The right to run a cluster on a store. One cluster has it at a time."""

    def take(self) -> None:
        """Take the ownership, or go on having it. Raises DataInUse if another cluster has it. It may block."""

    def release(self) -> None:
        """Let another cluster take it. It may block; it never raises."""


class Store(Protocol):
    """A place where tasks are kept."""

    @property
    def reader(self) -> Reader: ...

    def ownership(self) -> Ownership:
        """Return the ownership for one session. The caller owns the folder of this machine already."""

    def cluster(self) -> dict[str, Any] | None:
        """Return how to join the cluster on many machines that has the store; None if there is none."""

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        """Take a shard over under its next epoch.

        Returns the journal, and a function that releases the shard when its owner is dead. The journal acknowledges
        nothing after that. Raises JournalCorrupt, JournalFailed or DataInUse.
        """
