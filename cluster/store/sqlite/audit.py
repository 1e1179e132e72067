"""Checks a whole shard without owning it, and without stopping at the first flaw."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ....protocols.errors import JournalCorrupt
from ....protocols.values import Value
from ....supervisors.ports.journal import STALLED, STUCK
from ....supervisors.upkeep.blocked import blocked_protocols
from ..rows import ENTRY_SELECT, NOTE_SELECT, SHARD_SELECT, TASK_SELECT, check_entry, count_of, found_row, note_of
from .faults import UNREADABLE, as_ours
from .mark import Count, loss, read_mark
from .opening import check_tables, format_of, reading
from .schema import FORMAT, mark_path, wal_path

MOST_FLAWS = 100
"""Largest number of flaws that are listed. The check of records ends there."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """An error at a place within the shard."""

    place: str
    problem: str


@dataclass(slots=True)
class Audit:
    """The contents of a shard in numbers, and all that is wrong with it."""

    format: int | None = None
    """Format number of the file; None if the file has none, or an impossible one."""
    count: Count | None = None
    marked: Count | None = None
    """Epoch and commits by the mark; None if the mark is missing or torn."""
    lost: str | None = None
    """Acknowledged data that the shard lacks, in words; None if nothing is known to be lost."""
    structure: list[str] = field(default_factory=list)
    """Problems of pages and indexes that SQLite's own check found."""
    flaws: list[Flaw] = field(default_factory=list)
    """Records that fail their check, or are missing between others."""
    undefined: dict[str, int] = field(default_factory=dict)
    """Open tasks whose workflow version is not in the shard, counted by the hash of the version."""
    stalled: dict[str, str] = field(default_factory=dict)
    """Open tasks that do not go on by themselves, by id, each with the reason."""
    blocked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Protocols whose hosts cannot start, in the form of `blocked_protocols`."""
    open: int = 0
    finished: int = 0
    log_bytes: int = 0

    @property
    def sound(self) -> bool:
        return not (self.lost or self.structure or self.flaws)


def audit(path: Path, shard: str) -> Audit:
    """Check the shard at `path`. Raises OSError, or JournalFailed, if the shard cannot be opened."""
    found = Audit(marked=read_mark(mark_path(path)))
    log = wal_path(path)
    found.log_bytes = log.stat().st_size if log.exists() else 0
    if not path.exists() or path.stat().st_size == 0:
        if found.marked or found.log_bytes:
            found.lost = "is missing or empty, but commits were acknowledged"
        return found
    try:
        with reading(path) as db:
            _look_through(db, path, shard, found)
    except JournalCorrupt as error:
        found.flaws.append(Flaw(error.place, error.problem))
    except UNREADABLE as error:
        ours = as_ours(shard, path, error)
        if not isinstance(ours, JournalCorrupt):
            raise ours from error
        found.structure.append(ours.problem)
    return found


def _look_through(db: sqlite3.Connection, path: Path, shard: str, found: Audit) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > FORMAT and not _has_our_tables(db, path, shard):
        found.format = version
    found.format = format_of(db, path, shard)
    if found.format is None:
        if found.marked:
            found.lost = "is empty, but commits were acknowledged"
        return
    told = [problem for (problem,) in db.execute("PRAGMA integrity_check(20)")]
    found.structure = [] if told == ["ok"] else told
    if found.format < FORMAT:
        if found.marked:
            found.lost = f"is of format {found.format}, but later commits were acknowledged"
        return
    check_tables(db, path, shard)
    db.execute("BEGIN")  # one moment of a shard that may be written meanwhile
    try:
        found.count = count_of(shard, db.execute(SHARD_SELECT).fetchone())
        found.lost = loss(found.count, found.marked)
    except JournalCorrupt as error:
        found.flaws.append(Flaw(error.place, error.problem))
    for flaw in _flaws(db, shard, found):
        found.flaws.append(flaw)
        if len(found.flaws) >= MOST_FLAWS:
            break
    needed = dict(db.execute("SELECT hash, count(*) FROM tasks WHERE finished_at IS NULL GROUP BY hash"))
    there = {name for (name,) in db.execute("SELECT name FROM notes")}
    found.stalled = _stalled(db, shard)
    found.blocked = blocked_protocols(_notes(db, shard))
    found.undefined = {hash: tasks for hash, tasks in needed.items() if f"definition:{hash}" not in there}


def _stalled(db: sqlite3.Connection, shard: str) -> dict[str, str]:
    notes = _notes(db, shard).items()
    return {name.partition(":")[2]: str(why) for name, why in notes if name.startswith((STALLED, STUCK))}


def _notes(db: sqlite3.Connection, shard: str) -> dict[str, Value]:
    """Return the notes that pass their check."""
    found: dict[str, Value] = {}
    for row in db.execute(NOTE_SELECT):
        with suppress(JournalCorrupt):  # told as a flaw
            name, value = note_of(shard, row)
            found[name] = value
    return found


def _has_our_tables(db: sqlite3.Connection, path: Path, shard: str) -> bool:
    """Return whether the file has our tables. Then a later format number in it is only a flipped bit."""
    try:
        check_tables(db, path, shard)
    except JournalCorrupt:
        return False
    return True


def _flaws(db: sqlite3.Connection, shard: str, found: Audit) -> Iterator[Flaw]:
    for row in db.execute(f"{TASK_SELECT} NOT INDEXED ORDER BY id"):
        try:
            record = found_row(shard, row).record
        except JournalCorrupt as error:
            yield Flaw(error.place, error.problem)
            continue
        found.finished += record.finished_at is not None
        found.open += record.finished_at is None
    yield from _entry_flaws(db, shard, found.count)
    for row in db.execute(NOTE_SELECT):
        try:
            note_of(shard, row)
        except JournalCorrupt as error:
            yield Flaw(error.place, error.problem)


def _entry_flaws(db: sqlite3.Connection, shard: str, count: Count | None) -> Iterator[Flaw]:
    task_id, n, epoch = None, 0, 0
    for row in db.execute(f"{ENTRY_SELECT} ORDER BY task_id, n"):
        if row[0] != task_id:
            task_id, n, epoch = row[0], 0, 0
            if db.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).fetchone() is None:
                yield Flaw(f"task {task_id}", "there are entries, but no task")
        place = f"task {task_id}, entry {row[1]}"
        if row[1] != n + 1:
            yield Flaw(f"task {task_id}, entry {n + 1}", f"missing; the next is {row[1]}")
        if row[2] < epoch:
            yield Flaw(place, f"written in epoch {row[2]}, behind one of epoch {epoch}")
        if count is not None and row[2] > count.epoch:
            yield Flaw(place, f"written in epoch {row[2]}, but the shard is at epoch {count.epoch}")
        try:
            check_entry(shard, row)
        except JournalCorrupt as error:
            yield Flaw(error.place, error.problem)
        n, epoch = row[1], row[2]
