"""A database as the source or the target of a move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from ..moving import Moved, ShardRows
from ..rows import TASK_COLUMNS, Row, seal
from .connecting import Connection, Database, translated
from .mark import marks
from .schema import lock_key, quoted
from .tables import prepare

_TASKS = ("shard", *TASK_COLUMNS)
_ENTRIES = ("shard", "task_id", "n", "epoch", "body", "seal")
_BLOBS = ("shard", "task_id", "name", "size", "seal")
_NOTES = ("shard", "name", "value", "seal")


class Installation:
    """Implements `Source` and `Target`. As a source it takes every shard over, so that owners elsewhere are fenced."""

    def __init__(self, database: Database, folder: Path) -> None:
        """`folder`: that of its shards on this machine."""
        self._database, self._folder, self._at = database, folder, quoted(database.schema)
        self.place = f"{database.place}, schema '{database.schema}'"

    def is_empty(self) -> bool:
        with translated("*", self._database), self._database.connect() as db:
            prepare(db, self._database)
            return db.execute(f"SELECT 1 FROM {self._at}.shards LIMIT 1".encode()).fetchone() is None

    def shards(self) -> Iterator[ShardRows]:
        with translated("*", self._database), self._database.connect() as db:
            query = f"SELECT shard FROM {self._at}.shards ORDER BY shard"
            for (shard,) in db.execute(query.encode()).fetchall():
                name = str(shard)
                epoch = self._take_over(db, name)
                with db.transaction():
                    yield ShardRows(name, epoch, *self._rows(db, name))

    def _take_over(self, db: Connection, shard: str) -> int:
        """Take the shard's next epoch; its owner, wherever it is, writes nothing any more."""
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(self._database.schema, shard),))
            query = f"SELECT epoch, line FROM {self._at}.shards WHERE shard = %s"
            facts = db.execute(query.encode(), (shard,)).fetchone()
            assert facts is not None
            epoch, line = int(str(facts[0])) + 1, int(str(facts[1])) + 1
            update = f"UPDATE {self._at}.shards SET epoch = %s, line = %s, seal = %s WHERE shard = %s"
            db.execute(update.encode(), (epoch, line, seal(shard, epoch, line), shard))
        return epoch

    def _rows(self, db: Connection, shard: str) -> Iterator[Iterable[Row]]:
        columns = ",".join(f'"{column}"' for column in TASK_COLUMNS)
        for query in (
            f"SELECT {columns} FROM {self._at}.tasks WHERE shard = %s ORDER BY id",
            f"SELECT task_id, n, epoch, body, seal FROM {self._at}.entries WHERE shard = %s ORDER BY task_id, n",
            f"SELECT name, value, seal FROM {self._at}.notes WHERE shard = %s",
            f"SELECT task_id, name, size, seal FROM {self._at}.blobs WHERE shard = %s",
        ):
            yield _streamed(db, query, shard)

    def put_aside(self, stamp: str) -> str:
        aside = f"{self._database.schema}_moved_{stamp}"[:63]
        with translated("*", self._database), self._database.connect() as db:
            db.execute(f"ALTER SCHEMA {self._at} RENAME TO {quoted(aside)}".encode())
        for path in marks(self._folder, self._database.url, self._database.schema).values():
            path.unlink()  # what is written here next is another installation
        return f"{self._database.place}, schema '{aside}'"

    def load(self, shards: Iterator[ShardRows]) -> Moved:
        moved = Moved()
        with translated("*", self._database), self._database.connect() as db, db.transaction():
            for rows in shards:
                moved = moved.plus(self._load(db, rows))
        return moved

    def _load(self, db: Connection, rows: ShardRows) -> Moved:
        shard, epoch = rows.shard, rows.epoch
        tasks = self._copy(db, "tasks", _TASKS, shard, rows.tasks)
        entries = self._copy(db, "entries", _ENTRIES, shard, rows.entries)
        self._copy(db, "notes", _NOTES, shard, rows.notes)
        self._copy(db, "blobs", _BLOBS, shard, rows.blobs)
        insert = f"INSERT INTO {self._at}.shards (shard, epoch, line, seal) VALUES (%s, %s, 0, %s)"
        db.execute(insert.encode(), (shard, epoch, seal(shard, epoch, 0)))
        return Moved(1, tasks, entries)

    def _copy(self, db: Connection, table: str, columns: tuple[str, ...], shard: str, rows: Iterable[Row]) -> int:
        count = 0
        names = ",".join(f'"{column}"' for column in columns)
        with db.cursor() as cursor, cursor.copy(f"COPY {self._at}.{table} ({names}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row((shard, *row))
                count += 1
        return count


def _streamed(db: Connection, query: str, shard: str) -> Iterator[Row]:
    with psycopg.ServerCursor(db, f"podium_move_{abs(hash(query))}") as cursor:
        cursor.execute(query.encode(), (shard,), binary=True)
        yield from cursor
