"""The questions of a shard's owner, as SQL, and the answers from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, assert_never

from ....supervisors.ports.journal import Found, OpenTask, RestingTask
from ..rows import AWAKE, REST_SELECT, RESTS, TASK_COLUMNS, Row, bodies_of, found_row, note_of, rest_of, resting_task_of
from ..threaded import (
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
)
from .finished import Finished
from .schema import quoted

Asked: TypeAlias = tuple[str, Sequence[object]]
"""A query with its parameters."""
AGAIN = object()
"""Stands for an answer that takes more rows."""
LOOK_AT = 1_000
"""Number of tasks that a search for finished ones looks at in one query."""
_TASK = ",".join(f't."{column}"' for column in TASK_COLUMNS)


class Queries:
    """The queries over one shard."""

    def __init__(self, schema: str, shard: str) -> None:
        at, self._shard, self.finished = quoted(schema), shard, Finished()
        self._by_id = f"SELECT {_TASK} FROM {at}.tasks t WHERE t.shard = %s AND t.id = ANY(%s)"
        self._by_key = f"""
            SELECT {_TASK} FROM unnest(%s::text[], %s::text[]) k (owner, key), LATERAL (
                SELECT * FROM {at}.tasks WHERE shard = %s AND "user" = k.owner AND key = k.key OFFSET 0
            ) t"""
        entry = "SELECT task_id, n, e.epoch, body, seal"
        self._entries = f"{entry} FROM {at}.entries e WHERE shard = %s AND task_id = %s ORDER BY n"
        self._open_entries = f"""
            {entry} FROM {at}.tasks t JOIN {at}.entries e ON e.shard = t.shard AND task_id = id
            WHERE t.shard = %s AND {AWAKE} ORDER BY task_id, n"""
        self._open = f"""
            SELECT {_TASK} FROM {at}.tasks t WHERE t.shard = %s AND {AWAKE} ORDER BY accepted_at, id"""
        self._resting = f"""
            {REST_SELECT.partition(" FROM ")[0]} FROM {at}.tasks
            WHERE shard = %s AND {RESTS} AND rests_until <= %s AND (rests_until, id) > (%s, %s)
            ORDER BY rests_until, id LIMIT %s"""
        self._one_resting = f"SELECT {_TASK} FROM {at}.tasks t WHERE t.shard = %s AND t.id = %s AND {RESTS}"
        self._one_rest = f"{REST_SELECT.partition(' FROM ')[0]} FROM {at}.tasks WHERE shard = %s AND id = %s"
        self._rest_counts = f"SELECT hash, count(*) FROM {at}.tasks WHERE shard = %s AND {RESTS} GROUP BY hash"
        self._notes = f"SELECT name, value, seal FROM {at}.notes WHERE shard = %s"
        self._next = f"""
            SELECT id, accepted_at, finished_at FROM {at}.tasks WHERE shard = %s AND id >= %s ORDER BY id LIMIT %s"""
        self._count = f"SELECT count(*) FROM {at}.tasks WHERE shard = %s AND finished_at IS NOT NULL"

    def asked(self, query: AnyQuery) -> list[Asked]:
        """Return what has to be asked of the database for a query."""
        shard = self._shard
        match query:
            case Find(ids, keys):
                owners, names = [owner for owner, _ in keys], [name for _, name in keys]
                by_id, by_key = (self._by_id, (shard, ids)), (self._by_key, (owners, names, shard))
                return [*([by_id] if ids else []), *([by_key] if keys else [])]
            case Bodies(task_id):
                return [(self._entries, (shard, task_id))]
            case OpenTasks():
                return [(self._open_entries, (shard,)), (self._open, (shard,))]
            case Notes():
                return [(self._notes, (shard,))]
            case Forgettable():
                return [(self._next, (shard, self.finished.start, LOOK_AT))]
            case FinishedCount():
                return [(self._count, (shard,))]
            case RestingTasks(until, limit, after):
                return [(self._resting, (shard, until, *after, limit))]
            case OneResting(task_id):
                one = (shard, task_id)
                return [(self._one_resting, one), (self._one_rest, one), (self._entries, one)]
            case RestingCounts():
                return [(self._rest_counts, (shard,))]
            case _:
                assert_never(query)

    def answer(self, query: AnyQuery, rows: list[list[Row]]) -> object:
        """Return the answer from the rows of each query in `asked`; AGAIN if it takes more. Raises JournalCorrupt."""
        match query:
            case Find(ids, keys):
                return self._found(ids, keys, [row for each in rows for row in each])
            case Bodies(task_id):
                return bodies_of(self._shard, rows[0]).get(task_id, [])
            case OpenTasks():
                return self._open_tasks(*rows)
            case Notes():
                return dict(note_of(self._shard, row) for row in rows[0])
            case Forgettable(before, limit):
                return self._due(rows[0], before, limit)
            case FinishedCount():
                return rows[0][0][0]
            case RestingTasks():
                return [rest_of(self._shard, row) for row in rows[0]]
            case OneResting(task_id):
                return self._resting_task(task_id, *rows)
            case RestingCounts():
                return dict(rows[0])
            case _:
                assert_never(query)

    def _found(self, ids: list[str], keys: list[tuple[str, str]], rows: list[Row]) -> list[Found]:
        """Return the tasks in the order in which they were asked for."""
        found: dict[Any, Found] = {}
        for row in rows:
            task = found_row(self._shard, row)
            found[task.record.task_id] = found[task.record.user, task.record.key] = task
        return [found[name] for name in [*ids, *map(tuple, keys)] if name in found]

    def _due(self, rows: list[Row], before: float, limit: int) -> object:
        """Return tasks to forget; AGAIN if there may be more behind the rows that were looked at."""
        due = self.finished.due(before, limit)
        if len(due) == limit:
            return due
        may_be_more = self.finished.look(rows, before) and len(rows) == LOOK_AT
        due = self.finished.due(before, limit)
        return AGAIN if may_be_more and len(due) < limit else due

    def _resting_task(self, id: str, tasks: list[Row], rests: list[Row], entries: list[Row]) -> RestingTask | None:
        bodies = bodies_of(self._shard, entries).get(id, [])
        return resting_task_of(self._shard, tasks[0], rests[0], bodies) if tasks else None

    def _open_tasks(self, entries: list[Row], tasks: list[Row]) -> list[OpenTask]:
        bodies = bodies_of(self._shard, entries)
        records = [found_row(self._shard, row).record for row in tasks]
        return [OpenTask(record, bodies.get(record.task_id, [])) for record in records]
