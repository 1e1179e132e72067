"""A journal that commits in a thread of its own, many changes at a time. Each store says how a batch is committed.

Commits are grouped: changes that arrive while a commit runs go into the next one. When a commit fails, nothing of it is
acknowledged. The next opening finds out whether it is durable.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

from ...protocols.errors import JournalFailed, PodiumError
from ...protocols.values import Value
from ...supervisors.faults import shielded
from ...supervisors.ports.journal import FIRST, Change, Doing, Entry, Found, Journal, OpenTask, Resting, RestingTask

T = TypeVar("T")

LOG = logging.getLogger("podium")

INLINE_CHANGES = 4
"""Largest number of changes and queries in a commit that is made on the event loop."""
READY_CHANGES = 128
"""Number of queued changes and queries that go to the thread at once, while the event loop brings more."""
INLINE_S = 0.001
"""Longest duration of the last commit after which the next may be made on the event loop, in seconds."""
MAX_UNSAVED_BYTES = 64 * 1024 * 1024
"""Default size of the entries that may wait before `on_pressure` is called."""
RELIEVED_SHARE = 0.5
"""Share of that size below which the pressure is over."""
SLOW_COMMIT_S = 1.0
"""Duration in seconds above which a commit is logged as slow."""
WARN_EVERY_S = 60.0
"""Shortest time between two warnings of slow commits, in seconds."""


class Query(Generic[T]):
    """A question about the shard, whose answer is a T."""


@dataclass(frozen=True, slots=True)
class Find(Query[list[Found]]):
    """Asks for tasks by id and by (user, key)."""

    ids: list[str]
    keys: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bodies(Query[list[bytes]]):
    """Asks for the packed events of one task."""

    task_id: str


@dataclass(frozen=True, slots=True)
class OpenTasks(Query[list[OpenTask]]):
    """Asks for every task that has not ended."""


@dataclass(frozen=True, slots=True)
class Notes(Query[dict[str, Value]]):
    """Asks for all notes."""


@dataclass(frozen=True, slots=True)
class Forgettable(Query[list[str]]):
    """Asks for ids of tasks that finished before `before`, in UTC seconds."""

    before: float
    limit: int


@dataclass(frozen=True, slots=True)
class FinishedCount(Query[int]):
    """Asks for the number of ended tasks."""


@dataclass(frozen=True, slots=True)
class RestingTasks(Query[list[Resting]]):
    """Asks for the tasks that rest until `until`, in UTC seconds, at most."""

    until: float
    limit: int
    after: tuple[float, str]


@dataclass(frozen=True, slots=True)
class OneResting(Query[RestingTask | None]):
    """Asks for one task, if it rests."""

    task_id: str


@dataclass(frozen=True, slots=True)
class RestingCounts(Query[dict[str, int]]):
    """Asks for the number of tasks that rest, by the hash of their version."""


AnyQuery: TypeAlias = (
    Find | Bodies | OpenTasks | Notes | Forgettable | FinishedCount | RestingTasks | OneResting | RestingCounts
)
Answer: TypeAlias = Callable[[], object]
"""Called on the event loop when a batch is durable."""


class Work:
    """One call of the journal: changes to write, or a query to answer, and the callback."""

    __slots__ = ("bytes", "changes", "heavy", "query", "then")

    def __init__(
        self, changes: list[Change], query: AnyQuery | None, then: Callable[..., object] | None, heavy: bool = False
    ) -> None:
        """`heavy`: the query may take long, and its error fails only the query, not the journal."""
        self.changes, self.query, self.then, self.heavy = changes, query, then, heavy
        self.bytes = 0
        """Size of the entries that it writes."""


class ThreadedJournal(ABC):
    """Implements `Journal`. All public methods are called on one event loop.

    A thread of its own uses the store, so that a slow disk does not stop the loop. While that thread is idle and
    commits are quick, a store of this machine may have small commits made on the loop, because two changes of thread
    would cost more than the commit.
    """

    doing: Doing
    is_quick = False
    """Whether small commits may be made on the event loop."""
    slowness = "slow store"
    """Name of the cause of slow commits, for the log."""

    def __init__(self, shard: str) -> None:
        self.shard, self.epoch = shard, 0
        self.on_failure: Callable[[PodiumError], None] = lambda _error: None
        self.on_pressure: Callable[[bool], None] = lambda _is_high: None
        self.on_long_away: Callable[[], None] = lambda: None
        self.is_away = False
        self.max_unsaved_bytes = MAX_UNSAVED_BYTES
        self._unsaved_bytes = 0
        self._is_high = False
        """Whether `on_pressure` was last called with True."""
        self._clock = time.monotonic
        self._loop = asyncio.get_running_loop()
        self._batch: list[Work] = []
        self._size = 0
        """Number of changes and queries in the batch."""
        self._handed: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._under_way = 0
        """Number of batches that the thread has and that are not acknowledged."""
        self._last_s = 0.0
        """Duration of the last commit, in seconds."""
        self._warn_after: float | None = None
        self._thread: threading.Thread | None = None
        self._failed: PodiumError | None = None
        self._reads: set[asyncio.Future[Any]] = set()

    # what a store says; in the thread

    @abstractmethod
    def _lock(self) -> None:
        """Make sure that nobody else writes the shard, check it or create it, and connect to it."""

    @abstractmethod
    def _take_over(self) -> None:
        """Take the shard's next epoch, durably, and set `epoch` and `doing`."""

    @abstractmethod
    def _commit(self, batch: list[Work]) -> list[Answer]:
        """Commit the whole batch in one transaction; returns the callbacks for when it is durable.

        A query sees the changes before it in the batch.
        """

    @abstractmethod
    def _end(self) -> None:
        """Finish in order, after the last commit. It is not called when a commit has failed."""

    @abstractmethod
    def _close(self) -> None:
        """Disconnect and let others take the shard. Called once, whether `_lock` came to its end or not."""

    @abstractmethod
    def _as_ours(self, error: Exception) -> PodiumError:
        """Return any error of the store as JournalCorrupt, JournalFailed, Fenced or DataInUse."""

    # on the loop

    async def open(self) -> Self:
        """Lock the shard, check or create it, and take the next epoch.

        Raises:
            DataInUse: another process holds the shard. JournalCorrupt: it is damaged; nothing was changed.
            JournalFailed: the store refuses; says where and why.
        """
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work_off, args=(opened,), name=f"journal-{self.shard}", daemon=True
        )
        self._thread.start()
        await opened
        return self

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        work = Work(changes, None, then)
        for change in changes:
            if type(change) is Entry:
                work.bytes += len(change.body)
        if work.bytes:
            self._press(work.bytes)
        self._add(work)

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        self._add(Work([], Find(ids, keys), then))

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        self._add(Work([], Bodies(task_id), then))

    async def open_tasks(self) -> list[OpenTask]:
        return await self._read(OpenTasks())

    async def resting(self, until: float, limit: int, after: tuple[float, str] = FIRST) -> list[Resting]:
        return await self._read(RestingTasks(until, limit, after))

    def resting_task(self, task_id: str, then: Callable[[RestingTask | None], None]) -> None:
        self._add(Work([], OneResting(task_id), then))

    async def resting_counts(self) -> dict[str, int]:
        return await self._read(RestingCounts())

    async def notes(self) -> dict[str, Value]:
        return await self._read(Notes())

    async def forgettable(self, before: float, limit: int) -> list[str]:
        return await self._read(Forgettable(before, limit))

    async def finished_count(self) -> int:
        return await self._read(FinishedCount())

    async def close(self) -> None:
        if self._thread is None:
            return
        self._hand_over()
        self._handed.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._thread = None

    def let_go(self) -> None:
        """Acknowledge nothing more, and release the shard as soon as the thread is free. For a dead actor."""
        if self._failed is None:
            self._stop_with(JournalFailed(shard=self.shard, reason="its actor is gone"))

    async def _read(self, query: Query[T]) -> T:
        """Answer a query that may take long, always in the thread. An error fails only the query, not the journal."""
        if self._failed is not None:
            raise self._failed
        answer: asyncio.Future[T] = self._loop.create_future()
        self._reads.add(answer)
        answer.add_done_callback(self._reads.discard)
        self._add(Work([], cast(AnyQuery, query), partial(_settle, answer), heavy=True))
        return await answer

    def _add(self, work: Work) -> None:
        if self._failed is not None:
            return
        if not self._batch:
            self._loop.call_soon(self._hand_over)
        self._batch.append(work)
        self._size += len(work.changes) or 1
        if self._size >= READY_CHANGES:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        size, self._size = self._size, 0
        if not batch:
            return
        small = self.is_quick and size <= INLINE_CHANGES and not any(work.heavy for work in batch)
        if self._under_way == 0 and small and self._last_s <= INLINE_S:
            self._commit_here(batch)
        else:
            self._under_way += 1
            self._handed.put(batch)

    def _commit_here(self, batch: list[Work]) -> None:
        began = self._clock()
        try:
            answers = self._commit(batch)
        except Exception as error:
            self._fail(self._as_ours(error))
            return
        self._acknowledge(0, sum(work.bytes for work in batch), self._clock() - began, answers)

    def _press(self, more_bytes: int) -> None:
        """Count entries that wait or, if negative, do not wait any more; tell the owner when they are many."""
        self._unsaved_bytes += more_bytes
        share = self._unsaved_bytes / self.max_unsaved_bytes
        if (share > 1 and not self._is_high) or (share < RELIEVED_SHARE and self._is_high):
            self._is_high = not self._is_high
            self.on_pressure(self._is_high)

    def _acknowledge(self, batches: int, saved_bytes: int, seconds: float, answers: list[Answer]) -> None:
        self._under_way -= batches
        if saved_bytes:
            self._press(-saved_bytes)
        self._last_s = seconds
        if seconds > SLOW_COMMIT_S:
            self._warn(seconds)
        for answer in answers:
            if self._failed is None:
                shielded(f"what follows a commit of shard '{self.shard}'", answer)

    def _warn(self, seconds: float) -> None:
        now = self._clock()
        if self._warn_after is None or now >= self._warn_after:
            self._warn_after = now + WARN_EVERY_S
            LOG.warning("%s: a commit of shard '%s' took %.1f s", self.slowness, self.shard, seconds)

    # in the thread

    def _work_off(self, opened: asyncio.Future[None]) -> None:
        try:
            self._own(opened)
        finally:
            self._close()

    def _own(self, opened: asyncio.Future[None]) -> None:
        try:
            self._lock()
            self._take_over()
        except Exception as error:
            self._call_back(_settle, opened, (None, self._as_ours(error)))
            return
        self._call_back(_settle, opened, (None, None))
        try:
            self._commit_loop()
            self._end()
        except Exception as error:
            self._call_back(self._fail, self._as_ours(error))

    def _commit_loop(self) -> None:
        while True:
            batch = self._handed.get()
            if batch is None:
                return
            batches = 1
            while not self._handed.empty():
                more = self._handed.get()
                if more is None:
                    self._handed.put(None)
                    break
                batch = batch + more
                batches += 1
            began = self._clock()
            answers = self._commit(batch)
            saved = sum(work.bytes for work in batch)
            self._call_back(self._acknowledge, batches, saved, self._clock() - began, answers)

    def _answered(self, work: Work, answer: Callable[[AnyQuery], object]) -> list[Answer]:
        """Answer the query of a work; returns the callback. An error of a heavy query is its answer."""
        assert work.query is not None
        if work.heavy:
            return [partial(work.then, self._attempted(work.query, answer))] if work.then else []
        value = answer(work.query)
        return [partial(work.then, value)] if work.then else []

    def _attempted(self, query: AnyQuery, answer: Callable[[AnyQuery], object]) -> tuple[object, PodiumError | None]:
        try:
            return answer(query), None
        except Exception as error:
            return None, self._as_ours(error)

    def _call_back(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return  # the loop is closed: nobody is left to be told

    # on the loop again

    def _fail(self, error: PodiumError) -> None:
        if self._failed is None:
            self._stop_with(error)
            self.on_failure(error)

    def _stop_with(self, error: PodiumError) -> None:
        self._failed = error
        self._batch = []
        self._handed.put(None)
        for answer in list(self._reads):
            _settle(answer, (None, error))


async def opened(journal: ThreadedJournal) -> tuple[Journal, Callable[[], None]]:
    """Open a journal; returns it, and the function that releases its shard (see `Store.open_journal`)."""
    try:
        await journal.open()
    except BaseException:
        journal.let_go()
        raise
    return journal, journal.let_go


def _settle(future: asyncio.Future[T], answer: tuple[T, PodiumError | None]) -> None:
    value, error = answer
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
