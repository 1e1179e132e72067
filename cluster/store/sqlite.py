"""The embedded journal: one SQLite file per shard, written by one thread of one process.

With `journal_mode=WAL` and `synchronous=FULL`, a commit is on disk when it returns. Commits are grouped: changes that
arrive while a commit runs go into the next one. Opening takes the shard's next epoch in a transaction. Every commit
checks that epoch while it counts itself, so an incarnation that was replaced is refused. A lock file keeps a second
writing process out (SQLite 3.7.0 to 3.51.2 can damage a WAL that two connections write or checkpoint).

Every row has a seal (rows.py), acknowledged commits are counted in a mark (mark.py), and the file is checked when it is
opened (opening.py). Each of these raises JournalCorrupt if something does not match. When a commit fails, nothing of it
is acknowledged. The next opening finds out whether it is durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from ...protocols.errors import Fenced, JournalCorrupt, JournalFailed, PodiumError
from ...protocols.values import Value
from ...supervisors.faults import shielded
from ...supervisors.ports.journal import Change, Found, OpenTask
from . import lock
from .doing import Doing
from .faults import UNREADABLE, as_ours
from .mark import Mark
from .opening import check_file, open_file, take_epoch
from .rows import NOTE_SELECT, TASK_SELECT, Row, entries_of, found_row, note_of, open_task_rows, seal
from .schema import doing_path, lock_path, shard_path
from .writing import finished_count, forgettable, write_changes

T = TypeVar("T")

LOG = logging.getLogger("podium")

INLINE_CHANGES = 4
"""Largest number of changes and queries in a commit that is made on the event loop."""
READY_CHANGES = 128
"""Number of queued changes and queries that go to the thread at once, while the event loop brings more."""
INLINE_S = 0.001
"""Longest duration of the last commit after which the next may be made on the event loop, in seconds."""
SLOW_COMMIT_S = 1.0
"""Duration in seconds above which a commit is logged as slow."""
WARN_EVERY_S = 60.0
"""Shortest time between two warnings of slow commits, in seconds."""


class SqliteJournal:
    """Implements `Journal`. All methods are called on one event loop.

    A thread of its own uses the file, so that a slow disk does not stop the loop. While that thread is idle and commits
    are quick, small commits are made on the loop, because two changes of thread would cost more than the commit.
    """

    def __init__(
        self, data: Path, shard: str, lock_wait_s: float = 3.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`lock_wait_s`: time that a predecessor has to die, in seconds; `clock` measures commits, in seconds."""
        self.shard, self.epoch = shard, 0
        self.on_failure: Callable[[PodiumError], None] = lambda _error: None
        self._path = shard_path(data, shard)
        self._lock_wait_s = lock_wait_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._batch: list[_Work] = []
        self._size = 0
        """Number of changes and queries in the batch."""
        self._handed: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._under_way = 0
        """Number of batches that the thread has and that are not acknowledged."""
        self._last_s = 0.0
        """Duration of the last commit, in seconds."""
        self._warn_after: float | None = None
        self._commits = 0
        """Number of the shard's commits over all epochs."""
        self._db: sqlite3.Connection
        self._mark: Mark
        self.doing: Doing
        self._thread: threading.Thread | None = None
        self._failed: PodiumError | None = None
        self._reads: set[asyncio.Future[Any]] = set()

    async def open(self) -> SqliteJournal:
        """Lock the shard, check or create the file, and take the next epoch.

        Raises:
            DataInUse: another process holds the shard. JournalCorrupt: it is damaged; nothing was changed.
            JournalFailed: the file system refuses; names the path.
        """
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work_off, args=(opened,), name=f"journal-{self.shard}", daemon=True
        )
        self._thread.start()
        await opened
        return self

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        self._add(_Work(changes, None, then))

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        self._add(_Work([], partial(_find, self.shard, ids, keys), then))

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        self._add(_Work([], lambda db: entries_of(self.shard, db, task_id), then))

    async def open_tasks(self) -> list[OpenTask]:
        return await self._read(partial(open_task_rows, self.shard))

    async def notes(self) -> dict[str, Value]:
        return await self._read(partial(_notes, self.shard))

    async def forgettable(self, before: float, limit: int) -> list[str]:
        return await self._read(partial(forgettable, before=before, limit=limit))

    async def finished_count(self) -> int:
        return await self._read(finished_count)

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

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Answer a query that may take long, always in the thread. An error fails only the query, not the journal."""
        if self._failed is not None:
            raise self._failed
        answer: asyncio.Future[T] = self._loop.create_future()
        self._reads.add(answer)
        answer.add_done_callback(self._reads.discard)

        def guarded(db: sqlite3.Connection) -> object:
            try:
                return query(db), None
            except (PodiumError, *UNREADABLE) as error:
                return None, as_ours(self.shard, self._path, error)

        self._add(_Work([], guarded, partial(_settle, answer), heavy=True))
        return await answer

    def _add(self, work: _Work) -> None:
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
        small = size <= INLINE_CHANGES and not any(work.heavy for work in batch)
        if self._under_way == 0 and small and self._last_s <= INLINE_S:
            self._commit_here(batch)
        else:
            self._under_way += 1
            self._handed.put(batch)

    def _commit_here(self, batch: list[_Work]) -> None:
        began = self._clock()
        try:
            answers = self._commit(self._db, batch)
        except Exception as error:
            self._fail(as_ours(self.shard, self._path, error))
            return
        self._acknowledge(0, self._clock() - began, answers)

    def _acknowledge(self, batches: int, seconds: float, answers: list[Callable[[], object]]) -> None:
        self._under_way -= batches
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
            LOG.warning("slow disk: a commit of shard '%s' took %.1f s", self.shard, seconds)

    # in the thread

    def _work_off(self, opened: asyncio.Future[None]) -> None:
        held: int | None = None
        try:
            held = lock.take(lock_path(self._path), f"shard '{self.shard}'", self._lock_wait_s)
            check_file(self._path, self.shard)
            self._db = open_file(self._path, self.shard)
        except Exception as error:
            if held is not None:
                os.close(held)
            self._call_back(_settle, opened, (None, as_ours(self.shard, self._path, error)))
            return
        try:
            self._own(opened)
        finally:
            self._db.close()
            os.close(held)

    def _own(self, opened: asyncio.Future[None]) -> None:
        try:
            count, self._mark = take_epoch(self._db, self._path, self.shard)
            self.epoch, self._commits = count.epoch, count.commits
            self.doing = Doing(doing_path(self._path))
        except Exception as error:
            self._call_back(_settle, opened, (None, as_ours(self.shard, self._path, error)))
            return
        self._call_back(_settle, opened, (None, None))
        try:
            self._commit_loop(self._db)
            self._mark.sync()
        except Exception as error:
            self._call_back(self._fail, as_ours(self.shard, self._path, error))
        finally:
            self._mark.close()

    def _commit_loop(self, db: sqlite3.Connection) -> None:
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
            answers = self._commit(db, batch)
            self._call_back(self._acknowledge, batches, self._clock() - began, answers)

    def _commit(self, db: sqlite3.Connection, batch: list[_Work]) -> list[Callable[[], object]]:
        """Commit the whole batch in one transaction; returns the callbacks for when it is durable."""
        answers: list[Callable[[], object]] = []
        writes = any(work.changes for work in batch)
        db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            if writes:
                self._count(db)
            else:
                self._check_epoch(db)
            _write_all(db, self.epoch, batch, answers)
            self._make_durable(db)
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if writes:
            self._commits += 1
            self._mark.write(self.epoch, self._commits)
        return answers

    def _make_durable(self, db: sqlite3.Connection) -> None:
        db.execute("COMMIT")

    def _count(self, db: sqlite3.Connection) -> None:
        """Count this commit, and check in the same statement that the shard is still ours. Raises Fenced if not."""
        commits = self._commits + 1
        ours = (commits, seal(self.epoch, commits), self.epoch, self._commits)
        if db.execute("UPDATE shard SET commits = ?, seal = ? WHERE epoch = ? AND commits = ?", ours).rowcount != 1:
            self._check_epoch(db)
            raise JournalCorrupt(shard=self.shard, place="the shard's own row", problem="changed beneath its owner")

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        for (epoch,) in db.execute("SELECT epoch FROM shard"):
            if epoch != self.epoch:
                raise Fenced(shard=self.shard, epoch=self.epoch, newer=epoch)

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


class _Work:
    """One call of the journal: changes to write, or a query to answer, and the callback."""

    __slots__ = ("changes", "heavy", "query", "then")

    def __init__(
        self,
        changes: list[Change],
        query: Callable[[sqlite3.Connection], object] | None,
        then: Callable[..., object] | None,
        heavy: bool = False,
    ) -> None:
        self.changes, self.query, self.then, self.heavy = changes, query, then, heavy


def _settle(future: asyncio.Future[Any], answer: tuple[object, PodiumError | None]) -> None:
    value, error = answer
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _write_all(db: sqlite3.Connection, epoch: int, batch: list[_Work], answers: list[Callable[[], object]]) -> None:
    """Write the changes and answer the queries of a batch. A query sees the changes before it."""
    changes: list[Change] = []
    for work in batch:
        changes += work.changes
        if work.query is not None:
            write_changes(db, epoch, changes)
            changes = []
            if work.then is not None:
                answers.append(partial(work.then, work.query(db)))
        elif work.then is not None:
            answers.append(work.then)
    write_changes(db, epoch, changes)


def _find(shard: str, ids: list[str], keys: list[tuple[str, str]], db: sqlite3.Connection) -> list[Found]:
    rows: list[Row] = []
    for id in ids:
        rows += db.execute(f"{TASK_SELECT} WHERE id = ?", (id,))
    for user, key in keys:
        rows += db.execute(f"{TASK_SELECT} WHERE user = ? AND key = ?", (user, key))
    return [found_row(shard, row) for row in rows]


def _notes(shard: str, db: sqlite3.Connection) -> dict[str, Value]:
    return dict(note_of(shard, row) for row in db.execute(NOTE_SELECT))
