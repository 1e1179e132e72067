"""The contract of a journal: what one shard keeps, and how its owner writes and reads it.

One suite of tests runs over every implementation: tests/test_journal.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...protocols.errors import PodiumError
from ...protocols.outcomes import TaskRecord
from ...protocols.values import Value

WITHDRAWN = "withdrawn:"
"""Begins the names of notes in the coordinator's journal: workflows that were undeployed."""
DISMISSED = "dismissed:"
"""Note of a failed task that is no dead letter any more: the id of its successor, or "" if it was dropped."""
STALLED = "stalled:"
"""Note of an open task that is set aside: why."""
STUCK = "stuck:"
"""Note of an open task that nothing moves although it is not set aside: what is wrong."""
BLOCKED = "blocked:"
"""Begins the note of a protocol of which no host can start until the workflow is deployed again: why."""


@dataclass(slots=True)
class NewTask:
    """Accept a task. The record's status tells whether it starts at once (running) or waits (pending)."""

    record: TaskRecord
    payload_digest: str


@dataclass(slots=True)
class Entry:
    """Add one row of packed events to a task; with `closing`, the task ends with it."""

    task_id: str
    n: int
    """1, 2, 3 … within the task, without gaps."""
    body: bytes
    closing: Closing | None = None


@dataclass(slots=True)
class Closing:
    status: str
    finished_at: float
    result: bytes | None
    trouble: bytes | None
    """Packed: why it failed, or what the result lacks."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The status of an open task has changed."""

    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class Note:
    """A named fact about the shard itself: definitions, children. None deletes it."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a finished task with its entries, and the runs below it (`<task_id>/…`). Nothing there is no error.

    One that is open fails the commit.
    """

    task_id: str


Change = NewTask | Entry | StatusChange | Note | Forget


@dataclass(frozen=True, slots=True)
class OpenTask:
    record: TaskRecord
    bodies: list[bytes]
    """Packed events in order, entry 1 first."""


class Doing(Protocol):
    """What the owner of a shard works on, kept where its death does not reach it."""

    before: str
    """What the last owner was doing when it died, "<task id> <entries>"; "" if it was doing nothing."""

    def begin(self, task_id: str, entry: int) -> None: ...

    def end(self) -> None: ...


class Journal(Protocol):
    """One shard, held by one incarnation under one epoch. Contract tests: tests/test_journal.py."""

    shard: str
    epoch: int

    @property
    def doing(self) -> Doing: ...

    on_failure: Callable[[PodiumError], None]
    """Called once when a commit fails: nothing of it or after it is acknowledged.

    Whether that commit is durable is unknown until the shard is opened again; nothing after it is.
    """

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        """Make all of `changes` durable, together, in the order of the calls; `then` runs when they are.

        What is queued while a commit runs goes into the next one.
        """

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        """Look up tasks by id and by (user, key), after all earlier writes."""

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        """The packed events of one task, after all earlier writes."""

    async def open_tasks(self) -> list[OpenTask]:
        """Every task that has not ended, in the order of acceptance."""

    async def notes(self) -> dict[str, Value]: ...

    async def forgettable(self, before: float, limit: int) -> list[str]:
        """Ids of tasks that finished before that time (UTC), oldest id first, at most `limit`.

        A task whose id follows one that was accepted after `before` may be left out until later.
        """

    async def finished_count(self) -> int:
        """Tasks that have ended and are not forgotten. Reads the whole index of tasks: not for every second."""

    async def close(self) -> None:
        """Write what is queued, then let the shard go."""


@dataclass(frozen=True, slots=True)
class Found:
    record: TaskRecord
    payload_digest: str


async def durable(journal: Journal, changes: Sequence[Change] = ()) -> None:
    """Write, and return when it is durable and this incarnation still owns the shard. If it fails, the actor
    crashes by `on_failure`, and this never returns."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    journal.write(list(changes), lambda: None if done.done() else done.set_result(None))
    await done
