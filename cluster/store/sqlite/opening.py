"""Opens a shard's file: first the checks, then the settings, the format, and the epoch.

The checks use a read-only connection, so that a damaged shard stays exactly as it was found. A writing connection would
fold the log into the main file when it closes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ....protocols.errors import JournalCorrupt
from ..rows import SHARD_SELECT, count_of, seal
from .mark import Count, Mark, loss, read_mark
from .migrations import create, migrate
from .schema import FORMAT, SEALED, TABLES_OF, mark_path, wal_path

CHECK_BYTES = 256 * 1024 * 1024
"""Size in bytes of the largest file that is checked as a whole (`PRAGMA integrity_check`) each time it is opened.

The check takes 110 ms per 100 MB of small records and 45 ms of large ones, from the page cache. Only `podium doctor`
checks larger files as a whole. Records are checked when they are read in any case.
"""

READER_WAIT_MS = 100
"""Milliseconds that opening waits for readers to end, so that it can empty the log. Then it goes on without that."""
BUSY_WAIT_MS = 5000
"""Milliseconds that all else waits for SQLite's own locks, which only a second owner would hold for long."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that changes nothing, for a short while."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("PRAGMA query_only=1")
        yield db


def check_file(path: Path, shard: str) -> None:
    """Check a shard before it is taken over. The file need not exist yet.

    Raises:
        JournalCorrupt: the shard is damaged, or has lost acknowledged commits.
        sqlite3.Error, OSError: the shard cannot be read.
    """
    mark = read_mark(mark_path(path))
    if not path.exists() or path.stat().st_size == 0:
        _check_absence(path, shard, mark)
        return
    with reading(path) as db:
        version = format_of(db, path, shard)
        if version is None:
            _check_absence(path, shard, mark)
            return
        if path.stat().st_size <= CHECK_BYTES:
            for (problem,) in db.execute("PRAGMA integrity_check(1)"):
                if problem != "ok":
                    raise JournalCorrupt(shard=shard, place=str(path), problem=problem)
        if version < SEALED:
            if mark is not None:
                problem = f"format {version}, but commits in a later format were acknowledged: {mark.commits}"
                raise JournalCorrupt(shard=shard, place=str(path), problem=problem)
            return
        check_tables(db, path, shard, version)
        lost = loss(count_of(shard, db.execute(SHARD_SELECT).fetchone()), mark)
    if lost is not None:
        raise JournalCorrupt(shard=shard, place=str(path), problem=lost)


def _check_absence(path: Path, shard: str, mark: Count | None) -> None:
    """Raise JournalCorrupt for a missing or empty file, unless the shard is new: no mark, and no log."""
    if mark is not None:
        problem = f"missing or empty, but commits were acknowledged: {mark.commits}"
        raise JournalCorrupt(shard=shard, place=str(path), problem=problem)
    log = wal_path(path)
    if log.exists() and log.stat().st_size > 0:
        raise JournalCorrupt(shard=shard, place=str(path), problem=f"missing or empty, but its log {log.name} is there")


def format_of(db: sqlite3.Connection, path: Path, shard: str) -> int | None:
    """Return the format number of a file; None if nothing was ever written to the file.

    Raises:
        JournalCorrupt: the number is unknown, or that of a later Podium.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return None
    if 1 <= version <= FORMAT:
        return version
    problem = f"format {version}, this Podium reads formats 1 to {FORMAT}"
    if version > FORMAT:
        problem += ": use the newer Podium that wrote it, or put a copy back from before"
    raise JournalCorrupt(shard=shard, place=str(path), problem=problem)


def check_tables(db: sqlite3.Connection, path: Path, shard: str, version: int = FORMAT) -> None:
    """Raise JournalCorrupt unless the tables and indexes are exactly those of a format that has seals."""
    stored, wanted = (
        {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")},
        set(TABLES_OF[version]),
    )
    if stored != wanted:
        names = ", ".join(sorted(sql.split("(")[0].strip() for sql in stored ^ wanted))
        raise JournalCorrupt(shard=shard, place=str(path), problem=f"not the tables of format {version}: {names}")


def open_file(path: Path, shard: str) -> sqlite3.Connection:
    """Open a writing connection to a checked file. Brings it to the newest format, and folds its log in.

    Raises:
        JournalCorrupt, sqlite3.Error, OSError.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # takes effect in a new file, or with the next VACUUM
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=2000")
        db.execute("PRAGMA journal_size_limit=16777216")
        version = format_of(db, path, shard)
        if version is None:
            create(db)
        elif version < FORMAT:
            migrate(db, path, shard)
        if db.execute("PRAGMA auto_vacuum").fetchone()[0] != 2:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("VACUUM")
        # After a failed fsync the log may be sound in memory only: what it says is written to the main file anew.
        db.execute(f"PRAGMA busy_timeout={READER_WAIT_MS}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute(f"PRAGMA busy_timeout={BUSY_WAIT_MS}")
    except BaseException:
        db.close()
        raise
    return db


def take_epoch(db: sqlite3.Connection, path: Path, shard: str) -> tuple[Count, Mark]:
    """Begin the shard's next epoch, durably; returns the new epoch and commits, and the open mark."""
    mark = Mark(mark_path(path))
    try:
        db.execute("BEGIN IMMEDIATE")
        before = count_of(shard, db.execute(SHARD_SELECT).fetchone())
        count = Count(before.epoch + 1, before.commits + 1)
        db.execute(
            "UPDATE shard SET epoch = ?, commits = ?, seal = ?",
            (count.epoch, count.commits, seal(count.epoch, count.commits)),
        )
        db.execute("COMMIT")
        mark.write(count.epoch, count.commits)
        mark.sync()
    except BaseException:
        mark.close()
        raise
    return count, mark
