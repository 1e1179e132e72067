"""Reads an installation in PostgreSQL without owning its shards. Each row is checked against its seal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import errors

from ....protocols.outcomes import TaskRecord, TaskStatus
from ....protocols.values import Value
from ....supervisors.ports.journal import BLOCKED, DISMISSED, STALLED, WITHDRAWN, Rest
from ....supervisors.shards import workflow_of
from ....supervisors.upkeep.blocked import blocked_protocols
from ..contract import COORDINATOR, BlobUse, ShardSize, StoredTask, StoredWait
from ..rows import AWAKE, RESTS, TASK_COLUMNS, WAIT_COLUMNS, Row, blob_of, bodies_of, found_row, note_of, rest_of
from ..waits import stored_waits
from .connecting import Database, translated
from .schema import quoted

_TASK = ",".join(f't."{column}"' for column in TASK_COLUMNS)
_TOP = "position('.' IN t.shard) = 0"
"""Condition that a task is no nested run (see supervisors/shards.py)."""
_NEWEST = "ORDER BY t.accepted_at DESC"


class PostgresReader:
    """Implements `Reader` over one installation. Every call uses a connection of its own, for a short while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._at = quoted(database.schema)

    def list_tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[TaskRecord]:
        wanted = {"status": status, "workflow": workflow, "user": user}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join([_TOP, *(f't."{column}" = %s' for column in given)])
        return [record for _, record in self._tasks(f"WHERE {where} {_NEWEST} LIMIT %s", *given.values(), limit)]

    def dead_letters(
        self, workflow: str | None = None, user: str | None = None, limit: int | None = 50
    ) -> list[StoredTask]:
        dismissed = f"SELECT 1 FROM {self._at}.notes n WHERE n.shard = t.shard AND n.name = %s || t.id"
        dead = f"(t.status IN ('parked', 'stalled') OR t.status = 'failed' AND {_TOP} AND NOT EXISTS ({dismissed}))"
        wanted = {"workflow": workflow, "user": user}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join([dead, *(f't."{column}" = %s' for column in given)])
        found = self._tasks(f"WHERE {where} {_NEWEST} LIMIT %s", DISMISSED, *given.values(), limit)
        return self._stored(found)

    def find_task(self, task_id: str) -> StoredTask | None:
        found = self._stored(self._tasks("WHERE t.id = %s LIMIT 1", task_id))
        return found[0] if found else None

    def subtasks(self, task_id: str) -> list[StoredTask]:
        return self._stored(self._tasks("WHERE t.id > %s AND t.id < %s ORDER BY t.id", f"{task_id}/", f"{task_id}0"))

    def definitions(self) -> list[dict[str, object]]:
        listed = [shard for shard in self._shards() if shard == workflow_of(shard)]
        listed = [shard for shard in listed if shard not in self._withdrawn()]
        current = {shard: self._notes(shard, "current").get("current") for shard in listed}
        names = {shard: f"definition:{hash}" for shard, hash in current.items() if hash is not None}
        notes = {shard: self._notes(shard, name).get(name) for shard, name in names.items()}
        return [note for note in notes.values() if note is not None]

    def open_count(self, shard: str) -> int:
        query = f"SELECT count(*) FROM {self._at}.tasks WHERE shard = %s AND finished_at IS NULL"
        return int(self._rows(query, shard)[0][0])

    def rest(self, shard: str) -> Rest:
        awake = f"SELECT count(*) FROM {self._at}.tasks WHERE shard = %s AND {AWAKE}"
        query = f"SELECT id, rests_until, rests_clock, rests_seal FROM {self._at}.tasks WHERE shard = %s AND {RESTS}"
        first = self._rows(f"{query} AND rests_until < 'infinity' ORDER BY rests_until LIMIT 1", shard)
        return Rest(int(self._rows(awake, shard)[0][0]), rest_of(shard, first[0]).rests.until if first else None)

    def waits(
        self, workflow: str | None = None, name: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[StoredWait]:
        wanted = {"t.workflow": workflow, "w.name": name, "w.task_id": task_id}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join([_TOP, "t.finished_at IS NULL", *(f"{column} = %s" for column in given)])
        columns = ",".join(f"w.{column}" for column in WAIT_COLUMNS)
        query = f"SELECT t.shard, {columns}, t.workflow, t.user, t.hash FROM {self._at}.waits w"
        join = f"JOIN {self._at}.tasks t ON t.shard = w.shard AND t.id = w.task_id"
        rows = self._rows(f"{query} {join} WHERE {where} ORDER BY w.since DESC LIMIT %s", *given.values(), limit)
        return stored_waits(((shard, tuple(row)) for shard, *row in rows), self._definition)

    def _definition(self, shard: str, hash: str) -> dict[str, Any]:
        name = f"definition:{hash}"
        return self._notes(shard, name).get(name) or {}

    def blocked(self, workflow: str) -> dict[str, dict[str, str]]:
        notes: dict[str, Value] = {}
        for shard in self._shards():
            if workflow_of(shard) == workflow:
                notes |= self._notes(shard, BLOCKED, is_prefix=True)
        return blocked_protocols(notes)

    def ids(self, start: str, most: int) -> list[str]:
        query = f"SELECT t.id FROM {self._at}.tasks t WHERE {_TOP} AND starts_with(t.id, %s)"
        rows = self._rows(f"{query} ORDER BY t.id = %s DESC, t.id DESC LIMIT %s", start, start, most)
        return sorted((id for (id,) in rows), reverse=True)

    def blob_uses(self) -> Iterator[BlobUse]:
        query = f"SELECT shard, task_id, name, size, seal FROM {self._at}.blobs"
        return (blob_of(row[0], row[1:]) for row in self._rows(query))

    def sizes(self) -> list[ShardSize]:
        return [self._size(shard) for shard in self._shards()]

    def _size(self, shard: str) -> ShardSize:
        """Add up the values in the rows of a shard. One statement for each shard stays within the time-out longer."""
        of_tasks = " + ".join(f"coalesce(octet_length({column}), 0)" for column in ("input", "result", "failure"))
        parts = {"tasks": of_tasks, "entries": "octet_length(body)", "notes": "octet_length(value)"}
        sums = " + ".join(
            f"(SELECT coalesce(sum({size}), 0)::int8 FROM {self._at}.{table} WHERE shard = %s)"
            for table, size in parts.items()
        )
        count = f"(SELECT count(*) FROM {self._at}.tasks WHERE shard = %s)"
        (row,) = self._rows(f"SELECT {count}, {sums}", *[shard] * 4)
        return ShardSize(shard, *row)

    def _shards(self) -> list[str]:
        return [shard for (shard,) in self._rows(f"SELECT shard FROM {self._at}.shards ORDER BY shard")]

    def _withdrawn(self) -> set[str]:
        return {name.removeprefix(WITHDRAWN) for name in self._notes(COORDINATOR, WITHDRAWN, is_prefix=True)}

    def _notes(self, shard: str, name: str, is_prefix: bool = False) -> dict[str, Value]:
        fits = "starts_with(name, %s)" if is_prefix else "name = %s"
        rows = self._rows(f"SELECT name, value, seal FROM {self._at}.notes WHERE shard = %s AND {fits}", shard, name)
        return dict(note_of(shard, row) for row in rows)

    def _tasks(self, rest: str, *parameters: object) -> list[tuple[str, TaskRecord]]:
        """Return tasks with the shard of each. `rest` is the SQL behind FROM."""
        rows = self._rows(f"SELECT t.shard, {_TASK} FROM {self._at}.tasks t {rest}", *parameters)
        return [(row[0], found_row(row[0], row[1:]).record) for row in rows]

    def _stored(self, found: list[tuple[str, TaskRecord]]) -> list[StoredTask]:
        return [self._with_entries(shard, record) for shard, record in found]

    def _with_entries(self, shard: str, record: TaskRecord) -> StoredTask:
        definition, stalled = f"definition:{record.hash}", f"{STALLED}{record.task_id}"
        notes = self._notes(shard, definition) | self._notes(shard, stalled)
        query = f"SELECT task_id, n, epoch, body, seal FROM {self._at}.entries WHERE shard = %s AND task_id = %s"
        bodies = bodies_of(shard, self._rows(f"{query} ORDER BY n", shard, record.task_id))
        why = str(notes.get(stalled, ""))
        return StoredTask(shard, record, notes.get(definition) or {}, bodies.get(record.task_id, []), why)

    def _rows(self, query: str, *parameters: object) -> list[Row]:
        """Return the rows of a query; none if nothing has been written here yet. Raises JournalFailed."""
        with translated("*", self._database), self._database.connect() as db:
            try:
                return db.execute(query.encode(), parameters, binary=True).fetchall()
            except errors.UndefinedTable:
                return []
