"""The SQLite file of a file index: its tables, its lock, and the conditions under which it is rebuilt.

The file is a cache; the files below the root are authoritative. A database of another format, root or limits, or a
damaged one, is therefore deleted and rebuilt. Only an intact SQLite file of another program is refused. The process
that holds `<database>.lock` writes; other processes only read.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from .words import TOKENIZER

FORMAT = 2
"""Version of the tables and of the way in which texts are cut. Each change increases it."""
APPLICATION = 0x506F4649
"""SQLite application id ("PoFI") that marks the file as ours, so that no other SQLite file is ever deleted."""
PASSAGES_PER_FILE = 1 << 20
"""Number of rows reserved for each file. The passages of file n have the rows from n * PASSAGES_PER_FILE on."""
CHECK_BYTES = 64 * 1024 * 1024
"""Largest file that is checked as a whole when it is opened. Damage in a larger one shows only in use."""

_TABLES = (
    "CREATE TABLE origin (text TEXT NOT NULL)",
    """CREATE TABLE files (
        id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        hash BLOB NOT NULL, skipped TEXT)""",
    f"""CREATE VIRTUAL TABLE passages USING fts5(
        path, titles, text, parts, line UNINDEXED, end_line UNINDEXED, tokenize = '{TOKENIZER}')""",
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def take_lock(database: Path) -> int | None:
    """Take the lock for writing, until the returned handle is closed; None if it is taken. Raises OSError."""
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def open_writing(database: Path, origin: str) -> sqlite3.Connection:
    """Open an index of this origin for writing; rebuild it if necessary. The caller holds the lock.

    Args:
        origin: root and limits of the index, as a text.

    Raises:
        ValueError: the file is an intact SQLite database of another program.
        sqlite3.OperationalError: the file cannot be opened or written.
    """
    if _is_usable(database, origin):
        return _connect(database)
    delete(database)
    db = _connect(database)
    try:
        db.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            db.execute(table)
        db.execute("INSERT INTO origin VALUES (?)", (origin,))
        db.execute(f"PRAGMA application_id={APPLICATION}")
        db.execute(f"PRAGMA user_version={FORMAT}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def open_reading(database: Path, origin: str) -> sqlite3.Connection | None:
    """Open an index for one search beside the process that writes; None if there is no index of this origin yet.

    Each search opens it anew, so that a rebuilt index is found.
    """
    try:
        db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.OperationalError:  # not there yet
        return None
    try:
        if _says(db, origin):
            return db
    except sqlite3.DatabaseError:  # being made this moment, or damaged, which is its writer's to mend
        pass
    db.close()
    return None


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error means that the file itself is damaged, not that it cannot be used now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def delete(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def _connect(database: Path) -> sqlite3.Connection:
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # it has the texts of private files
    db = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA journal_size_limit=16777216")
    except BaseException:
        db.close()
        raise
    return db


def _is_usable(database: Path, origin: str) -> bool:
    if not database.exists():
        return False
    try:
        db = sqlite3.connect(database, isolation_level=None)
    except sqlite3.OperationalError:
        return False
    try:
        mark = db.execute("PRAGMA application_id").fetchone()[0]
        if mark != APPLICATION and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise ValueError(f"{database} is an SQLite database of something else; name another file for the index")
        return _says(db, origin) and _is_sound(db, database)
    except sqlite3.DatabaseError as error:
        if not is_damage(error) and not _lacks_tables(error):
            raise
        return False
    finally:
        db.close()


def _says(db: sqlite3.Connection, origin: str) -> bool:
    """Return whether an index is of this format and origin."""
    if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        return False
    row = db.execute("SELECT text FROM origin").fetchone()
    return row is not None and row[0] == origin


def _is_sound(db: sqlite3.Connection, database: Path) -> bool:
    if database.stat().st_size > CHECK_BYTES:
        return True
    sound: bool = db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    return sound


def _lacks_tables(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_ERROR
