"""The embedded journal: one SQLite file per shard, written by one thread of one process.

`journal_mode=WAL`, `synchronous=FULL`: a commit is on disk when it returns. Group commit: what queues while a
commit runs goes into the next one. Opening takes the shard's next epoch in a transaction, and every commit
checks it, so an overtaken incarnation is refused. A lock file keeps a second writer process out (SQLite
3.7.0 to 3.51.2 can damage a WAL that two connections write or checkpoint).

Every stored value ends in the CRC-32 of the rest; one that does not match raises JournalCorrupt.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ...protocols.errors import DataInUse, Fenced, JournalCorrupt, JournalFailed, PodiumError
from ...protocols.values import Value, pack, unpack
from ...supervisors.ports import Change, Entry, Forget, Found, NewTask, Note, OpenTask, Running
from .rows import TASK_COLUMNS, found_row, open_task_rows, seal, task_row, unseal

INLINE_WORKS = 4
"""Most works of a commit that is made on the event loop."""
INLINE_S = 0.001
"""Longest duration of the last commit after which the next may be made on the event loop, in seconds."""
FORMAT = 1
"""Version of the file format, in SQLite's `user_version`."""

_SCHEMA = """
CREATE TABLE shard (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT;
INSERT INTO shard VALUES (1, 0);
CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, workflow TEXT NOT NULL, version TEXT NOT NULL, hash TEXT NOT NULL,
    input BLOB NOT NULL, user TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT, digest TEXT NOT NULL,
    status TEXT NOT NULL, accepted_at REAL NOT NULL, finished_at REAL, result BLOB, failure BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX open_tasks ON tasks (accepted_at, id) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX task_keys ON tasks (user, key) WHERE key IS NOT NULL;
CREATE TABLE entries (
    task_id TEXT NOT NULL, n INTEGER NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (task_id, n)
) STRICT, WITHOUT ROWID;
"""


_CLOSE = """
UPDATE tasks SET status = column1, finished_at = column2, result = column3, failure = column4
FROM (VALUES {rows}) WHERE id = column5 AND finished_at IS NULL
"""
_GROUPS = (256, 64, 16, 4, 1)
"""Rows per statement, each a statement that SQLite keeps prepared; 256 rows of 14 columns are 3,584 variables."""


def shard_path(data: Path, shard: str) -> Path:
    return data / "shards" / f"{shard}.db"


class SqliteJournal:
    """Implements `Journal`. All methods are called on one event loop.

    The file belongs to a thread of its own, so that a slow disk does not stop the loop. While that thread is idle
    and commits are quick, a small one is made on the loop: two changes of thread cost more than the commit.
    """

    def __init__(self, data: Path, shard: str, lock_wait_s: float = 10.0) -> None:
        self.shard, self.epoch = shard, 0
        self.on_failure: Callable[[PodiumError], None] = lambda _error: None
        self._path = shard_path(data, shard)
        self._lock_wait_s = lock_wait_s
        self._loop = asyncio.get_running_loop()
        self._batch: list[_Work] = []
        self._handed: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._under_way = 0
        """Batches that the thread has and that are not acknowledged."""
        self._last_s = 0.0
        """How long the last commit took."""
        self._db: sqlite3.Connection
        self._thread: threading.Thread | None = None
        self._failed: PodiumError | None = None

    async def open(self) -> SqliteJournal:
        """Lock the shard, check or create the file, and take the next epoch."""
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
        self._add(_Work([], partial(_bodies, self.shard, task_id), then))

    async def open_tasks(self) -> list[OpenTask]:
        return await self._read(partial(open_task_rows, self.shard))  # type: ignore[no-any-return]

    async def notes(self) -> dict[str, Value]:
        return await self._read(partial(_notes, self.shard))  # type: ignore[no-any-return]

    async def finished_count(self) -> int:
        return await self._read(
            lambda db: db.execute("SELECT count(*) FROM tasks WHERE finished_at IS NOT NULL").fetchone()[0]
        )  # type: ignore[no-any-return]

    async def forgettable(self, before: float, limit: int) -> list[str]:
        return await self._read(
            lambda db: [
                r[0]
                for r in db.execute("SELECT id FROM tasks WHERE finished_at < ? ORDER BY id LIMIT ?", (before, limit))
            ]
        )  # type: ignore[no-any-return]

    async def close(self) -> None:
        if self._thread is None:
            return
        self._hand_over()
        self._handed.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._thread = None

    async def _read(self, query: Callable[[sqlite3.Connection], Any]) -> Any:
        answer: asyncio.Future[Any] = self._loop.create_future()

        def guarded(db: sqlite3.Connection) -> Any:
            try:
                return query(db), None
            except PodiumError as error:
                return None, error

        def settle(pair: Any) -> None:
            if not answer.done():
                answer.set_result(pair)

        self._add(_Work([], guarded, settle))
        value, error = await answer
        if error is not None:
            raise error
        return value

    def _add(self, work: _Work) -> None:
        if self._failed is not None:
            return
        if not self._batch:
            self._loop.call_soon(self._hand_over)
        self._batch.append(work)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self._under_way == 0 and len(batch) <= INLINE_WORKS and self._last_s <= INLINE_S:
            self._commit_here(batch)
        else:
            self._under_way += 1
            self._handed.put(batch)

    def _commit_here(self, batch: list[_Work]) -> None:
        began = self._loop.time()
        try:
            answers = self._commit(self._db, batch)
        except (PodiumError, sqlite3.Error) as error:
            self._fail(_as_ours(self.shard, error))
            return
        self._acknowledge(0, self._loop.time() - began, answers)

    def _acknowledge(self, batches: int, seconds: float, answers: list[Callable[[], Any]]) -> None:
        self._under_way -= batches
        self._last_s = seconds
        for answer in answers:
            answer()

    # in the thread

    def _work_off(self, opened: asyncio.Future[None]) -> None:
        try:
            lock = _lock(self._path, self._lock_wait_s)
            db = self._db = _open(self._path, self.shard)
            self.epoch = _next_epoch(db)
        except (PodiumError, sqlite3.Error, OSError) as error:
            self._call_back(_settle, opened, _as_ours(self.shard, error))
            return
        self._call_back(_settle, opened, None)
        try:
            self._commit_loop(db)
        except (PodiumError, sqlite3.Error) as error:
            self._call_back(self._fail, _as_ours(self.shard, error))
        finally:
            db.close()
            os.close(lock)

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
            began = time.monotonic()
            answers = self._commit(db, batch)
            self._call_back(self._acknowledge, batches, time.monotonic() - began, answers)

    def _commit(self, db: sqlite3.Connection, batch: list[_Work]) -> list[Callable[[], Any]]:
        """One transaction for the whole batch; returns the callbacks to make when it is durable."""
        answers: list[Callable[[], Any]] = []
        db.execute("BEGIN IMMEDIATE")
        try:
            newer = db.execute("SELECT epoch FROM shard").fetchone()[0]
            if newer != self.epoch:
                raise Fenced(shard=self.shard, epoch=self.epoch, newer=newer)
            _write_all(db, self.epoch, batch, answers)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return answers

    def _call_back(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return  # the loop is closed: nobody is left to be told

    def _fail(self, error: PodiumError) -> None:
        self._failed = error
        self._batch = []
        self.on_failure(error)


class _Work:
    """Changes to write, or a query to answer, in the order of the calls."""

    __slots__ = ("changes", "query", "then")

    def __init__(
        self,
        changes: list[Change],
        query: Callable[[sqlite3.Connection], Any] | None,
        then: Callable[..., Any] | None,
    ) -> None:
        self.changes, self.query, self.then = changes, query, then


def _settle(future: asyncio.Future[None], error: PodiumError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _as_ours(shard: str, error: Exception) -> PodiumError:
    return error if isinstance(error, PodiumError) else JournalFailed(shard=shard, reason=str(error))


def _lock(path: Path, wait_s: float) -> int:
    """Hold the shard's lock file until the process ends or closes it. A dying predecessor is waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > give_up_at:
                holder = os.pread(lock, 64, 0).decode(errors="replace").strip() or "another process"
                os.close(lock)
                raise DataInUse(directory=str(path.parent.parent), holder=f"process {holder}") from None
            time.sleep(0.02)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock


def _open(path: Path, shard: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=2000")
        db.execute("PRAGMA journal_size_limit=67108864")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={FORMAT};COMMIT;")
        elif version != FORMAT:
            problem = f"format {version}, this Podium writes format {FORMAT}"
            raise JournalCorrupt(shard=shard, place=str(path), problem=problem)
    except sqlite3.DatabaseError as error:
        db.close()
        raise JournalCorrupt(shard=shard, place=str(path), problem=str(error)) from error
    path.chmod(0o600)
    return db


def _next_epoch(db: sqlite3.Connection) -> int:
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE shard SET epoch = epoch + 1")
    epoch: int = db.execute("SELECT epoch FROM shard").fetchone()[0]
    db.execute("COMMIT")
    return epoch


def _write_all(db: sqlite3.Connection, epoch: int, batch: list[_Work], answers: list[Callable[[], Any]]) -> None:
    """Rows of one kind go together; queries come after the rows before them."""
    changes: list[Change] = []
    for work in batch:
        changes += work.changes
        if work.query is not None:
            _write_changes(db, epoch, changes)
            changes = []
            if work.then is not None:
                answers.append(partial(work.then, work.query(db)))
        elif work.then is not None:
            answers.append(work.then)
    _write_changes(db, epoch, changes)


def _write_changes(db: sqlite3.Connection, epoch: int, changes: list[Change]) -> None:
    new = [task_row(change) for change in changes if isinstance(change, NewTask)]
    if new:
        _in_groups(db, f"INSERT INTO tasks ({','.join(TASK_COLUMNS)}) VALUES {{rows}}", new)
    entries = [change for change in changes if isinstance(change, Entry)]
    if entries:
        rows = [(entry.task_id, entry.n, epoch, seal(entry.body)) for entry in entries]
        _in_groups(db, "INSERT INTO entries VALUES {rows}", rows)
    _update_tasks(db, changes, entries)
    for change in changes:
        if isinstance(change, Forget):
            a, b = f"{change.task_id}/", f"{change.task_id}0"
            db.execute("DELETE FROM entries WHERE task_id = ? OR (task_id > ? AND task_id < ?)", (change.task_id, a, b))
            db.execute("DELETE FROM tasks WHERE id = ? OR (id > ? AND id < ?)", (change.task_id, a, b))
    notes = [change for change in changes if isinstance(change, Note)]
    for note in notes:
        if note.value is None:
            db.execute("DELETE FROM notes WHERE name = ?", (note.name,))
        else:
            row = (note.name, seal(pack(note.value)))
            db.execute("INSERT INTO notes VALUES (?,?) ON CONFLICT DO UPDATE SET value = excluded.value", row)


def _update_tasks(db: sqlite3.Connection, changes: list[Change], entries: list[Entry]) -> None:
    running = [(change.task_id,) for change in changes if isinstance(change, Running)]
    if running:
        db.executemany("UPDATE tasks SET status = 'running' WHERE id = ? AND status = 'pending'", running)
    closings = [
        (end.status, end.finished_at, seal(end.result), seal(end.failure), entry.task_id)
        for entry in entries
        if (end := entry.closing) is not None
    ]
    if closings:
        _in_groups(db, _CLOSE, closings)


def _in_groups(db: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """Execute `statement` over all rows, many at a time.

    sqlite3 gives the interpreter lock away with every execution, and gets it back only when the event loop lets
    go of it: one statement of 256 rows is many times faster beside a busy loop than 256 of one row.
    """
    done = 0
    row = "(" + ",".join("?" * len(rows[0])) + ")"
    for size in _GROUPS:
        if len(rows) - done < size:
            continue
        text = statement.replace("{rows}", ",".join([row] * size))
        while len(rows) - done >= size:
            db.execute(text, [value for each in rows[done : done + size] for value in each])
            done += size


def _find(shard: str, ids: list[str], keys: list[tuple[str, str]], db: sqlite3.Connection) -> list[Found]:
    columns = ",".join(TASK_COLUMNS)
    rows: list[Any] = []
    for id in ids:
        rows += db.execute(f"SELECT {columns} FROM tasks WHERE id = ?", (id,))
    for user, key in keys:
        rows += db.execute(f"SELECT {columns} FROM tasks WHERE user = ? AND key = ?", (user, key))
    return [found_row(shard, row) for row in rows]


def _bodies(shard: str, task_id: str, db: sqlite3.Connection) -> list[bytes]:
    rows = db.execute("SELECT body FROM entries WHERE task_id = ? ORDER BY n", (task_id,))
    return [unseal(shard, f"task {task_id}", body) for (body,) in rows]


def _notes(shard: str, db: sqlite3.Connection) -> dict[str, Value]:
    rows = db.execute("SELECT name, value FROM notes")
    return {name: unpack(unseal(shard, f"note {name}", value), max_bytes=len(value)) for name, value in rows}
