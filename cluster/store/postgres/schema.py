"""The tables of an installation in PostgreSQL, in a schema of their own.

They are those of the SQLite store, with the shard as the first column of every key. An owner of a shard is fenced by
its row in `shards`: a statement writes only where the shard's `epoch` and `line` are still the owner's. `epoch` counts
owners. `line` counts connections, so that a transaction that is still under way on a lost connection changes nothing
any more. Both change under an exclusive advisory lock of the shard, and every commit holds that lock in shared mode.
So no row is updated for each commit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

FORMAT = 4
"""Version of the tables, in the table `format`. A new one needs a step in `MIGRATIONS`."""

_MACHINES = """
CREATE TABLE {schema}.cluster (
    one integer PRIMARY KEY CHECK (one = 1), generation bigint NOT NULL, home text NOT NULL, facts text NOT NULL
);
CREATE TABLE {schema}.machines (
    id text COLLATE "C" PRIMARY KEY, generation bigint NOT NULL, host text NOT NULL, node text NOT NULL,
    lease_s double precision NOT NULL, until timestamptz NOT NULL, lost boolean NOT NULL DEFAULT false
);
"""
"""The tables of machines.py."""

_DDL = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE {schema}.format (version integer NOT NULL);
INSERT INTO {schema}.format VALUES ({version});
CREATE TABLE {schema}.shards (
    shard text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL, line bigint NOT NULL, seal bigint NOT NULL
);
CREATE TABLE {schema}.notes (
    shard text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, value bytea NOT NULL, seal bigint NOT NULL,
    PRIMARY KEY (shard, name)
);
CREATE TABLE {schema}.tasks (
    shard text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, workflow text NOT NULL, version text NOT NULL,
    hash text NOT NULL, "user" text COLLATE "C" NOT NULL, priority bigint NOT NULL, key text COLLATE "C",
    digest text NOT NULL, accepted_at double precision NOT NULL, accepted_seal bigint NOT NULL, status text NOT NULL,
    finished_at double precision, finished_seal bigint, input bytea NOT NULL, result bytea, failure bytea,
    PRIMARY KEY (shard, id)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX tasks_by_id ON {schema}.tasks (id);
CREATE INDEX open_tasks ON {schema}.tasks (shard, accepted_at, id) WHERE finished_at IS NULL;
CREATE INDEX newest_tasks ON {schema}.tasks (accepted_at);
CREATE UNIQUE INDEX task_keys ON {schema}.tasks (shard, "user", key) WHERE key IS NOT NULL;
CREATE TABLE {schema}.entries (
    shard text COLLATE "C" NOT NULL, task_id text COLLATE "C" NOT NULL, n bigint NOT NULL, epoch bigint NOT NULL,
    body bytea NOT NULL, seal bigint NOT NULL, PRIMARY KEY (shard, task_id, n)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
"""

_BLOBS = """
CREATE TABLE {schema}.blobs (
    shard text COLLATE "C" NOT NULL, task_id text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
    size bigint NOT NULL, seal bigint NOT NULL, PRIMARY KEY (shard, task_id, name)
);
CREATE TABLE {schema}.installation (name text NOT NULL);
INSERT INTO {schema}.installation VALUES ('database-' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 24));
CREATE TABLE {schema}.contents (
    name text COLLATE "C" PRIMARY KEY, size bigint NOT NULL, put_at timestamptz NOT NULL DEFAULT now(),
    doomed_at double precision
);
CREATE TABLE {schema}.pieces (
    name text COLLATE "C" NOT NULL REFERENCES {schema}.contents ON DELETE CASCADE, n integer NOT NULL,
    piece bytea NOT NULL, PRIMARY KEY (name, n)
);
ALTER TABLE {schema}.pieces ALTER COLUMN piece SET STORAGE EXTERNAL;
"""
"""The blobs that tasks name, the name of the installation among others, and the blob store (blobs/postgres.py)."""

_RESTING = """
ALTER TABLE {schema}.tasks ADD COLUMN rests_until double precision, ADD COLUMN rests_clock double precision,
    ADD COLUMN rests_seal bigint;
DROP INDEX {schema}.open_tasks;
CREATE INDEX open_tasks ON {schema}.tasks (shard, accepted_at, id) WHERE finished_at IS NULL AND rests_until IS NULL;
CREATE INDEX resting_tasks ON {schema}.tasks (shard, rests_until, id, hash)
    WHERE finished_at IS NULL AND rests_until IS NOT NULL;
CREATE TABLE {schema}.waits (
    shard text COLLATE "C" NOT NULL, task_id text COLLATE "C" NOT NULL, path text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL, since double precision NOT NULL, until double precision, asks bytea NOT NULL,
    seal bigint NOT NULL, PRIMARY KEY (shard, task_id, path)
);
CREATE INDEX newest_waits ON {schema}.waits (since);
"""
"""Until when open tasks rest, and their open waits."""

MIGRATIONS = {1: _MACHINES + "DROP TABLE {schema}.owner;", 2: _BLOBS, 3: _RESTING}
"""By format: the statements that make the next format of it."""


def tables(schema: str) -> str:
    """Return the statements that make the tables. `schema` is checked to be a plain name by the settings."""
    return (_DDL + _MACHINES + _BLOBS + _RESTING).format(schema=quoted(schema), version=FORMAT)


def migration(schema: str, version: int) -> str:
    """Return the statements that make the next format out of format `version`."""
    return f"{MIGRATIONS[version]} UPDATE {{schema}}.format SET version = {version + 1};".format(schema=quoted(schema))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def lock_key(schema: str, shard: str) -> int:
    """Return the number of the advisory lock of a shard; "" stands for the installation as a whole."""
    digest = hashlib.sha256(f"podium/{schema}/{shard}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class Fence:
    """The owner of a shard, and its connection: what a commit compares with the shard's row."""

    shard: str
    epoch: int
    line: int
