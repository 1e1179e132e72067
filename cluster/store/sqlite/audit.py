"""Checks a whole shard without owning it, and without stopping at the first flaw."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from ....protocols.errors import JournalCorrupt
from ..records import Flaw, Records
from ..rows import (
    BLOB_SELECT,
    ENTRY_SELECT,
    NOTE_SELECT,
    REST_SELECT,
    SHARD_SELECT,
    TASK_SELECT,
    WAIT_SELECT,
    count_of,
)
from .faults import UNREADABLE, as_ours
from .mark import Count, loss, read_mark
from .opening import check_tables, format_of, reading
from .schema import FORMAT, SEALED, mark_path, wal_path


@dataclass(slots=True)
class Audit(Records):
    """The contents of a shard's file in numbers, and all that is wrong with it."""

    format: int | None = None
    """Format number of the file; None if the file has none, or an impossible one."""
    count: Count | None = None
    marked: Count | None = None
    """Epoch and commits by the mark; None if the mark is missing or torn."""
    lost: str | None = None
    """Acknowledged data that the shard lacks, in words; None if nothing is known to be lost."""
    structure: list[str] = field(default_factory=list)
    """Problems of pages and indexes that SQLite's own check found."""
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
    if found.format < SEALED:
        if found.marked:
            found.lost = f"is of format {found.format}, but later commits were acknowledged"
        return
    check_tables(db, path, shard, found.format)
    db.execute("BEGIN")  # one moment of a shard that may be written meanwhile
    try:
        found.count = count_of(shard, db.execute(SHARD_SELECT).fetchone())
        found.lost = loss(found.count, found.marked)
    except JournalCorrupt as error:
        found.flaws.append(Flaw(error.place, error.problem))
    found.look_through(
        shard,
        None if found.count is None else found.count.epoch,
        db.execute(f"{TASK_SELECT} NOT INDEXED ORDER BY id"),
        db.execute(f"{ENTRY_SELECT} ORDER BY task_id, n"),
        db.execute(NOTE_SELECT),
        db.execute(BLOB_SELECT) if found.format > SEALED else (),
        *(db.execute(select) for select in (REST_SELECT, WAIT_SELECT) if found.format == FORMAT),
    )


def _has_our_tables(db: sqlite3.Connection, path: Path, shard: str) -> bool:
    """Return whether the file has our tables. Then a later format number in it is only a flipped bit."""
    try:
        check_tables(db, path, shard)
    except JournalCorrupt:
        return False
    return True
