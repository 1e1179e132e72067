"""The contract of a journal: the records of one shard, and how its owner writes and reads them.

One suite of tests runs over every implementation: tests/cluster/store/test_journal.py.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ...protocols.errors import PodiumError
from ...protocols.outcomes import TaskRecord
from ...protocols.stored import NO_BLOBS, BlobKey
from ...protocols.values import Value

WITHDRAWN = "withdrawn:"
"""Prefix of notes in the coordinator's journal about undeployed workflows."""
DISMISSED = "dismissed:"
"""Prefix of notes about failed tasks that are no dead letters any more; value: id of the successor, "" if dropped."""
STALLED = "stalled:"
"""Prefix of notes about open tasks that are set aside; value: the reason."""
STUCK = "stuck:"
"""Prefix of notes about open tasks that nothing moves although they are not set aside; value: the problem."""
BLOCKED = "blocked:"
"""Prefix of notes about protocols of which no host can start until the next deployment; value: the reason."""


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
    blobs: frozenset[BlobKey] = NO_BLOBS
    """The keys of the blobs that the body names. They are in the blob store already."""


@dataclass(slots=True)
class Closing:
    status: str
    finished_at: float
    result: bytes | None
    trouble: bytes | None
    """The failure, or the missing parts of the result; packed."""


@dataclass(frozen=True, slots=True)
class ListedWait:
    """A Wait of an open task, as the inbox lists it."""

    path: str
    name: str
    since: float
    """UTC seconds."""
    until: float | None
    """UTC seconds of its time limit, if it has one."""
    asks: Value
    """Plain data: {"shown", "digest", "answers": number of answers so far}."""


class Rests(NamedTuple):
    """A task rests: nothing of it runs unless somebody answers or cancels it, or its time has come."""

    until: float
    """UTC seconds; `math.inf` if for ever."""
    clock_s: float
    """Seconds by which the clock had been set in all, as its supervisor knows, when `until` was computed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An open task stands otherwise than before.

    What it waits for is derived from its entries. It is stored so that it is found without folding.
    """

    task_id: str
    status: str
    rests: Rests | None = None
    """None if something of the task runs or is to run now."""
    waits: tuple[ListedWait, ...] = ()
    """Waits that have begun, or that stand otherwise."""
    over: tuple[str, ...] = ()
    """Paths of waits that are over."""


@dataclass(frozen=True, slots=True)
class Note:
    """A named fact about the shard itself: definitions, children. None deletes it."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a finished task with its entries, and the runs below it (`<task_id>/…`).

    An unknown task is no error. An open task fails the commit.
    """

    task_id: str


Change = NewTask | Entry | Standing | Note | Forget


class Rest(NamedTuple):
    """The tasks of a shard that rest, and the others."""

    awake: int
    """The number of open tasks that do not rest."""
    first: float | None
    """UTC seconds until which the first rests; None if nobody rests, or all for ever."""


class Resting(NamedTuple):
    """A task that rests."""

    task_id: str
    rests: Rests


@dataclass(frozen=True, slots=True)
class OpenTask:
    record: TaskRecord
    bodies: list[bytes]
    """Packed events in order, entry 1 first."""


FIRST = (-math.inf, "")
"""Before all tasks that rest."""


@dataclass(frozen=True, slots=True)
class RestingTask:
    """A task that rests, with its entries."""

    task: OpenTask
    rests: Rests


class Doing(Protocol):
    """The task that the owner of a shard works on, kept where it survives the owner's death."""

    before: str
    """The work of the last owner when it died, "<task id> <entries>"; "" if it was not at work."""

    def begin(self, task_id: str, entry: int) -> None: ...

    def end(self) -> None: ...


class Journal(Protocol):
    """One shard, held by one incarnation under one epoch. Contract tests: tests/cluster/store/test_journal.py."""

    shard: str
    epoch: int

    @property
    def doing(self) -> Doing: ...

    on_failure: Callable[[PodiumError], None]
    """Called once when a commit fails. Neither this commit nor a later one is acknowledged.

    Whether the failed commit is durable is unknown until the shard is opened again. No later write is durable.
    """

    is_away: bool
    """Whether the store cannot be reached at present. What is written waits."""

    on_long_away: Callable[[], None]
    """Called when the store has been away for as long as one of its statements may take, and again after each further
    such time. Whoever waits for a commit may wait much longer."""

    on_pressure: Callable[[bool], None]
    """Called with True when more than `max_unsaved_bytes` of entries wait to become durable, with False when most of
    them are."""

    max_unsaved_bytes: int

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        """Make all `changes` durable together, in the order of the calls; `then` is called when they are durable.

        Changes that are queued while a commit runs go into the next commit.
        """

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        """Look up tasks by id and by (user, key), after all earlier writes."""

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        """Read the packed events of one task, after all earlier writes."""

    async def open_tasks(self) -> list[OpenTask]:
        """Return every task that has not ended and does not rest, in the order of acceptance."""

    async def resting(self, until: float, limit: int, after: tuple[float, str] = FIRST) -> list[Resting]:
        """Return at most `limit` tasks that rest until `until` (UTC seconds) at most, in the order of that and the id.

        Args:
            after: end and id of a task; the tasks before it and itself are left out.
        """

    def resting_task(self, task_id: str, then: Callable[[RestingTask | None], None]) -> None:
        """Read a task, after all earlier writes; None if it is not there or does not rest."""

    async def resting_counts(self) -> dict[str, int]:
        """Count the tasks that rest, by the hash of their version."""

    async def notes(self) -> dict[str, Value]: ...

    async def forgettable(self, before: float, limit: int) -> list[str]:
        """Return ids of tasks that finished before `before` (UTC seconds), oldest id first, at most `limit`.

        A task whose id follows one that was accepted after `before` may be left out until later.
        """

    async def finished_count(self) -> int:
        """Count the ended tasks in the shard. It reads the whole index of tasks, so do not call it every second."""

    async def close(self) -> None:
        """Write the queued changes, then release the shard."""


@dataclass(frozen=True, slots=True)
class Found:
    record: TaskRecord
    payload_digest: str


async def durable(journal: Journal, changes: Sequence[Change] = ()) -> None:
    """Write changes, and return when they are durable and this incarnation still owns the shard.

    If the commit fails, the actor crashes by `on_failure`, and this function never returns.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    journal.write(list(changes), lambda: None if done.done() else done.set_result(None))
    await done
