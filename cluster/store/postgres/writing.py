"""The statements that one commit sends to PostgreSQL: each writes many rows, and only while the shard is still ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ....supervisors.ports.journal import Change, Entry, Forget, ListedWait, NewTask, Note, Standing
from ..rows import (
    ABSENT,
    WAIT_COLUMNS,
    Row,
    blob_rows,
    closing_row,
    entry_row,
    note_row,
    standing_row,
    task_row,
    wait_row,
)
from .schema import Fence, quoted


class Statement(NamedTuple):
    """SQL with its parameters."""

    sql: str
    parameters: Sequence[object]
    finds_open: bool = False
    """Whether it returns the open tasks among those to be deleted, which fail the commit."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A row that a commit adds, by which one sees whether the commit is durable: a task, or entry `n` of a task."""

    task_id: str
    n: int | None = None

    def __str__(self) -> str:
        return f"task {self.task_id}" if self.n is None else f"entry {self.n} of task {self.task_id}"


class Writing:
    """Makes the statements for one shard."""

    def __init__(self, schema: str) -> None:
        at = quoted(schema)
        ours = f"EXISTS (SELECT 1 FROM {at}.shards WHERE shard = %s AND epoch = %s AND line = %s)"
        self.check = f"SELECT epoch, line FROM {at}.shards WHERE shard = %s"
        self._task = f"SELECT 1 FROM {at}.tasks WHERE shard = %s AND id = %s"
        self._entry = f"SELECT 1 FROM {at}.entries WHERE shard = %s AND task_id = %s AND n = %s"
        self._new = f"""
            INSERT INTO {at}.tasks (shard, id, workflow, version, hash, "user", priority, key, digest, accepted_at,
                accepted_seal, status, input)
            SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[],
                %s::text[], %s::text[], %s::float8[], %s::bigint[], %s::text[], %s::bytea[]) WHERE {ours}"""
        self._entries = f"""
            INSERT INTO {at}.entries (shard, task_id, n, epoch, body, seal)
            SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bigint[]) WHERE {ours}"""
        # OFFSET 0 has each row looked up by the key of the table. Otherwise a plan from before the first ANALYZE may
        # compare all rows with all, or look for an open task among the index entries of all that were ever open.
        still_open = f"""LATERAL (
                SELECT ctid AS row, finished_at AS ended FROM {at}.tasks WHERE shard = %s AND id = c.id OFFSET 0
            ) k WHERE k.ended IS NULL AND t.ctid = k.row AND {ours}"""
        self._statuses = f"""
            UPDATE {at}.tasks t
            SET status = c.status, rests_until = c.rests_until, rests_clock = c.clock, rests_seal = c.seal
            FROM unnest(%s::text[], %s::float8[], %s::float8[], %s::bigint[], %s::text[])
                c (status, rests_until, clock, seal, id), {still_open}"""
        self._waits = f"""
            INSERT INTO {at}.waits (shard, {",".join(WAIT_COLUMNS)})
            SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::bytea[],
                %s::bigint[]) WHERE {ours}
            ON CONFLICT (shard, task_id, path) DO UPDATE SET since = excluded.since, until = excluded.until,
                asks = excluded.asks, seal = excluded.seal"""
        self._unwait = f"""
            DELETE FROM {at}.waits w USING unnest(%s::text[], %s::text[]) c (id, path)
            WHERE w.shard = %s AND w.task_id = c.id AND w.path = c.path AND {ours}"""
        self._closings = f"""
            UPDATE {at}.tasks t SET status = c.status, finished_at = c.finished_at, finished_seal = c.seal,
                result = c.result, failure = c.failure
            FROM unnest(%s::text[], %s::text[], %s::float8[], %s::bigint[], %s::bytea[], %s::bytea[])
                c (id, status, finished_at, seal, result, failure), {still_open}"""
        self._notes = f"""
            INSERT INTO {at}.notes (shard, name, value, seal)
            SELECT %s, * FROM unnest(%s::text[], %s::bytea[], %s::bigint[]) WHERE {ours}
            ON CONFLICT (shard, name) DO UPDATE SET value = excluded.value, seal = excluded.seal"""
        self._blobs = f"""
            INSERT INTO {at}.blobs (shard, task_id, name, size, seal)
            SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) WHERE {ours}
            ON CONFLICT DO NOTHING"""
        self._unnote = f"DELETE FROM {at}.notes WHERE shard = %s AND name = ANY(%s) AND {ours}"
        below = "{id} >= f.id AND {id} < f.id || '0' AND ({id} = f.id OR {id} > f.id || '/')"  # '0' comes after '/'
        found = f"""
            FROM unnest(%s::text[]) f (id), LATERAL (
                SELECT t.ctid, t.* FROM {at}.{{table}} t WHERE t.shard = %s AND {below} OFFSET 0
            ) t WHERE {ours}"""
        tasks, entries = found.format(table="tasks", id="t.id"), found.format(table="entries", id="t.task_id")
        self._open = f"SELECT t.id {tasks} AND t.finished_at IS NULL LIMIT 1"
        self._forget_entries = f"DELETE FROM {at}.entries WHERE ctid = ANY(ARRAY(SELECT t.ctid {entries}))"
        blobs = found.format(table="blobs", id="t.task_id")
        self._forget_blobs = f"DELETE FROM {at}.blobs WHERE ctid = ANY(ARRAY(SELECT t.ctid {blobs}))"
        waits = found.format(table="waits", id="t.task_id")
        self._forget_waits = f"DELETE FROM {at}.waits WHERE ctid = ANY(ARRAY(SELECT t.ctid {waits}))"
        self._forget_tasks = f"DELETE FROM {at}.tasks WHERE ctid = ANY(ARRAY(SELECT t.ctid {tasks}))"

    def statements(self, fence: Fence, changes: Sequence[Change]) -> list[Statement]:
        """Return what writes the changes, in their order, as far as it matters."""
        found: list[Statement] = []
        for is_forget, same in groupby(changes, lambda change: isinstance(change, Forget)):
            write = self._forgets if is_forget else self._writes
            found += write(fence, list(same))
        return found

    def probe(self, shard: str, probe: Probe) -> tuple[str, Sequence[object]]:
        """Return the query that finds a row if the probe is there."""
        if probe.n is None:
            return self._task, (shard, probe.task_id)
        return self._entry, (shard, probe.task_id, probe.n)

    def _writes(self, fence: Fence, changes: list[Change]) -> list[Statement]:
        """Write changes, grouped by kind: tasks, entries, statuses, ends, notes."""
        new = [task_row(change) for change in changes if isinstance(change, NewTask)]
        entries = [change for change in changes if isinstance(change, Entry)]
        standings = [change for change in changes if isinstance(change, Standing)]
        closings = [closing_row(entry.task_id, entry.closing) for entry in entries if entry.closing is not None]
        found = []
        if new:
            found.append(Statement(self._new, [fence.shard, *_columns(new), *_facts(fence)]))
        if entries:
            rows = [entry_row(entry, fence.epoch) for entry in entries]
            found.append(Statement(self._entries, [fence.shard, *_columns(rows), *_facts(fence)]))
        if standings:
            found += self._stand(fence, standings)
        if closings:
            found.append(Statement(self._closings, [*_columns(closings), fence.shard, *_facts(fence)]))
        if blobs := blob_rows(changes):
            found.append(Statement(self._blobs, [fence.shard, *_columns(blobs), *_facts(fence)]))
        return found + self._note_changes(fence, [change for change in changes if isinstance(change, Note)])

    def _stand(self, fence: Fence, changes: list[Standing]) -> list[Statement]:
        """Write standings. Of several of one task the last counts, and so does what was said last of each wait."""
        last = {change.task_id: standing_row(change) for change in changes}
        waits: dict[tuple[str, str], ListedWait | None] = {}
        for change in changes:
            waits |= {(change.task_id, path): None for path in change.over}
            waits |= {(change.task_id, wait.path): wait for wait in change.waits}
        found = [Statement(self._statuses, [*_columns(list(last.values())), fence.shard, *_facts(fence)])]
        if over := [key for key, wait in waits.items() if wait is None]:
            found.append(Statement(self._unwait, [*_columns(list(over)), fence.shard, *_facts(fence)]))
        if rows := [wait_row(id, wait) for (id, _), wait in waits.items() if wait is not None]:
            found.append(Statement(self._waits, [fence.shard, *_columns(rows), *_facts(fence)]))
        return found

    def _note_changes(self, fence: Fence, changes: list[Note]) -> list[Statement]:
        last = {note.name: note.value for note in changes}
        rows = [note_row(name, value) for name, value in last.items() if value is not None]
        gone = [name for name, value in last.items() if value is None]
        found = []
        if rows:
            found.append(Statement(self._notes, [fence.shard, *_columns(rows), *_facts(fence)]))
        if gone:
            found.append(Statement(self._unnote, [fence.shard, gone, *_facts(fence)]))
        return found

    def _forgets(self, fence: Fence, changes: list[Change]) -> list[Statement]:
        ids = [change.task_id for change in changes if isinstance(change, Forget)]
        parameters = [ids, fence.shard, *_facts(fence)]
        return [
            Statement(self._open, parameters, finds_open=True),
            Statement(self._forget_entries, parameters),
            Statement(self._forget_blobs, parameters),
            Statement(self._forget_waits, parameters),
            Statement(self._forget_tasks, parameters),
        ]


def probe_of(changes: Iterable[Change]) -> Probe | None:
    """Return a row that shows whether these changes are durable; None if they may be written twice.

    Statuses, notes and deletions may. A task that is also forgotten in the same commit shows nothing.
    """
    found: dict[str, Probe] = {}
    for change in changes:
        match change:
            case NewTask():
                found[change.record.task_id] = Probe(change.record.task_id)
            case Entry():
                found[change.task_id] = Probe(change.task_id, change.n)
            case Forget():
                found = {id: probe for id, probe in found.items() if not _is_of(id, change.task_id)}
            case _:
                pass
    return next(iter(found.values()), None)


def kept(probe: Probe | None, changes: Iterable[Change]) -> Probe | None:
    """Return the row of an earlier commit, unless these changes delete it."""
    if probe is None or any(isinstance(each, Forget) and _is_of(probe.task_id, each.task_id) for each in changes):
        return None
    return probe


def _is_of(id: str, forgotten: str) -> bool:
    return id == forgotten or id.startswith(f"{forgotten}/")


def _columns(rows: list[Row]) -> list[list[Any]]:
    return [[None if value is ABSENT else value for value in column] for column in zip(*rows, strict=True)]


def _facts(fence: Fence) -> tuple[str, int, int]:
    return fence.shard, fence.epoch, fence.line
