"""Converts records to rows and back, the same for the writer and for readers. Every row has a seal.

A seal is the CRC-32 over everything that must not change. For an entry this is the task, the number, the epoch and the
body; for a note, the name and the value; for the shard, the epoch and the commits. A task has two seals: one for what
is fixed when it is accepted, and one for what is fixed when it ends. Functions that read a row check its seals, and
raise JournalCorrupt if one is wrong.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ...protocols.errors import InvalidInput, JournalCorrupt
from ...protocols.outcomes import OPEN, TERMINAL, Failure, TaskRecord
from ...protocols.stored import MET, NO_BLOBS, BlobKey, keys_in
from ...protocols.values import Value, pack, unpack
from ...supervisors.ports.journal import (
    Change,
    Closing,
    Entry,
    Found,
    ListedWait,
    NewTask,
    OpenTask,
    Resting,
    RestingTask,
    Rests,
    Standing,
)
from .contract import BlobUse
from .sqlite.mark import Count

TASK_COLUMNS = (
    "id", "workflow", "version", "hash", "user", "priority", "key", "digest", "accepted_at", "accepted_seal",
    "status", "finished_at", "finished_seal", "input", "result", "failure",
)  # fmt: skip
NEW_COLUMNS = (*TASK_COLUMNS[:11], "input")
TASK_SELECT = f"SELECT {','.join(TASK_COLUMNS)} FROM tasks"
ENTRY_SELECT = "SELECT task_id, n, epoch, body, seal FROM entries"
NOTE_SELECT = "SELECT name, value, seal FROM notes"
WAIT_COLUMNS = ("task_id", "path", "name", "since", "until", "asks", "seal")
WAIT_SELECT = f"SELECT {','.join(WAIT_COLUMNS)} FROM waits"
REST_SELECT = "SELECT id, rests_until, rests_clock, rests_seal FROM tasks"
BLOB_SELECT = "SELECT task_id, name, size, seal FROM blobs"
SHARD_SELECT = "SELECT epoch, commits, seal FROM shard"

AWAKE = "finished_at IS NULL AND rests_until IS NULL"
"""Condition for an open task that does not rest. An index of open tasks has these only."""
RESTS = "finished_at IS NULL AND rests_until IS NOT NULL"

Row = tuple[Any, ...]

ABSENT = bytearray()
"""Stands for NULL in a row that is written. No packed value is empty, so it cannot be mistaken for one.

sqlite3 binds a bytearray at once. For bytes and None it first looks for an adapter, which takes longer than the rest of
the binding, and blocks the event loop meanwhile.
"""


def seal(*facts: object) -> int:
    """Return the CRC-32 over the facts, in their order and with their types."""
    return zlib.crc32(pack(facts))


def _check(shard: str, place: str, sealed: int | None, *facts: object) -> None:
    if sealed != seal(*facts):
        raise JournalCorrupt(shard=shard, place=place, problem="the checksum does not match")


# the shard itself


def count_of(shard: str, row: Row | None) -> Count:
    """Return the epoch and the commits in a row of SHARD_SELECT, checked. Raises JournalCorrupt."""
    if row is None:
        raise JournalCorrupt(shard=shard, place="the shard's own row", problem="missing")
    epoch, commits, sealed = row
    _check(shard, "the shard's own row", sealed, epoch, commits)
    return Count(epoch, commits)


# tasks


def task_row(change: NewTask) -> Row:
    """Return the row of a new task, in the order of NEW_COLUMNS."""
    record = change.record
    fixed = (
        record.task_id, record.workflow, record.version, record.hash, record.user, record.priority, record.key,
        change.payload_digest, float(record.accepted_at),
    )  # fmt: skip
    packed = pack(record.input)
    sealed = seal(*fixed, packed)
    key = ABSENT if record.key is None else record.key
    return (*fixed[:6], key, *fixed[7:], sealed, record.status, bytearray(packed))


def closing_row(task_id: str, end: Closing) -> Row:
    """Return the row of an ended task: id, status, finished_at, finished_seal, result, failure."""
    finished_at = float(end.finished_at)
    sealed = seal(task_id, end.status, finished_at, end.result, end.trouble)
    return task_id, end.status, finished_at, sealed, _blob(end.result), _blob(end.trouble)


def _blob(packed: bytes | None) -> bytearray:
    return ABSENT if packed is None else bytearray(packed)


def found_row(shard: str, row: Row) -> Found:
    """Return the task in a row of TASK_SELECT, checked. Raises JournalCorrupt."""
    id, workflow, version, hash, user, priority, key, digest, accepted_at, _ = row[:10]
    status, finished_at, _, packed, result, failure = row[10:]
    check_accepted(shard, row)
    _check_end(shard, f"task {id}", row)
    trouble = _value(failure)
    record = TaskRecord(
        task_id=id,
        workflow=workflow,
        version=version,
        hash=hash,
        input=_value(packed),
        user=user,
        priority=priority,
        key=key,
        status=status,
        accepted_at=accepted_at,
        finished_at=finished_at,
        result=_value(result),
        failure=Failure.from_wire(trouble) if trouble and status != "completed" else None,
        degraded=trouble if trouble and status == "completed" else {},
    )
    return Found(record, digest)


def check_accepted(shard: str, row: Row) -> None:
    """Raise JournalCorrupt if anything that was fixed at acceptance has changed. The end is not checked."""
    _check(shard, f"task {row[0]}", row[9], *row[:9], row[13])


def reopened(row: Row) -> Row:
    """Return a row of TASK_SELECT as if its task had not ended."""
    return (*row[:10], "running", None, None, row[13], None, None)


def _check_end(shard: str, place: str, row: Row) -> None:
    status, finished_at, finished_seal, _, result, failure = row[10:]
    if status in TERMINAL and finished_at is not None:
        _check(shard, place, finished_seal, row[0], status, finished_at, result, failure)
    elif status not in OPEN or any(each is not None for each in (finished_at, finished_seal, result, failure)):
        when = "no time of its end" if finished_at is None else "a time of its end"
        raise JournalCorrupt(shard=shard, place=place, problem=f"status '{status}' with {when}")


def _value(packed: bytes | None) -> Value:
    return None if packed is None else unpack(packed, max_bytes=len(packed))


# entries and notes


def entry_row(entry: Entry, epoch: int) -> Row:
    return entry.task_id, entry.n, epoch, bytearray(entry.body), seal(entry.task_id, entry.n, epoch, entry.body)


def bodies_of(shard: str, rows: Iterable[Row]) -> dict[str, list[bytes]]:
    """Return packed events by task, from rows of ENTRY_SELECT sorted by task and number. Checks seals and gaps."""
    bodies: dict[str, list[bytes]] = defaultdict(list)
    for row in rows:
        task_id, n, _, body, _ = row
        expected = len(bodies[task_id]) + 1
        if n != expected:
            place = f"task {task_id}, entry {expected}"
            raise JournalCorrupt(shard=shard, place=place, problem=f"missing; the next is {n}")
        check_entry(shard, row)
        bodies[task_id].append(body)
    return bodies


def check_entry(shard: str, row: Row) -> None:
    """Raise JournalCorrupt if a row of ENTRY_SELECT does not match its seal."""
    _check(shard, f"task {row[0]}, entry {row[1]}", row[4], *row[:4])


def entries_of(shard: str, db: sqlite3.Connection, task_id: str) -> list[bytes]:
    """Return the packed events of one task, in order."""
    rows = db.execute(f"{ENTRY_SELECT} WHERE task_id = ? ORDER BY n", (task_id,))
    return bodies_of(shard, rows).get(task_id, [])


def blob_rows(changes: Iterable[Change]) -> list[Row]:
    """Return a row for each blob that a task names with these changes, in the order of BLOB_SELECT."""
    if not MET[0]:
        return []
    named = {(task_id, key.name): key.size for task_id, keys in map(_blobs_named, changes) for key in keys}
    return [(task_id, name, size, seal(task_id, name, size)) for (task_id, name), size in named.items()]


def _blobs_named(change: Change) -> tuple[str, frozenset[BlobKey]]:
    if isinstance(change, NewTask):
        return change.record.task_id, keys_in(change.record.input)
    return (change.task_id, change.blobs) if isinstance(change, Entry) else ("", NO_BLOBS)


def named_rows(task: Row, entries: Iterable[Row]) -> list[Row]:
    """Return the rows of the blobs that a task names by its rows of TASK_SELECT and ENTRY_SELECT."""
    keys = {key for packed in (task[13], *(entry[3] for entry in entries)) for key in _keys_in(packed)}
    return [(task[0], key.name, key.size, seal(task[0], key.name, key.size)) for key in sorted(keys)]


def names_in(task_id: str, packed: bytes) -> set[tuple[str, str]]:
    """Return the blobs that a packed input or body names, each as (task, name); none if it cannot be read."""
    return {(task_id, key.name) for key in _keys_in(packed)}


def _keys_in(packed: bytes) -> frozenset[BlobKey]:
    try:
        return keys_in(_value(packed))
    except InvalidInput:
        return NO_BLOBS  # of a later Podium: the task is set aside


def blob_of(shard: str, row: Row) -> BlobUse:
    """Return what a row of BLOB_SELECT says, checked. Raises JournalCorrupt."""
    task_id, name, size, sealed = row
    _check(shard, f"blob {name} of task {task_id}", sealed, task_id, name, size)
    return BlobUse(shard, task_id, name, size)


# standings


def standing_row(change: Standing) -> Row:
    """Return the row of a standing: status, rests_until, rests_clock, rests_seal, id."""
    rest = change.rests
    if rest is None:
        return change.status, None, None, None, change.task_id
    return change.status, rest.until, rest.clock_s, seal(change.task_id, *rest), change.task_id


def rest_of(shard: str, row: Row) -> Resting:
    """Return what a row of REST_SELECT says of a task that rests, checked. Raises JournalCorrupt."""
    id, until, clock_s, sealed = row
    _check(shard, f"task {id}, until when it rests", sealed, id, until, clock_s)
    return Resting(id, Rests(until, clock_s))


def wait_row(task_id: str, wait: ListedWait) -> Row:
    """Return the row of a wait, in the order of WAIT_COLUMNS."""
    facts = (task_id, wait.path, wait.name, float(wait.since), wait.until, pack(wait.asks))
    return (*facts, seal(*facts))


def wait_of(shard: str, row: Row) -> tuple[str, ListedWait]:
    """Return the task and the wait in a row of WAIT_SELECT, checked. Raises JournalCorrupt."""
    task_id, path, name, since, until, asks, sealed = row
    _check(shard, f"wait {path} of task {task_id}", sealed, task_id, path, name, since, until, asks)
    return task_id, ListedWait(path, name, since, until, _value(asks))


def note_row(name: str, value: Value) -> Row:
    packed = pack(value)
    return name, packed, seal(name, packed)


def note_of(shard: str, row: Row) -> tuple[str, Value]:
    """Return the name and the value in a row of NOTE_SELECT, checked. Raises JournalCorrupt."""
    name, packed, sealed = row
    _check(shard, f"note {name}", sealed, name, packed)
    return name, _value(packed)


def resting_task_row(shard: str, db: sqlite3.Connection, task_id: str) -> RestingTask | None:
    """Return a task with its entries if it rests, else None."""
    row = db.execute(f"{TASK_SELECT} WHERE id = ? AND {RESTS}", (task_id,)).fetchone()
    rest = db.execute(f"{REST_SELECT} WHERE id = ?", (task_id,)).fetchone()
    return None if row is None else resting_task_of(shard, row, rest, entries_of(shard, db, task_id))


def resting_task_of(shard: str, row: Row, rest: Row, bodies: list[bytes]) -> RestingTask:
    """Return a task that rests from its rows of TASK_SELECT and REST_SELECT. Raises JournalCorrupt."""
    return RestingTask(OpenTask(found_row(shard, row).record, bodies), rest_of(shard, rest).rests)


def open_task_rows(shard: str, db: sqlite3.Connection) -> list[OpenTask]:
    """Return every task that has not ended and does not rest, with its entries, in the order of acceptance."""
    entries = db.execute(
        f"SELECT task_id, n, epoch, body, seal FROM tasks JOIN entries ON task_id = id WHERE {AWAKE} "
        "ORDER BY task_id, n"
    )
    bodies = bodies_of(shard, entries)
    rows = db.execute(f"{TASK_SELECT} WHERE {AWAKE} ORDER BY accepted_at, id")
    records = [found_row(shard, row).record for row in rows]
    return [OpenTask(record, bodies.get(record.task_id, [])) for record in records]
