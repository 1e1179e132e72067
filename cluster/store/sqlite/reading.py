"""Reads shards without owning them: for `ps`, `show` and the client's lists, with or without a cluster.

Connections are read-only and short. They see only durable data. Each row is checked against its seal.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ....protocols.outcomes import TaskRecord, TaskStatus
from ....protocols.values import Value
from ....protocols.workflow import RESERVED
from ....supervisors.ports.journal import BLOCKED, DISMISSED, STALLED, WITHDRAWN, Rest
from ....supervisors.shards import is_tier, workflow_of
from ....supervisors.upkeep.blocked import blocked_protocols
from ..contract import COORDINATOR, BlobUse, ShardSize, StoredTask, StoredWait
from ..rows import (
    AWAKE,
    BLOB_SELECT,
    NOTE_SELECT,
    TASK_SELECT,
    WAIT_COLUMNS,
    Row,
    blob_of,
    entries_of,
    found_row,
    note_of,
)
from ..waits import stored_waits
from .faults import UNREADABLE, as_ours
from .migrations import as_newest
from .opening import format_of, reading
from .schema import files_of, shard_path
from .writing import count_open, resting

_WAITS = f"{','.join(f'w.{column}' for column in WAIT_COLUMNS)}, workflow, user, hash FROM waits w"


def shards(data: Path) -> list[str]:
    """Return the names of the shards in a data directory that hold tasks (see supervisors/shards.py)."""
    names = sorted(path.stem for path in (data / "shards").glob("*.db"))
    return [name for name in names if name not in RESERVED]


class FileReader:
    """Implements `Reader` over the shards of a data directory."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def list_tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[TaskRecord]:
        """Return the tasks that fit all that is given, the newest first, at most `limit`. Nested runs are left out."""
        wanted = {"status": status, "user": user}
        filters = {column: value for column, value in wanted.items() if value is not None}
        records: list[TaskRecord] = []
        for shard in shards(self._data):
            if not is_tier(shard) and workflow in (None, workflow_of(shard)):
                records += _list_shard(self._data, shard, filters, limit)
        return sorted(records, key=lambda record: record.accepted_at, reverse=True)[:limit]

    def dead_letters(
        self, workflow: str | None = None, user: str | None = None, limit: int | None = 50
    ) -> list[StoredTask]:
        """Return parked and stalled tasks and nested runs, and failed tasks not redriven or dropped; newest first."""
        found: list[StoredTask] = []
        for shard in shards(self._data):
            if workflow in (None, workflow_of(shard)):
                with _open(self._data, shard) as db:
                    where, values = _dead_where(shard, user)
                    query = f"{TASK_SELECT} WHERE {where} ORDER BY accepted_at DESC LIMIT ?"
                    rows = db.execute(query, (*values, -1 if limit is None else limit)).fetchall()
                    found += [_stored(shard, db, row) for row in rows]
        return sorted(found, key=lambda stored: stored.record.accepted_at, reverse=True)[:limit]

    def find_task(self, task_id: str) -> StoredTask | None:
        """Return a task by its id, from whichever shard has it; None if no shard has it."""
        for shard in shards(self._data):
            with _open(self._data, shard) as db:
                row = db.execute(f"{TASK_SELECT} WHERE id = ?", (task_id,)).fetchone()
                if row is not None:
                    return _stored(shard, db, row)
        return None

    def subtasks(self, task_id: str) -> list[StoredTask]:
        """Return the nested runs of a task, from the shards of their tiers."""
        found = []
        for shard in shards(self._data):
            if is_tier(shard):
                with _open(self._data, shard) as db:
                    query = f"{TASK_SELECT} WHERE id > ? AND id < ?"
                    rows = db.execute(query, (f"{task_id}/", f"{task_id}0")).fetchall()
                    found += [_stored(shard, db, row) for row in rows]
        return found

    def definitions(self) -> list[dict[str, object]]:
        """Return the newest definition of each deployed workflow, sorted by name."""
        found = []
        withdrawn = self._withdrawn()
        for shard in shards(self._data):
            if shard == workflow_of(shard) and shard not in withdrawn:
                with _open(self._data, shard) as db:
                    current = db.execute(f"{NOTE_SELECT} WHERE name = 'current'").fetchone()
                    hash = note_of(shard, current)[1] if current else None
                    note = db.execute(f"{NOTE_SELECT} WHERE name = ?", (f"definition:{hash}",)).fetchone()
                    found += [note_of(shard, note)[1]] if note else []
        return found

    def _withdrawn(self) -> set[str]:
        if not shard_path(self._data, COORDINATOR).exists():
            return set()
        with _open(self._data, COORDINATOR) as db:
            rows = db.execute(f"{NOTE_SELECT} WHERE name LIKE '{WITHDRAWN}%'")
            return {note_of(COORDINATOR, row)[0].removeprefix(WITHDRAWN) for row in rows}

    def blocked(self, workflow: str) -> dict[str, dict[str, str]]:
        """Return the protocols of a workflow whose hosts cannot start, in the form of `blocked_protocols`."""
        notes: dict[str, Value] = {}
        for shard in shards(self._data):
            if workflow_of(shard) == workflow:
                with _open(self._data, shard) as db:
                    rows = db.execute(f"{NOTE_SELECT} WHERE name >= ? AND name < ?", (BLOCKED, BLOCKED[:-1] + ";"))
                    notes |= dict(note_of(shard, row) for row in rows.fetchall())
        return blocked_protocols(notes)

    def ids(self, start: str, most: int) -> list[str]:
        """Return ids of tasks that begin with `start` (see the contract)."""
        query = "SELECT id FROM tasks WHERE id >= ? AND id < ? ORDER BY id = ? DESC, id DESC LIMIT ?"
        found: list[str] = []
        for shard in shards(self._data):
            if not is_tier(shard):
                with _open(self._data, shard) as db:
                    found += [id for (id,) in db.execute(query, (start, f"{start}\U0010ffff", start, most))]
        return sorted(found, reverse=True)

    def blob_uses(self) -> Iterator[BlobUse]:
        for shard in shards(self._data):
            with _open(self._data, shard) as db:
                yield from (blob_of(shard, row) for row in db.execute(BLOB_SELECT))

    def sizes(self) -> list[ShardSize]:
        found = []
        for path in sorted((self._data / "shards").glob("*.db")):
            with _open(self._data, path.stem) as db:
                (tasks,) = db.execute("SELECT count(*) FROM tasks").fetchone()
            found.append(ShardSize(path.stem, tasks, sum(map(_size_bytes, files_of(path)))))
        return found

    def open_count(self, shard: str) -> int:
        """Return the number of a shard's tasks that have not ended; 0 if there is no such shard."""
        if not shard_path(self._data, shard).exists():
            return 0
        with _open(self._data, shard) as db:
            return count_open(db)

    def rest(self, shard: str) -> Rest:
        """Return how many tasks of a shard are awake, and until when the first rests that will not rest for ever."""
        if not shard_path(self._data, shard).exists():
            return Rest(0, None)
        with _open(self._data, shard) as db:
            (awake,) = db.execute(f"SELECT count(*) FROM tasks WHERE {AWAKE}").fetchone()
            first = resting(shard, db, sys.float_info.max, 1)
            return Rest(awake, first[0].rests.until if first else None)

    def waits(
        self, workflow: str | None = None, name: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[StoredWait]:
        """Return the open waits that fit all that is given, those that began last first, at most `limit`."""
        wanted = {"w.name": name, "w.task_id": task_id}
        filters = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(["finished_at IS NULL", *(f"{column} = ?" for column in filters)])
        query = f"SELECT {_WAITS} JOIN tasks ON id = w.task_id WHERE {where} ORDER BY w.since DESC LIMIT ?"
        found: list[StoredWait] = []
        for shard in shards(self._data):
            if not is_tier(shard) and workflow in (None, workflow_of(shard)):
                with _open(self._data, shard) as db:
                    rows = db.execute(query, (*filters.values(), limit)).fetchall()
                    found += stored_waits(((shard, row) for row in rows), partial(_definition, db))
        return sorted(found, key=lambda each: each.wait.since, reverse=True)[:limit]


def _definition(db: sqlite3.Connection, shard: str, hash: str) -> dict[str, Any]:
    note = db.execute(f"{NOTE_SELECT} WHERE name = ?", (f"definition:{hash}",)).fetchone()
    return note_of(shard, note)[1] if note else {}


def _size_bytes(path: Path) -> int:
    """Return the size of a file; 0 if it is not there, as SQLite's own files may not be."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _list_shard(data: Path, shard: str, filters: Mapping[str, str], limit: int) -> list[TaskRecord]:
    where = " AND ".join(f"{column} = ?" for column in filters) or "1"
    query = f"{TASK_SELECT} WHERE {where} ORDER BY accepted_at DESC LIMIT ?"
    with _open(data, shard) as db:
        return [found_row(shard, row).record for row in db.execute(query, (*filters.values(), limit))]


def _dead_where(shard: str, user: str | None) -> tuple[str, list[str]]:
    of_user = ("1", []) if user is None else ("user = ?", [user])
    parked = f"status IN ('parked', 'stalled') AND {of_user[0]}"
    if is_tier(shard):
        return parked, of_user[1]
    failed = f"status = 'failed' AND {of_user[0]} AND '{DISMISSED}' || id NOT IN (SELECT name FROM notes)"
    return f"({parked}) OR ({failed})", of_user[1] * 2


def _stored(shard: str, db: sqlite3.Connection, row: Row) -> StoredTask:
    record = found_row(shard, row).record
    definition = _definition(db, shard, record.hash)
    why = db.execute(f"{NOTE_SELECT} WHERE name = ?", (f"{STALLED}{record.task_id}",)).fetchone()
    stalled = str(note_of(shard, why)[1]) if why else ""
    return StoredTask(shard, record, definition, entries_of(shard, db, record.task_id), stalled)


@contextmanager
def _open(data: Path, shard: str) -> Iterator[sqlite3.Connection]:
    path = shard_path(data, shard)
    try:
        with reading(path) as db:
            format_of(db, path, shard)
            with as_newest(db, shard) as newest:
                yield newest
    except (*UNREADABLE, OSError) as error:
        raise as_ours(shard, path, error) from error
