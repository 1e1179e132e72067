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

import os
import sqlite3
from pathlib import Path
from typing import assert_never

from ....protocols.errors import Fenced, JournalCorrupt, PodiumError
from ....protocols.values import Value
from ....supervisors.ports.journal import Change, Found
from .. import lock
from ..doing import Doing
from ..rows import NOTE_SELECT, TASK_SELECT, Row, entries_of, found_row, note_of, open_task_rows, resting_task_row, seal
from ..threaded import (
    Answer,
    AnyQuery,
    Bodies,
    Find,
    FinishedCount,
    Forgettable,
    Notes,
    OneResting,
    OpenTasks,
    RestingCounts,
    RestingTasks,
    ThreadedJournal,
    Work,
)
from .faults import as_ours
from .mark import Mark
from .opening import check_file, open_file, take_epoch
from .schema import doing_path, lock_path, shard_path
from .writing import finished_count, forgettable, resting, resting_counts, write_changes


class SqliteJournal(ThreadedJournal):
    """Implements `Journal` over a file."""

    is_quick = True
    slowness = "slow disk"

    def __init__(self, data: Path, shard: str, lock_wait_s: float = 3.0) -> None:
        """`lock_wait_s`: time that a predecessor has to die, in seconds."""
        super().__init__(shard)
        self._path = shard_path(data, shard)
        self._lock_wait_s = lock_wait_s
        self._commits = 0
        """Number of the shard's commits over all epochs."""
        self._held: int | None = None
        """File descriptor of the lock file, while it is held."""
        self._db: sqlite3.Connection | None = None
        self._mark: Mark | None = None

    def _lock(self) -> None:
        self._held = lock.take(lock_path(self._path), f"shard '{self.shard}'", self._lock_wait_s)
        check_file(self._path, self.shard)
        self._db = open_file(self._path, self.shard)

    def _take_over(self) -> None:
        count, self._mark = take_epoch(self._connection, self._path, self.shard)
        self.epoch, self._commits = count.epoch, count.commits
        self.doing = Doing(doing_path(self._path))

    def _end(self) -> None:
        if self._mark is not None:
            self._mark.sync()

    def _close(self) -> None:
        if self._mark is not None:
            self._mark.close()
        if self._db is not None:
            self._db.close()
        if self._held is not None:
            os.close(self._held)

    def _as_ours(self, error: Exception) -> PodiumError:
        return as_ours(self.shard, self._path, error)

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _commit(self, batch: list[Work]) -> list[Answer]:
        db = self._connection
        writes = any(work.changes for work in batch)
        db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            if writes:
                self._count(db)
            else:
                self._check_epoch(db)
            answers = self._write_all(db, batch)
            self._make_durable(db)
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if writes:
            assert self._mark is not None
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

    def _write_all(self, db: sqlite3.Connection, batch: list[Work]) -> list[Answer]:
        """Write the changes and answer the queries of a batch. A query sees the changes before it."""
        answers: list[Answer] = []
        changes: list[Change] = []
        for work in batch:
            changes += work.changes
            if work.query is not None:
                write_changes(db, self.epoch, changes)
                changes = []
                answers += self._answered(work, self._answer)
            elif work.then is not None:
                answers.append(work.then)
        write_changes(db, self.epoch, changes)
        return answers

    def _answer(self, query: AnyQuery) -> object:
        db = self._connection
        match query:
            case Find(ids, keys):
                return _find(self.shard, ids, keys, db)
            case Bodies(task_id):
                return entries_of(self.shard, db, task_id)
            case OpenTasks():
                return open_task_rows(self.shard, db)
            case Notes():
                return _notes(self.shard, db)
            case Forgettable(before, limit):
                return forgettable(db, before, limit)
            case FinishedCount():
                return finished_count(db)
            case RestingTasks(until, limit, after):
                return resting(self.shard, db, until, limit, after)
            case OneResting(task_id):
                return resting_task_row(self.shard, db, task_id)
            case RestingCounts():
                return resting_counts(db)
            case _:
                assert_never(query)


def _find(shard: str, ids: list[str], keys: list[tuple[str, str]], db: sqlite3.Connection) -> list[Found]:
    rows: list[Row] = []
    for id in ids:
        rows += db.execute(f"{TASK_SELECT} WHERE id = ?", (id,))
    for user, key in keys:
        rows += db.execute(f"{TASK_SELECT} WHERE user = ? AND key = ?", (user, key))
    return [found_row(shard, row) for row in rows]


def _notes(shard: str, db: sqlite3.Connection) -> dict[str, Value]:
    return dict(note_of(shard, row) for row in db.execute(NOTE_SELECT))
