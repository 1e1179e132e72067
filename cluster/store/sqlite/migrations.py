"""Brings a shard of an older format to the newest: one function per step.

Each step is one transaction, which also sets the new format number. So after a crash the file is wholly of one format.
Before a step, the file is copied to `<shard>.db.format<n>` beside it. Podium never reads or deletes that copy. A step
has its own SQL once its format is no longer the newest.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ....protocols.errors import JournalCorrupt
from ..rows import Row, seal
from .schema import BLOBS_TABLE, FORMAT, RESTING, TABLES, TABLES_2

LOG = logging.getLogger("podium")


def create(db: sqlite3.Connection) -> None:
    """Make the tables of the newest format in a file that has none."""
    db.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        db.execute(statement)
    db.execute("INSERT INTO shard VALUES (1, 0, 0, ?)", (seal(0, 0),))
    db.execute(f"PRAGMA user_version={FORMAT}")
    db.execute("COMMIT")


def migrate(db: sqlite3.Connection, path: Path, shard: str) -> None:
    """Bring the shard to FORMAT, step by step. Raises JournalCorrupt, sqlite3.Error, OSError."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    for number in range(version, FORMAT):
        copy = _keep_copy(db, path, number)
        _take_step(db, shard, number)
        LOG.warning("shard '%s' was brought from format %d to %d; a copy is in %s", shard, number, number + 1, copy)


@contextmanager
def as_newest(db: sqlite3.Connection, shard: str) -> Iterator[sqlite3.Connection]:
    """Yield the shard in FORMAT for a reader, who changes no file: the shard itself, or a migrated copy in memory.

    A file that is being created (format 0) is read as an empty shard.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == FORMAT:
        yield db
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        if version == 0:
            create(copy)
        else:
            db.backup(copy)
            (version,) = copy.execute("PRAGMA user_version").fetchone()  # its owner may have migrated it meanwhile
            for number in range(version, FORMAT):
                _take_step(copy, shard, number)
        yield copy


def _take_step(db: sqlite3.Connection, shard: str, number: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        STEPS[number](db, shard)
        db.execute(f"PRAGMA user_version={number + 1}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _keep_copy(db: sqlite3.Connection, path: Path, version: int) -> Path:
    copy = path.with_name(f"{path.name}.format{version}")
    draft = fresh_draft(copy)
    with closing(sqlite3.connect(draft)) as target:
        draft.chmod(0o600)
        db.backup(target)
    draft.replace(copy)
    sync_folder(path)
    return copy


def fresh_draft(path: Path) -> Path:
    """Return the path of a draft that will replace `path`. An old draft there is removed."""
    draft = path.with_name(f"{path.name}.draft")
    for left in (draft, draft.with_name(f"{draft.name}-journal")):
        left.unlink(missing_ok=True)
    return draft


def sync_folder(path: Path) -> None:
    """Make a rename of `path` durable."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _seal_whole_records(db: sqlite3.Connection, shard: str) -> None:
    """Migrate 1 to 2. Checksums were at the end of each blob; now each covers its record. Commits are counted."""
    for index in ("open_tasks", "task_keys"):
        db.execute(f"DROP INDEX {index}")
    for table in ("shard", "notes", "tasks", "entries"):
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
    for statement in TABLES_2:
        db.execute(statement)
    (epoch,) = db.execute("SELECT epoch FROM shard_1").fetchone()
    db.execute("INSERT INTO shard VALUES (1, ?, 0, ?)", (epoch, seal(epoch, 0)))
    for name, value in db.execute("SELECT name, value FROM notes_1"):
        packed = _unseal(shard, f"note {name}", value)
        db.execute("INSERT INTO notes VALUES (?,?,?)", (name, packed, seal(name, packed)))
    tasks = db.execute(
        "SELECT id, workflow, version, hash, user, priority, key, digest, accepted_at, status, finished_at, "
        "input, result, failure FROM tasks_1 ORDER BY id"
    )
    for row in tasks:
        db.execute(f"INSERT INTO tasks VALUES ({','.join('?' * 16)})", _resealed_task(shard, row))
    for task_id, n, epoch, body in db.execute("SELECT task_id, n, epoch, body FROM entries_1 ORDER BY task_id, n"):
        plain = _unseal(shard, f"task {task_id}, entry {n}", body)
        db.execute("INSERT INTO entries VALUES (?,?,?,?,?)", (task_id, n, epoch, plain, seal(task_id, n, epoch, plain)))
    for table in ("shard", "notes", "tasks", "entries"):
        db.execute(f"DROP TABLE {table}_1")


def _resealed_task(shard: str, row: Row) -> Row:
    id, *_, status, finished_at, _, _, _ = row
    packed, result, failure = (None if blob is None else _unseal(shard, f"task {id}", blob) for blob in row[11:])
    ended = None if finished_at is None else seal(id, status, finished_at, result, failure)
    return (*row[:9], seal(*row[:9], packed), status, finished_at, ended, packed, result, failure)


def _unseal(shard: str, place: str, sealed: bytes) -> bytes:
    """Return a blob of format 1 without its CRC-32, the last four bytes. Raises JournalCorrupt if that is wrong."""
    blob = sealed[:-4]
    if len(sealed) < 4 or zlib.crc32(blob) != int.from_bytes(sealed[-4:], "big"):
        raise JournalCorrupt(shard=shard, place=place, problem="the checksum does not match")
    return blob


def _list_blobs(db: sqlite3.Connection, _shard: str) -> None:
    """Migrate 2 to 3. Tasks may name blobs from now on; none does yet."""
    db.execute(BLOBS_TABLE)


def _list_waits(db: sqlite3.Connection, _shard: str) -> None:
    """Migrate 3 to 4. Tasks may rest and wait from now on; none does yet."""
    for statement in RESTING:
        db.execute(statement)


STEPS: dict[int, Callable[[sqlite3.Connection, str], None]] = {
    1: _seal_whole_records,
    2: _list_blobs,
    3: _list_waits,
}
"""Steps by the format that they start from."""
