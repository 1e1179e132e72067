"""A data directory as the source or the target of a move."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ....protocols.errors import JournalFailed
from ..moving import Moved, ShardRows
from ..rows import BLOB_SELECT, ENTRY_SELECT, NOTE_SELECT, SHARD_SELECT, TASK_COLUMNS, TASK_SELECT, count_of, seal
from .faults import UNREADABLE, as_ours
from .mark import Count
from .migrations import as_newest, create, sync_folder
from .opening import check_file, reading
from .rebuild import write_mark
from .schema import shard_path

_TASK = f"INSERT INTO tasks ({','.join(TASK_COLUMNS)}) VALUES ({','.join('?' * len(TASK_COLUMNS))})"
_ENTRY = "INSERT INTO entries (task_id, n, epoch, body, seal) VALUES (?,?,?,?,?)"
_BLOB = "INSERT INTO blobs (task_id, name, size, seal) VALUES (?,?,?,?)"
_NOTE = "INSERT INTO notes (name, value, seal) VALUES (?,?,?)"


class Directory:
    """Implements `Source` and `Target`. The caller keeps clusters out."""

    def __init__(self, data: Path) -> None:
        self.place, self._data = str(data), data

    @property
    def _folder(self) -> Path:
        return self._data / "shards"

    def is_empty(self) -> bool:
        return not any(self._folder.glob("*.db"))

    def shards(self) -> Iterator[ShardRows]:
        for path in sorted(self._folder.glob("*.db")):
            try:
                with _readable(path) as db:
                    count = count_of(path.stem, db.execute(SHARD_SELECT).fetchone())
                    tasks, entries = db.execute(f"{TASK_SELECT} ORDER BY id"), f"{ENTRY_SELECT} ORDER BY task_id, n"
                    notes, blobs = db.execute(NOTE_SELECT), db.execute(BLOB_SELECT)
                    yield ShardRows(path.stem, count.epoch, tasks, db.execute(entries), notes, blobs)
            except (*UNREADABLE, OSError) as error:
                raise as_ours(path.stem, path, error) from error

    def put_aside(self, stamp: str) -> str:
        aside = self._folder.with_name(f"shards.moved-{stamp}")
        self._folder.rename(aside)
        sync_folder(aside)
        return str(aside)

    def load(self, shards: Iterator[ShardRows]) -> Moved:
        draft = self._data / "shards.draft"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "shards").mkdir(parents=True)
        moved = Moved()
        try:
            for rows in shards:
                moved = moved.plus(_write(shard_path(draft, rows.shard), rows))
            shutil.rmtree(self._folder, ignore_errors=True)  # it has no shard: locks and notes of owners at most
            (draft / "shards").rename(self._folder)
            sync_folder(self._folder)
        except (sqlite3.Error, OSError) as error:
            raise JournalFailed(shard="*", reason=f"{self.place}: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return moved


@contextmanager
def _readable(path: Path) -> Iterator[sqlite3.Connection]:
    check_file(path, path.stem)
    with reading(path) as db, as_newest(db, path.stem) as newest:
        yield newest


def _write(path: Path, rows: ShardRows) -> Moved:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        path.chmod(0o600)
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA synchronous=FULL")
        create(db)
        db.execute("BEGIN IMMEDIATE")
        tasks = db.executemany(_TASK, rows.tasks).rowcount
        entries = db.executemany(_ENTRY, rows.entries).rowcount
        db.executemany(_NOTE, rows.notes)
        db.executemany(_BLOB, rows.blobs)
        db.execute("UPDATE shard SET epoch = ?, commits = 1, seal = ?", (rows.epoch, seal(rows.epoch, 1)))
        db.execute("COMMIT")
    write_mark(path, Count(rows.epoch, 1))
    return Moved(1, max(tasks, 0), max(entries, 0))
