"""Checks an installation in PostgreSQL without owning its shards: the server, and the records of each shard."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from ....protocols.errors import JournalCorrupt
from ..records import Flaw, Records
from ..rows import TASK_COLUMNS, WAIT_COLUMNS, Row, seal
from .connecting import Connection, Database, translated
from .mark import Known, marks, read_mark
from .schema import quoted
from .tables import format_of
from .writing import Writing

ROWS_AT_ONCE = 1_000
"""Number of rows that are fetched together. A shard may be larger than the memory."""
_ROUND_TRIPS = 20
_SETTINGS = ("server_version", "fsync", "full_page_writes", "synchronous_commit", "max_connections")


@dataclass(slots=True)
class ShardRecords(Records):
    """The records of a shard, and its epoch."""

    epoch: int | None = None
    lost: str | None = None
    """Acknowledged data that the shard lacks, as far as this machine knows, in words (see mark.py)."""


@dataclass(slots=True)
class DatabaseAudit:
    """The facts about an installation."""

    settings: dict[str, str]
    """Settings of the server that bear on durability, by name."""
    is_standby: bool
    round_trip_ms: float
    connections: int
    """Number of connections to the server."""
    format: int | None
    """Format of the tables; None if there are none."""
    shards: dict[str, ShardRecords] = field(default_factory=dict)


def audit(database: Database, folder: Path) -> DatabaseAudit:
    """Check the installation. `folder` is that of its shards on this machine. Raises JournalFailed, OSError."""
    with translated("*", database), database.connect() as db:
        found = DatabaseAudit(
            settings={name: _one(db, f"SHOW {name}") for name in _SETTINGS},
            is_standby=_one(db, "SELECT pg_is_in_recovery()::text") == "true",
            round_trip_ms=_round_trip_ms(db),
            connections=int(_one(db, "SELECT count(*) FROM pg_stat_activity")),
            format=format_of(db, database),
        )
        if found.format is not None:
            with _moment(db):
                for row in _own_rows(db, database):
                    found.shards[row[0]] = _look_through(db, database, *row)
        for shard, path in marks(folder, database.url, database.schema).items():
            lost = _lost(db, database, shard, path, found.format is not None)
            if lost is not None:
                found.shards.setdefault(shard, ShardRecords()).lost = lost
        return found


def _lost(db: Connection, database: Database, shard: str, path: Path, has_tables: bool) -> str | None:
    """Compare a shard, which may be written meanwhile, with its mark."""
    while True:
        known = read_mark(path)
        if known is None:
            return None
        lost = known.loss(*_state(db, database, shard, known)) if has_tables else known.loss(0, is_there=False)
        if lost is None or read_mark(path) == known:
            return lost


def _state(db: Connection, database: Database, shard: str, known: Known) -> tuple[int, bool]:
    """Return the epoch of a shard, 0 if there is none, and whether the row of its mark is there."""
    with _moment(db):
        query = f"SELECT epoch FROM {quoted(database.schema)}.shards WHERE shard = %s"
        row = db.execute(query.encode(), (shard,)).fetchone()
        probe = known.row and db.execute(*Writing(database.schema).probe(shard, known.row)).fetchone()
        return (0 if row is None else int(str(row[0]))), probe is not None


@contextmanager
def _moment(db: Connection) -> Iterator[None]:
    """Read one moment of shards that may be written meanwhile."""
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _own_rows(db: Connection, database: Database) -> list[Row]:
    """Return the own row of each shard: its name, epoch, line and seal."""
    return db.execute(
        f"SELECT shard, epoch, line, seal FROM {quoted(database.schema)}.shards ORDER BY shard"
    ).fetchall()


def _look_through(db: Connection, database: Database, shard: str, epoch: int, line: int, sealed: int) -> ShardRecords:
    found = ShardRecords(epoch=epoch)
    if sealed != seal(shard, epoch, line):
        found.flaws.append(Flaw("the shard's own row", "the checksum does not match"))
    at = quoted(database.schema)
    tasks, entries = ",".join(f'"{column}"' for column in TASK_COLUMNS), "task_id, n, epoch, body, seal"
    try:
        found.look_through(
            shard,
            epoch,
            _rows(db, f"SELECT {tasks} FROM {at}.tasks WHERE shard = %s ORDER BY id", shard),
            _rows(
                db,
                f"SELECT {entries} FROM {at}.entries WHERE shard = %s ORDER BY task_id, n",
                shard,
            ),
            _rows(db, f"SELECT name, value, seal FROM {at}.notes WHERE shard = %s", shard),
            _rows(db, f"SELECT task_id, name, size, seal FROM {at}.blobs WHERE shard = %s", shard),
            _rows(db, f"SELECT id, rests_until, rests_clock, rests_seal FROM {at}.tasks WHERE shard = %s", shard),
            _rows(db, f"SELECT {','.join(WAIT_COLUMNS)} FROM {at}.waits WHERE shard = %s", shard),
        )
    except JournalCorrupt as error:
        found.flaws.append(Flaw(error.place, error.problem))
    return found


def _rows(db: Connection, query: str, shard: str) -> Iterator[tuple[object, ...]]:
    with psycopg.ServerCursor(db, "podium_audit") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(query.encode(), (shard,), binary=True)
        yield from cursor


def _one(db: Connection, query: str) -> str:
    row = db.execute(query.encode()).fetchone()
    return "" if row is None else str(row[0])


def _round_trip_ms(db: Connection) -> float:
    """Return the median time of a round trip."""
    took = []
    for _ in range(_ROUND_TRIPS):
        began = time.perf_counter()
        db.execute("SELECT 1")
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000
