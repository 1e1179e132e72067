"""Writes changes with SQL, many rows at a time, always within a transaction of the caller."""

from __future__ import annotations

import sqlite3
from itertools import chain

from ....supervisors.ports.journal import FIRST, Change, Entry, Forget, NewTask, Note, Resting, Standing
from ..rows import (
    ABSENT,
    AWAKE,
    NEW_COLUMNS,
    REST_SELECT,
    RESTS,
    WAIT_COLUMNS,
    Row,
    blob_rows,
    closing_row,
    entry_row,
    note_row,
    rest_of,
    standing_row,
    task_row,
    wait_row,
)

GIVEN_BACK_PAGES = 512
"""Most free pages (2 MiB) that one transaction gives back to the file system, so that it does not take long."""

_NEW_VALUES = ",".join(
    f"nullif(column{n}, x'')" if name == "key" else f"column{n}" for n, name in enumerate(NEW_COLUMNS, 1)
)
_NEW = f"""
INSERT INTO tasks ({",".join(NEW_COLUMNS)}) SELECT {_NEW_VALUES} FROM (VALUES {{rows}}) WHERE column1 IS NOT x''
"""
_ENTRY = "INSERT INTO entries (task_id, n, epoch, body, seal) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT x''"
_CLOSE = """
UPDATE tasks SET status = column2, finished_at = column3, finished_seal = column4, result = nullif(column5, x''),
failure = nullif(column6, x'') FROM (VALUES {rows}) WHERE id = column1 AND finished_at IS NULL
"""
_WAIT = f"INSERT OR REPLACE INTO waits ({','.join(WAIT_COLUMNS)}) VALUES ({','.join('?' * len(WAIT_COLUMNS))})"
_STAND = """
UPDATE tasks SET status = ?, rests_until = ?, rests_clock = ?, rests_seal = ? WHERE id = ? AND finished_at IS NULL
"""
_UNWAIT = "DELETE FROM waits WHERE task_id = ? AND path = ?"
_MOST_ROWS = 256
"""Largest number of rows of one statement. With 12 columns these are 3,072 variables."""


def write_changes(db: sqlite3.Connection, epoch: int, changes: list[Change]) -> None:
    """Write `changes` in their order. Raises sqlite3.Error, or ValueError if a task to forget is open."""
    begin = 0
    for at, change in enumerate(changes):
        if isinstance(change, Forget):  # what it deletes may be written anew behind it
            _write_rows(db, epoch, changes[begin:at])
            _forget(db, change.task_id)
            begin = at + 1
    _write_rows(db, epoch, changes[begin:])
    if begin:
        _give_back(db)


def _give_back(db: sqlite3.Connection) -> None:
    """Give free pages back, one by one: sqlite3 takes only the first step of this pragma, whatever its number."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, GIVEN_BACK_PAGES)):
        db.execute("PRAGMA incremental_vacuum(1)")


def _write_rows(db: sqlite3.Connection, epoch: int, changes: list[Change]) -> None:
    """Write changes, grouped by kind: tasks, entries, statuses, ends, notes."""
    new = [task_row(change) for change in changes if isinstance(change, NewTask)]
    if new:
        _in_groups(db, _NEW, new)
    entries = [change for change in changes if isinstance(change, Entry)]
    if entries:
        _in_groups(db, _ENTRY, [entry_row(entry, epoch) for entry in entries])
    standings = [change for change in changes if isinstance(change, Standing)]
    if standings:
        _write_standings(db, standings)
    closings = [closing_row(entry.task_id, entry.closing) for entry in entries if entry.closing is not None]
    if closings:
        _in_groups(db, _CLOSE, closings)
    if blobs := blob_rows(changes):
        db.executemany("INSERT OR IGNORE INTO blobs (task_id, name, size, seal) VALUES (?,?,?,?)", blobs)
    _write_notes(db, [change for change in changes if isinstance(change, Note)])


def _write_standings(db: sqlite3.Connection, changes: list[Standing]) -> None:
    db.executemany(_STAND, map(standing_row, changes))
    for change in changes:
        db.executemany(_UNWAIT, [(change.task_id, path) for path in change.over])
        db.executemany(_WAIT, [wait_row(change.task_id, wait) for wait in change.waits])


def _write_notes(db: sqlite3.Connection, notes: list[Note]) -> None:
    for note in notes:
        if note.value is None:
            db.execute("DELETE FROM notes WHERE name = ?", (note.name,))
        else:
            db.execute(
                "INSERT INTO notes (name, value, seal) VALUES (?,?,?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value, seal = excluded.seal",
                note_row(note.name, note.value),
            )


def _forget(db: sqlite3.Connection, task_id: str) -> None:
    """Delete a task and the runs below it; '0' is the character behind '/'."""
    below = (f"{task_id}/", f"{task_id}0")
    for where, which in (("id = ?", (task_id,)), ("id > ? AND id < ?", below)):
        still_open = db.execute(f"SELECT id FROM tasks WHERE {where} AND finished_at IS NULL", which).fetchone()
        if still_open is not None:
            raise ValueError(f"task {still_open[0]} is open and cannot be forgotten")
        db.execute(f"DELETE FROM entries WHERE {where.replace('id', 'task_id')}", which)
        db.execute(f"DELETE FROM blobs WHERE {where.replace('id', 'task_id')}", which)
        db.execute(f"DELETE FROM waits WHERE {where.replace('id', 'task_id')}", which)
        db.execute(f"DELETE FROM tasks WHERE {where}", which)


def _in_groups(db: sqlite3.Connection, statement: str, rows: list[Row]) -> None:
    """Execute `statement` over all rows, many at a time.

    sqlite3 releases the interpreter lock at every execution, and gets it back only when the event loop releases it.
    So beside a busy loop, one statement of 256 rows is many times faster than 256 statements of one row. Statements
    have one of nine sizes, so that sqlite3 keeps them prepared. Unused rows are filled with ABSENT, and `statement`
    skips them.
    """
    columns = len(rows[0])
    row = "(" + ",".join("?" * columns) + ")"
    for begin in range(0, len(rows), _MOST_ROWS):
        part = rows[begin : begin + _MOST_ROWS]
        size = 1 << (len(part) - 1).bit_length()
        values: list[object] = list(chain.from_iterable(part))
        values += [ABSENT] * (columns * (size - len(part)))
        db.execute(statement.replace("{rows}", ",".join([row] * size)), values)


def forgettable(db: sqlite3.Connection, before: float, limit: int) -> list[str]:
    """Return at most `limit` ids of tasks that finished before `before`, in UTC seconds, the oldest id first.

    Ids rise with the time of acceptance. So no task after one accepted at `before` or later can have finished earlier.
    """
    ids: list[str] = []
    for id, accepted_at, finished_at in db.execute("SELECT id, accepted_at, finished_at FROM tasks ORDER BY id"):
        if len(ids) == limit or accepted_at >= before:
            break
        if finished_at is not None and finished_at < before:
            ids.append(id)
    return ids


def resting(
    shard: str, db: sqlite3.Connection, until: float, limit: int, after: tuple[float, str] = FIRST
) -> list[Resting]:
    """Return the tasks that rest until `until` at most, in the order of that and the id (see `Journal.resting`)."""
    query = f"{REST_SELECT} WHERE {RESTS} AND rests_until <= ? AND (rests_until, id) > (?, ?)"
    rows = db.execute(f"{query} ORDER BY rests_until, id LIMIT ?", (until, *after, limit))
    return [rest_of(shard, row) for row in rows]


def resting_counts(db: sqlite3.Connection) -> dict[str, int]:
    """Count the tasks that rest by the hash of their version, from the index alone."""
    return dict(db.execute(f"SELECT hash, count(*) FROM tasks WHERE {RESTS} GROUP BY hash"))


def finished_count(db: sqlite3.Connection) -> int:
    """Return the number of ended tasks: all less the open ones, both counted in B-trees without reading rows."""
    (count,) = db.execute("SELECT count(*) FROM tasks").fetchone()
    open_ones: int = count_open(db)
    return int(count) - open_ones


def count_open(db: sqlite3.Connection) -> int:
    """Return the number of open tasks, those included that rest."""
    parts = [db.execute(f"SELECT count(*) FROM tasks WHERE {where}").fetchone()[0] for where in (AWAKE, RESTS)]
    return sum(parts)
