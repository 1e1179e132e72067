"""Connections to PostgreSQL, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ....protocols.errors import JournalCorrupt, JournalFailed, PodiumError
from ..address import place_of

Connection = psycopg.Connection[tuple[object, ...]]

_DEFAULTS = {
    "application_name": "podium",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""Parameters of libpq that apply unless the URL sets them: a machine that is gone is noticed within 10 s."""
_TIMEOUTS = {"statement_timeout": 1.0, "lock_timeout": 0.9, "idle_in_transaction_session_timeout": 1.0}
"""Settings of the server that bound time, with their shares of `timeout_s`. A wait for a lock ends first, by name."""
_BY_INDEX = {"enable_seqscan": "off"}
"""Setting of a session whose statements are prepared. One that was prepared over small tables would else read them as a
whole when they have grown, until the server looks at them. Behind a pooler each statement is planned anew."""
_PREPARE_AFTER = 3
"""Number of runs after which a statement is prepared. Planning takes half of the time of a small commit."""
_REMEDIES = {
    "53100": "the database's disk is full: free space there; nothing acknowledged is lost",
    "53300": "the database has no connection left: raise max_connections, or put PgBouncer in front",
    "25006": "the database is read-only, perhaps a standby: name the primary in the URL",
    "42501": "the role lacks rights: make the tables once with a role that may, or grant CREATE on the database",
    "57014": "a statement took longer than `database_timeout_s`",
    "55P03": "a lock was held longer than `database_timeout_s`: somebody holds the shard in a transaction",
}
"""Remedies for errors, by SQLSTATE."""
_PASSES = ("08", "57P", "53300")
"""Beginnings of the SQLSTATEs of errors that pass: the connection was lost, the server restarts, it has no room."""
_FOR_GOOD = {
    "does not exist": "create the database or the role first",
    "password authentication failed": "the password is wrong",
    "no password supplied": "give the password in the URL, in PGPASSWORD or in ~/.pgpass",
    "no pg_hba.conf entry": "the server does not let this machine and role in: see its pg_hba.conf",
    "is not permitted to log in": "the role needs LOGIN",
}
"""By words in the messages of failed connections that do not pass: the remedy. libpq gives these no SQLSTATE."""


@dataclass(frozen=True, slots=True)
class Database:
    """One installation in a database."""

    url: str
    schema: str = "podium"
    timeout_s: float = 30.0
    """Longest time of one statement, and of a wait for a lock, in seconds."""

    @property
    def place(self) -> str:
        """Name of the database for messages, without the password."""
        return place_of(self.url)

    @property
    def timeouts(self) -> dict[str, str]:
        """The server's settings that bound time."""
        return {name: f"{max(1, round(share * self.timeout_s * 1000))}ms" for name, share in _TIMEOUTS.items()}

    def connect(self, **parameters: str) -> Connection:
        """Connect, with time-outs and `_BY_INDEX` as settings of the session where that is possible (see `is_ours`).

        `parameters` of libpq apply whatever the URL says. Raises psycopg.OperationalError.
        """
        given = conninfo_to_dict(self.url)
        info: dict[str, Any] = {key: value for key, value in _DEFAULTS.items() if key not in given} | parameters
        settings = self.timeouts | _BY_INDEX
        options = " ".join(
            [str(given.get("options") or ""), *(f"-c {name}={value}" for name, value in settings.items())]
        )
        try:
            db = psycopg.connect(make_conninfo(self.url, **info, options=options.strip()), autocommit=True)
        except psycopg.OperationalError as error:
            if "startup parameter" not in str(error):
                raise
            db = psycopg.connect(make_conninfo(self.url, **info), autocommit=True)  # a pooler that knows no options
        db.prepare_threshold = _PREPARE_AFTER if self.is_ours(db) else None
        return db

    def transaction_settings(self, db: Connection) -> dict[str, str]:
        """Return the settings that each transaction over a connection has to make for itself.

        These are the time-outs, unless they are settings of the session; and a commit must wait for the disk, whatever
        the database says: else the server would acknowledge what a crash takes away.
        """
        lax = db.execute("SHOW synchronous_commit").fetchone() == ("off",)
        return ({} if self.is_ours(db) else self.timeouts) | ({"synchronous_commit": "on"} if lax else {})

    def is_ours(self, db: Connection) -> bool:
        """Whether a connection is to a server's process of our own, so that what is set or prepared there stays.

        It is not behind PgBouncer in transaction mode. That lets the options of a session go by.
        """
        name = "statement_timeout"
        shown = db.execute("SELECT setting || unit FROM pg_settings WHERE name = %s", (name,)).fetchone()
        return shown is not None and shown[0] == self.timeouts[name]


@contextmanager
def translated(shard: str, database: Database) -> Iterator[None]:
    """Raise errors of the database as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise as_ours(shard, database, error) from error


def as_ours(shard: str, database: Database, error: Exception) -> PodiumError:
    """Return an error as JournalFailed, with what to do about it. A PodiumError is returned as it is."""
    if isinstance(error, PodiumError):
        return error
    if isinstance(error, psycopg.errors.DataCorrupted | psycopg.errors.IndexCorrupted):
        return JournalCorrupt(shard=shard, place=database.place, problem=_first_line(error))
    remedy = _remedy(error)
    reason = f"{database.place}: {_first_line(error)}"
    return JournalFailed(shard=shard, reason=f"{reason} ({remedy})" if remedy else reason)


def passes(error: psycopg.Error, connection: Connection | None = None) -> bool:
    """Whether an error comes from the way to the database, so that the same work may succeed a little later.

    Without `connection` the error is of an attempt to connect.
    """
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return not any(words in str(error) for words in _FOR_GOOD)
    return (error.sqlstate or "").startswith(_PASSES) or (connection is not None and connection.closed)


def _remedy(error: Exception) -> str | None:
    state = getattr(error, "sqlstate", None)
    if state is None:
        return next((remedy for words, remedy in _FOR_GOOD.items() if words in str(error)), None)
    return _REMEDIES.get(state)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
