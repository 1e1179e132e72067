"""The schema of a shard's file: its tables, its format number, and the paths of it and of the files beside it.

Every table has a column for the seals (checksums, see rows.py) of its rows. Small columns come before large ones, so
that a scan over times and statuses need not read inputs.
"""

from __future__ import annotations

from pathlib import Path

FORMAT = 4
"""Version of the file format, in SQLite's `user_version`. A new one needs a step in migrations.py."""

TABLES_2 = (
    """CREATE TABLE shard (
    one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, commits INTEGER NOT NULL, seal INTEGER NOT NULL
) STRICT""",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL, seal INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE tasks (
    id TEXT PRIMARY KEY, workflow TEXT NOT NULL, version TEXT NOT NULL, hash TEXT NOT NULL, user TEXT NOT NULL,
    priority INTEGER NOT NULL, key TEXT, digest TEXT NOT NULL, accepted_at REAL NOT NULL,
    accepted_seal INTEGER NOT NULL, status TEXT NOT NULL, finished_at REAL, finished_seal INTEGER,
    input BLOB NOT NULL, result BLOB, failure BLOB
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX open_tasks ON tasks (accepted_at, id) WHERE finished_at IS NULL",
    "CREATE UNIQUE INDEX task_keys ON tasks (user, key) WHERE key IS NOT NULL",
    """CREATE TABLE entries (
    task_id TEXT NOT NULL, n INTEGER NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL, seal INTEGER NOT NULL,
    PRIMARY KEY (task_id, n)
) STRICT, WITHOUT ROWID""",
)


BLOBS_TABLE = """CREATE TABLE blobs (
    task_id TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, seal INTEGER NOT NULL,
    PRIMARY KEY (task_id, name)
) STRICT, WITHOUT ROWID"""
TABLES_3 = (*TABLES_2, BLOBS_TABLE)
RESTING = (
    "DROP INDEX open_tasks",
    "ALTER TABLE tasks ADD COLUMN rests_until REAL",
    "ALTER TABLE tasks ADD COLUMN rests_clock REAL",
    "ALTER TABLE tasks ADD COLUMN rests_seal INTEGER",
    "CREATE INDEX open_tasks ON tasks (accepted_at, id) WHERE finished_at IS NULL AND rests_until IS NULL",
    "CREATE INDEX resting_tasks ON tasks (rests_until, id, hash) WHERE finished_at IS NULL AND rests_until IS NOT NULL",
    """CREATE TABLE waits (
    task_id TEXT NOT NULL, path TEXT NOT NULL, name TEXT NOT NULL, since REAL NOT NULL, until REAL, asks BLOB NOT NULL,
    seal INTEGER NOT NULL, PRIMARY KEY (task_id, path)
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX newest_waits ON waits (since)",
)
"""The statements that make format 4 of format 3."""
_WITH_REST = "failure BLOB\n, rests_until REAL, rests_clock REAL, rests_seal INTEGER)"
"""The end of the table of tasks as SQLite has it after RESTING."""
TABLES = (
    *(sql.replace("failure BLOB\n)", _WITH_REST) for sql in TABLES_3 if not sql.startswith("CREATE INDEX open_tasks")),
    *(sql for sql in RESTING if sql.startswith("CREATE")),
)
TABLES_OF = {2: TABLES_2, 3: TABLES_3, FORMAT: TABLES}
"""The tables of each format whose records have seals, and whose commits are counted in a mark."""
SEALED = min(TABLES_OF)
"""The first such format."""


def shard_path(data: Path, shard: str) -> Path:
    return data / "shards" / f"{shard}.db"


def wal_path(path: Path) -> Path:
    """Return the path of SQLite's log beside a shard. It has commits that are not yet in the main file."""
    return path.with_name(f"{path.name}-wal")


def mark_path(path: Path) -> Path:
    return path.with_suffix(".mark")


def doing_path(path: Path) -> Path:
    return path.with_suffix(".doing")


def lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def files_of(path: Path) -> list[Path]:
    """Return the paths of the files of a shard: the `.db` at `path`, and those beside it that may be there.

    That of SQLite's shared memory is not among them: it comes and goes with those who read.
    """
    return [path, wal_path(path), mark_path(path), doing_path(path), lock_path(path)]
