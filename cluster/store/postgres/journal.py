"""The journal of one shard in PostgreSQL: a log that its owner appends to, one round trip for each commit.

A commit is a pipeline of statements that are sent at once: begin, the shard's advisory lock in shared mode, the inserts
and updates, commit. Each statement writes only where the shard's row still has our epoch and line. The lock keeps that
row as it is until the end of the transaction. So a commit of an owner that was replaced changes nothing.

When the connection is lost, nobody knows whether the last commit took place. The journal connects again, which makes
the next `line` under the exclusive lock: what was sent over the lost connection has ended by then, or will change
nothing. Then it looks for a row of that commit, and writes it again if the row is not there. While the database is
away, changes wait in memory, and `is_away` is true.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import psycopg

from ....protocols.errors import Fenced, JournalCorrupt, JournalFailed, PodiumError
from ....supervisors.ports.journal import Change
from ..doing import Doing
from ..rows import Row, seal
from ..threaded import Answer, AnyQuery, ThreadedJournal, Work
from .connecting import Connection, Database, as_ours, passes
from .mark import Known, Mark, mark_path, read_mark
from .queries import AGAIN, Queries
from .schema import Fence, lock_key, quoted
from .tables import prepare
from .writing import Probe, Statement, Writing, kept, probe_of

LOG = logging.getLogger("podium")

RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two attempts to reach the database. The last goes on."""

_SHARED, _EXCLUSIVE = "SELECT pg_advisory_xact_lock_shared(%s)", "SELECT pg_advisory_xact_lock(%s)"

_Cursor = psycopg.Cursor[tuple[object, ...]]


class PostgresJournal(ThreadedJournal):
    """Implements `Journal` over a database."""

    slowness = "slow database"

    def __init__(self, database: Database, folder: Path, shard: str) -> None:
        """`folder`: the place on this machine for what need not outlive it (see doing.py and mark.py)."""
        super().__init__(shard)
        self._database, self._folder = database, folder
        self._writing, self._queries = Writing(database.schema), Queries(database.schema, shard)
        self._shards = f"{quoted(database.schema)}.shards"
        self._key = lock_key(database.schema, shard)
        self._db: Connection | None = None
        self._settings: dict[str, str] = {}
        """Settings that each transaction makes (see `Database.transaction_settings`)."""
        self._fence = Fence(shard, 0, 0)
        self._last: Probe | None = None
        """A row of an acknowledged commit, the last if possible, which must be there until its task is forgotten."""
        self._mark: Mark | None = None

    # taking over

    def _lock(self) -> None:
        give_up_at = time.monotonic() + self._database.timeout_s
        for pause_s in _pauses():
            try:
                self._connect()
            except psycopg.Error as error:
                if not passes(error) or time.monotonic() > give_up_at or self._failed is not None:
                    raise
                time.sleep(pause_s)
            else:
                return

    def _connect(self) -> None:
        self._db = self._database.connect()
        self._settings = self._database.transaction_settings(self._db)
        prepare(self._db, self._database)

    def _take_over(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = mark_path(self._folder, self._database.url, self._database.schema, self.shard)
        self._fence = self._owned(partial(self._next_epoch, read_mark(path)))
        self.epoch = self._fence.epoch
        self._mark = Mark(path)
        self._mark.write(Known(self.epoch, self._last))
        self._mark.sync()
        self.doing = Doing(self._folder / f"{self.shard}.doing")

    def _next_epoch(self, known: Known | None, epoch: int, line: int) -> tuple[int, int]:
        """Compare the shard with what this machine knows of it. Raises JournalCorrupt if it has lost something."""
        if known is not None:
            is_there = known.row is not None and self._is_there(known.row)
            self._refuse_loss(known.loss(epoch, is_there))
            self._last = known.row if is_there else None
        return epoch + 1, line + 1

    def _refuse_loss(self, lost: str | None) -> None:
        if lost is not None:
            raise JournalCorrupt(shard=self.shard, place=self._database.place, problem=lost)

    def _owned(self, follow: Callable[[int, int], tuple[int, int]]) -> Fence:
        """Change the shard's row under its exclusive lock; returns the new fence. Raises JournalCorrupt."""
        db = self._connection
        with db.transaction():
            self._settle()
            db.execute(_EXCLUSIVE, (self._key,))
            row = db.execute(f"SELECT epoch, line, seal FROM {self._shards} WHERE shard = %s", (self.shard,)).fetchone()
            before = (0, 0) if row is None else self._checked(*row)
            epoch, line = follow(*before)
            facts = (self.shard, epoch, line, seal(self.shard, epoch, line))
            db.execute(
                f"INSERT INTO {self._shards} (shard, epoch, line, seal) VALUES (%s, %s, %s, %s) ON CONFLICT (shard) "
                "DO UPDATE SET epoch = excluded.epoch, line = excluded.line, seal = excluded.seal",
                facts,
            )
        return Fence(self.shard, epoch, line)

    def _checked(self, epoch: object, line: object, sealed: object) -> tuple[int, int]:
        if sealed != seal(self.shard, epoch, line):
            place, problem = "the shard's own row", "the checksum does not match"
            raise JournalCorrupt(shard=self.shard, place=place, problem=problem)
        return int(str(epoch)), int(str(line))

    def _settle(self) -> None:
        """Make the settings of this transaction."""
        for name, value in self._settings.items():
            self._connection.execute("SELECT set_config(%s, %s, true)", (name, value))

    def _end(self) -> None:
        if self._mark is not None:
            self._mark.sync()

    def _close(self) -> None:
        self._disconnect()
        if self._mark is not None:
            self._mark.close()

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()

    def _as_ours(self, error: Exception) -> PodiumError:
        if isinstance(error, OSError):  # the mark
            return JournalFailed(shard=self.shard, reason=f"{self._folder}: {error}")
        return as_ours(self.shard, self._database, error)

    @property
    def _connection(self) -> Connection:
        assert self._db is not None
        return self._db

    # a commit

    def _commit(self, batch: list[Work]) -> list[Answer]:
        changes = [change for work in batch for change in work.changes]
        self._expect(kept(self._last, changes))
        rows = self._durable(batch)
        self._expect(probe_of(changes) or self._last)
        self._queries.finished.note(changes)
        answers: list[Answer] = []
        for work in batch:
            if work.query is not None:
                answers += self._answered(work, partial(self._answer, rows.get(id(work))))
            elif work.then is not None:
                answers.append(work.then)
        return answers

    def _expect(self, row: Probe | None) -> None:
        """Note a row that must be there: a new one once it is durable, none before the present one is deleted."""
        if row is not self._last and self._mark is not None:
            self._last = row
            self._mark.write(Known(self.epoch, row))

    def _durable(self, batch: list[Work]) -> dict[int, list[list[Row]]]:
        """Make the changes of a batch durable, however often the connection is lost meanwhile.

        Returns the rows of its quick queries, by the identity of their works.
        """
        asked = batch
        while True:
            try:
                return self._attempt(asked)
            except psycopg.Error as error:
                if not passes(error, self._db):
                    self._roll_back()
                    raise
                if self._is_durable_after(error, batch):
                    asked = [work for work in batch if not work.changes]

    def _attempt(self, batch: list[Work]) -> dict[int, list[list[Row]]]:
        """Run a batch as one transaction, in one round trip; returns the rows of its quick queries."""
        db, steps = self._connection, list(self._steps(batch))
        one_by_one = any(statement.finds_open for statement, _ in steps)
        cursors: list[_Cursor] = []
        with nullcontext() if one_by_one else db.pipeline():
            db.execute("BEGIN")
            self._settle()
            db.execute(_SHARED, (self._key,))
            own = db.execute(self._writing.check, (self.shard,))
            for statement, _ in steps:
                cursors.append(db.execute(statement.sql, statement.parameters, binary=True))
                if statement.finds_open:
                    self._refuse_open(cursors[-1])
            db.execute("COMMIT")
        self._check_own(own)
        rows: dict[int, list[list[Row]]] = {}
        for (_, work), cursor in zip(steps, cursors, strict=True):
            if work is not None:
                rows.setdefault(id(work), []).append(cursor.fetchall())
        return rows

    def _steps(self, batch: list[Work]) -> Iterator[tuple[Statement, Work | None]]:
        """Yield the statements of a batch; those of a quick query with its work. A query sees the changes before it."""
        changes: list[Change] = []
        for work in batch:
            changes += work.changes
            if work.query is not None and not work.heavy:
                yield from ((statement, None) for statement in self._writing.statements(self._fence, changes))
                yield from ((Statement(*asked), work) for asked in self._queries.asked(work.query))
                changes = []
        yield from ((statement, None) for statement in self._writing.statements(self._fence, changes))

    def _refuse_open(self, cursor: _Cursor) -> None:
        still_open = cursor.fetchone()
        if still_open is not None:
            self._roll_back()
            raise ValueError(f"task {still_open[0]} is open and cannot be forgotten")

    def _roll_back(self) -> None:
        db = self._connection
        if not db.closed:
            with suppress(psycopg.Error):
                db.rollback()

    def _check_own(self, cursor: _Cursor) -> None:
        """Raise Fenced if another incarnation owned the shard at the time of the commit, which then changed nothing."""
        row = cursor.fetchone()
        if row is None:
            raise JournalCorrupt(shard=self.shard, place="the shard's own row", problem="missing")
        epoch, line = row
        if (epoch, line) != (self._fence.epoch, self._fence.line):
            raise Fenced(shard=self.shard, epoch=self.epoch, newer=int(str(epoch)))

    # answers

    def _answer(self, rows: list[list[Row]] | None, query: AnyQuery) -> object:
        """Answer a query from its rows, or, if there are none yet, ask for them in a transaction of their own."""
        answer = self._queries.answer(query, self._ask(query) if rows is None else rows)
        while answer is AGAIN:
            answer = self._queries.answer(query, self._ask(query))
        return answer

    def _ask(self, query: AnyQuery) -> list[list[Row]]:
        while True:
            try:
                return self._asked(query)
            except psycopg.Error as error:
                if not passes(error, self._db):
                    raise
                self._come_back(error, None)

    def _asked(self, query: AnyQuery) -> list[list[Row]]:
        db = self._connection
        with db.transaction():
            self._settle()
            return [db.execute(sql, values, binary=True).fetchall() for sql, values in self._queries.asked(query)]

    # the database away

    def _is_durable_after(self, error: psycopg.Error, batch: list[Work]) -> bool:
        """Connect again; returns whether the batch had become durable before the connection was lost."""
        return self._come_back(error, probe_of(change for work in batch for change in work.changes))

    def _come_back(self, error: psycopg.Error, probe: Probe | None) -> bool:
        """Connect again, for as long as it takes; returns whether the row of the probe is there.

        Raises Fenced, JournalCorrupt if acknowledged commits are gone, or JournalFailed if the actor is gone meanwhile.
        """
        self._call_back(self._set_away, True)
        tell_at = time.monotonic() + self._database.timeout_s
        for pause_s in _pauses():
            if time.monotonic() >= tell_at:
                tell_at += self._database.timeout_s
                self._call_back(self._tell_long_away)
            if self._failed is not None:
                raise self._as_ours(error)
            try:
                self._reconnect()
                found = probe is not None and self._is_there(probe)
            except psycopg.Error as again:
                if not passes(again, self._db):
                    raise
                time.sleep(pause_s)
            else:
                self._call_back(self._set_away, False)
                return found
        raise AssertionError("the pauses never end")

    def _reconnect(self) -> None:
        self._disconnect()
        self._connect()
        self._fence = self._owned(self._next_line)
        known = Known(self.epoch, self._last)
        self._refuse_loss(known.loss(self.epoch, self._last is not None and self._is_there(self._last)))

    def _next_line(self, epoch: int, line: int) -> tuple[int, int]:
        self._refuse_loss(Known(self.epoch, None).loss(epoch, is_there=False))
        if epoch != self.epoch:
            raise Fenced(shard=self.shard, epoch=self.epoch, newer=epoch)
        return epoch, line + 1

    def _is_there(self, probe: Probe) -> bool:
        return self._connection.execute(*self._writing.probe(self.shard, probe)).fetchone() is not None

    def _tell_long_away(self) -> None:
        if self._failed is None:
            self.on_long_away()

    def _set_away(self, is_away: bool) -> None:
        self.is_away = is_away
        if is_away:
            LOG.warning("%s cannot be reached; shard '%s' waits for it", self._database.place, self.shard)
        else:
            LOG.warning("%s can be reached again; shard '%s' goes on", self._database.place, self.shard)


def _pauses() -> Iterator[float]:
    return chain(RETRY_S, repeat(RETRY_S[-1]))
