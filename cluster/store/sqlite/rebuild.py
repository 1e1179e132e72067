"""Rebuilds a damaged shard from its sound records, for `podium doctor --accept-loss`.

Nothing is patched in place. Sound records are copied to a new file, which replaces the old one in one rename. The old
files were copied aside before. A task keeps its entries up to the first that fails its check. If the end of a task
fails its check, the task is open again, and its supervisor derives the end from the entries anew. If its acceptance
fails its check, the task is forgotten. The new file has at least the epoch and the count of the mark, so epochs go on
rising.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ....protocols.errors import JournalCorrupt
from ..rows import (
    ENTRY_SELECT,
    NOTE_SELECT,
    SHARD_SELECT,
    TASK_COLUMNS,
    TASK_SELECT,
    Row,
    check_accepted,
    check_entry,
    count_of,
    found_row,
    named_rows,
    note_of,
    reopened,
    seal,
)
from .faults import UNREADABLE
from .mark import Count, Mark, read_mark
from .migrations import create, fresh_draft, sync_folder
from .opening import reading
from .schema import mark_path, wal_path


def copy_aside(path: Path, stamp: str) -> Path:
    """Copy the files of a shard to `<shard>.damaged-<stamp>/` beside it; returns that folder."""
    folder = path.with_name(f"{path.stem}.damaged-{stamp}")
    folder.mkdir(mode=0o700)
    for file in (path, wal_path(path), mark_path(path)):
        if file.exists():
            shutil.copy2(file, folder)
    return folder


def rebuild(path: Path, shard: str) -> list[str]:
    """Replace the file at `path` by a sound one; returns the losses, in words. No other process may hold the shard.

    Raises sqlite3.Error or OSError if the new file cannot be written. Then the old file is as it was.
    """
    draft = fresh_draft(path)
    lost: list[str] = []
    with closing(sqlite3.connect(draft, isolation_level=None)) as new:
        draft.chmod(0o600)
        new.execute("PRAGMA auto_vacuum=INCREMENTAL")
        new.execute("PRAGMA synchronous=FULL")
        create(new)
        new.execute("BEGIN IMMEDIATE")
        count = _salvage(path, shard, new, lost)
        sealed = seal(count.epoch, count.commits)
        new.execute("UPDATE shard SET epoch = ?, commits = ?, seal = ?", (count.epoch, count.commits, sealed))
        new.execute("COMMIT")
    # The log goes first: behind the new file SQLite would read it as the new file's own.
    for log in (wal_path(path), path.with_name(f"{path.name}-shm")):
        log.unlink(missing_ok=True)
    draft.replace(path)
    sync_folder(path)
    write_mark(path, count)
    return lost


def write_mark(path: Path, count: Count) -> None:
    """Write `count` to the mark of the shard at `path`, durably. Raises OSError."""
    mark = Mark(mark_path(path))
    try:
        mark.write(count.epoch, count.commits)
        mark.sync()
    finally:
        mark.close()


def _salvage(path: Path, shard: str, new: sqlite3.Connection, lost: list[str]) -> Count:
    """Copy the sound records; returns the epoch and commits from which the new shard goes on."""
    counts = [read_mark(mark_path(path)) or Count(0, 0)]
    if not path.exists():
        lost.append("the whole file: it is missing")
        return counts[0]
    with reading(path) as old:
        counts.append(_old_count(old, shard, lost))
        for row in _from_both_ends(old, TASK_SELECT, "id", lost):
            counts.append(Count(_salvage_task(old, new, shard, row, lost), 0))
        _salvage_notes(old, new, shard, lost)
        _name_orphans(old, lost)
    return Count(max(count.epoch for count in counts), max(count.commits for count in counts))


def _old_count(old: sqlite3.Connection, shard: str, lost: list[str]) -> Count:
    try:
        return count_of(shard, old.execute(SHARD_SELECT).fetchone())
    except (*UNREADABLE, JournalCorrupt) as error:
        lost.append(f"the shard's own row, made anew ({_reason(error)})")
        return Count(0, 0)


def _from_both_ends(old: sqlite3.Connection, select: str, key: str, lost: list[str]) -> Iterator[Row]:
    """Yield rows in order up to the first unreadable page, then from the last row back to that page."""
    reached = ""
    try:
        for row in old.execute(f"{select} NOT INDEXED ORDER BY {key}"):
            reached = row[0]
            yield row
        return
    except UNREADABLE as error:
        lost.append(f"what lies behind {reached or 'the beginning'} on pages that cannot be read ({error})")
    try:
        yield from old.execute(f"{select} NOT INDEXED WHERE {key} > ? ORDER BY {key} DESC", (reached,))
    except UNREADABLE as error:
        lost.append(f"what cannot be reached from the end either ({error})")


def _salvage_task(old: sqlite3.Connection, new: sqlite3.Connection, shard: str, row: Row, lost: list[str]) -> int:
    """Copy a task with its sound entries; returns the epoch of the last one, or 0."""
    try:
        check_accepted(shard, row)
    except JournalCorrupt as error:
        lost.append(f"task {row[0]}, forgotten: its acceptance cannot be trusted ({error.problem})")
        return 0
    try:
        found_row(shard, row)
    except JournalCorrupt as error:
        lost.append(f"the end of task {row[0]}, which is open again ({error.problem})")
        row = reopened(row)
    columns = ",".join(TASK_COLUMNS)
    insert = f"INSERT OR IGNORE INTO tasks ({columns}) VALUES ({','.join('?' * len(row))})"
    if new.execute(insert, row).rowcount == 0:
        lost.append(f"a second record of task {row[0]} or of its key")
        return 0
    entries, problem = _sound_entries(old, shard, row[0])
    new.executemany("INSERT OR IGNORE INTO entries VALUES (?,?,?,?,?)", entries)
    new.executemany("INSERT OR IGNORE INTO blobs VALUES (?,?,?,?)", named_rows(row, entries))
    if problem:
        lost.append(f"task {row[0]} from entry {len(entries) + 1} on ({problem})")
    return entries[-1][2] if entries else 0


def _sound_entries(old: sqlite3.Connection, shard: str, task_id: str) -> tuple[list[Row], str]:
    """Return the entries before the first that fails its check, and what is wrong with that one, or ""."""
    entries: list[Row] = []
    try:
        for row in old.execute(f"{ENTRY_SELECT} WHERE task_id = ? ORDER BY n", (task_id,)):
            if row[1] != len(entries) + 1:
                return entries, f"missing; the next is {row[1]}"
            if entries and row[2] < entries[-1][2]:
                return entries, "of an older epoch than the one before it"
            check_entry(shard, row)
            entries.append(row)
    except (*UNREADABLE, JournalCorrupt) as error:
        return entries, _reason(error)
    return entries, ""


def _salvage_notes(old: sqlite3.Connection, new: sqlite3.Connection, shard: str, lost: list[str]) -> None:
    for row in _from_both_ends(old, NOTE_SELECT, "name", lost):
        try:
            note_of(shard, row)
        except JournalCorrupt as error:
            lost.append(f"note {row[0]} ({error.problem})")
        else:
            new.execute("INSERT OR IGNORE INTO notes VALUES (?,?,?)", row)


def _name_orphans(old: sqlite3.Connection, lost: list[str]) -> None:
    query = "SELECT task_id, count(*) FROM entries WHERE task_id NOT IN (SELECT id FROM tasks) GROUP BY task_id"
    try:
        for task_id, entries in old.execute(query):
            lost.append(f"{entries} entries of task {task_id}, which is not there")
    except UNREADABLE as error:
        lost.append(f"whatever entries belong to no task ({error})")


def _reason(error: Exception) -> str:
    return error.problem if isinstance(error, JournalCorrupt) else str(error)
