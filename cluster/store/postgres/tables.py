"""Makes, migrates and checks the tables of an installation."""

from __future__ import annotations

from psycopg import errors

from ....protocols.errors import JournalFailed
from .connecting import Connection, Database, translated
from .schema import FORMAT, MIGRATIONS, lock_key, migration, quoted, tables


def prepare(db: Connection, database: Database) -> None:
    """Make the tables unless they are there, and bring an older format up to date.

    Raises JournalFailed, or psycopg.Error.
    """
    version = format_of(db, database)
    if version != FORMAT:
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(database.schema, ""),))
            version = _made(db, database)
    if version != FORMAT:
        remedy = "use the newer Podium that wrote it" if version > FORMAT else "no Podium can migrate it"
        where = f"{database.place}, schema '{database.schema}'"
        reason = f"{where}: format {version}, and this Podium has {FORMAT}: {remedy}"
        raise JournalFailed(shard="*", reason=reason)


def _made(db: Connection, database: Database) -> int:
    version = format_of(db, database)
    if version is None:
        db.execute(tables(database.schema).encode())
        return FORMAT
    while version in MIGRATIONS:
        _check_unused(db, database, version)
        db.execute(migration(database.schema, version).encode())
        version += 1
    return version


def _check_unused(db: Connection, database: Database, version: int) -> None:
    """Refuse to migrate tables that a cluster of an older Podium uses. Raises JournalFailed."""
    query = f"SELECT host FROM {quoted(database.schema)}.owner WHERE until > now()"
    row = db.execute(query.encode()).fetchone() if version == 1 else None
    if row is not None:
        host = str(row[0]).partition(" ")[0]
        reason = f"{database.place}: a cluster of an older Podium runs on {host}: end it, and this one migrates"
        raise JournalFailed(shard="*", reason=reason)


def installation_in(database: Database) -> str:
    """Return the name of an installation, which it was given with its tables. Raises JournalFailed."""
    with translated("*", database), database.connect() as db:
        prepare(db, database)
        row = db.execute(f"SELECT name FROM {quoted(database.schema)}.installation".encode()).fetchone()
    assert row is not None
    return str(row[0])


def has_tables(database: Database) -> bool:
    """Whether the tables of this format are there. Makes none. Raises JournalFailed."""
    with translated("*", database), database.connect() as db:
        return format_of(db, database) == FORMAT


def format_of(db: Connection, database: Database) -> int | None:
    """Return the format of the tables; None if there are none."""
    # no to_regclass: a session may remember that there was no such table, also behind a lock that it waited for
    query = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = %s AND relname = %s"
    if db.execute(query, (database.schema, "format")).fetchone() is None:
        return None
    try:
        row = db.execute(f"SELECT version FROM {quoted(database.schema)}.format".encode()).fetchone()
    except errors.UndefinedTable:  # dropped meanwhile
        return None
    return int(str(row[0])) if row else None
