"""The blob store in the database that has the journal: each content in pieces, in rows of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import psycopg

from ...protocols.errors import BlobMissing, BlobsAway, JournalFailed, PodiumError
from ...supervisors.ports.blobs import Blob
from ..store.postgres.connecting import Connection, Database, as_ours
from ..store.postgres.schema import quoted
from ..store.postgres.tables import prepare
from .hashing import pieces_of

PIECE_BYTES = 1024 * 1024
ROWS_AT_ONCE = 1_000


class PostgresBlobs:
    """Implements `Remote`. Every call uses a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database, at = database, quoted(database.schema)
        self.place = database.place
        self._contents, self._pieces = f"{at}.contents", f"{at}.pieces"
        self._is_prepared = False

    @contextmanager
    def _connected(self, writes: bool = False) -> Iterator[Connection]:
        """Connect, and raise what goes wrong as BlobsAway with the remedy. Only who writes makes the tables."""
        try:
            with self._database.connect() as db:
                if writes and not self._is_prepared:
                    prepare(db, self._database)
                    self._is_prepared = True
                yield db
        except psycopg.errors.UndefinedTable:
            raise
        except (psycopg.Error, JournalFailed) as error:
            ours: PodiumError = as_ours("*", self._database, error)
            raise BlobsAway(place=self.place, reason=str(getattr(ours, "reason", ours))) from error

    def _one(self, query: str, name: str) -> object:
        row = None
        with suppress(psycopg.errors.UndefinedTable), self._connected() as db:
            row = db.execute(query.encode(), (name,)).fetchone()
        return None if row is None else row[0]

    def size_of(self, name: str) -> int | None:
        size = self._one(f"SELECT size FROM {self._contents} WHERE name = %s", name)
        return None if size is None else int(str(size))

    def is_doomed(self, name: str) -> bool:
        return self._one(f"SELECT doomed_at FROM {self._contents} WHERE name = %s", name) is not None

    def upload(self, name: str, path: Path) -> None:
        with self._connected(writes=True) as db, db.transaction():
            add = f"INSERT INTO {self._contents} (name, size) VALUES (%s, %s) ON CONFLICT DO NOTHING"
            if db.execute(add.encode(), (name, path.stat().st_size)).rowcount == 0:
                return  # another process has just put it: this waited for its transaction
            for setting, value in self._database.transaction_settings(db).items():
                db.execute("SELECT set_config(%s, %s, true)", (setting, value))
            copy = f"COPY {self._pieces} (name, n, piece) FROM STDIN (FORMAT binary)"
            with db.cursor() as cursor, cursor.copy(copy.encode()) as rows:
                rows.set_types(["text", "int4", "bytea"])
                for n, piece in enumerate(pieces_of(str(path), PIECE_BYTES)):
                    rows.write_row((name, n, piece))

    def download(self, name: str) -> Iterator[bytes]:
        if self.size_of(name) is None:
            raise BlobMissing(name=name, place=self.place)
        query = f"SELECT piece FROM {self._pieces} WHERE name = %s ORDER BY n"
        with self._connected() as db, db.transaction(), psycopg.ServerCursor(db, "podium_blob") as cursor:
            cursor.itersize = 8
            cursor.execute(query.encode(), (name,), binary=True)
            for (piece,) in cursor:
                yield cast(bytes, piece)

    def listing(self) -> Iterator[Blob]:
        query = f"SELECT name, size, extract(epoch FROM put_at)::float8, doomed_at FROM {self._contents}"
        with (
            suppress(psycopg.errors.UndefinedTable),
            self._connected() as db,
            db.transaction(),
            psycopg.ServerCursor(db, "podium_blobs") as cursor,
        ):
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(query.encode(), binary=True)
            for row in cursor:
                yield Blob(*row)  # type: ignore[arg-type]

    def doom(self, name: str, at: float) -> None:
        self._do(f"UPDATE {self._contents} SET doomed_at = %s WHERE name = %s", at, name)

    def spare(self, name: str) -> None:
        self._do(f"UPDATE {self._contents} SET doomed_at = NULL WHERE name = %s", name)

    def delete(self, name: str, doomed_at: float) -> None:
        self._do(f"DELETE FROM {self._contents} WHERE name = %s AND doomed_at = %s", name, doomed_at)

    def _do(self, query: str, *parameters: object) -> None:
        with self._connected(writes=True) as db:
            db.execute(query.encode(), parameters)
