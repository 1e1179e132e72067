"""A shard of format 1, as Podium 0.1.0 first wrote it."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing

from podium.cluster.store.sqlite.schema import shard_path
from podium.protocols.outcomes import Failure
from podium.protocols.values import pack

FORMAT_1 = """
CREATE TABLE shard (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT;
INSERT INTO shard VALUES (1, 0);
CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, workflow TEXT NOT NULL, version TEXT NOT NULL, hash TEXT NOT NULL,
    input BLOB NOT NULL, user TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT, digest TEXT NOT NULL,
    status TEXT NOT NULL, accepted_at REAL NOT NULL, finished_at REAL, result BLOB, failure BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX open_tasks ON tasks (accepted_at, id) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX task_keys ON tasks (user, key) WHERE key IS NOT NULL;
CREATE TABLE entries (
    task_id TEXT NOT NULL, n INTEGER NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (task_id, n)
) STRICT, WITHOUT ROWID;
"""
"""As Podium 0.1.0 first wrote it: a checksum behind each blob, commits not counted."""
FAILURE = Failure("error", "m", "K", "tb", "a", 2)


def sealed(blob):
    return blob + zlib.crc32(blob).to_bytes(4, "big")


def write_format_1(data, padding=b""):
    path = shard_path(data, "w")
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(f"BEGIN;{FORMAT_1}PRAGMA user_version=1;COMMIT;")
        db.execute("UPDATE shard SET epoch = 7")
        db.execute("INSERT INTO notes VALUES ('definition:h', ?)", (sealed(pack({"hash": "h"})),))
        ends = {
            "t-1": ("running", None, None, None),
            "t-2": ("completed", 105.5, sealed(pack({"r": padding})), None),
            "t-3": ("failed", 106.5, None, sealed(pack(FAILURE.to_wire()))),
        }
        for id, (status, finished_at, result, failure) in ends.items():
            row = (id, "w", "1", "h", sealed(pack({"n": 1})), "u", 3, f"k-{id}", "d", status, 100.5)
            db.execute(f"INSERT INTO tasks VALUES ({','.join('?' * 14)})", (*row, finished_at, result, failure))
            db.execute("INSERT INTO entries VALUES (?,?,?,?)", (id, 1, 6, sealed(b"one")))
            db.execute("INSERT INTO entries VALUES (?,?,?,?)", (id, 2, 7, sealed(b"two")))
    return path
