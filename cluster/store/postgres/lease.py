"""The ownership of an installation in a database: one row, renewed by the database's time as long as the cluster lives.

The lease is a hint: it keeps a second cluster from starting by mistake. What keeps two owners from writing the same
shard is the epoch (see schema.py). A cluster that cannot renew its lease goes on, and is fenced when another starts.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from pathlib import Path

import psycopg

from ....protocols.errors import DataInUse
from .connecting import Connection, Database, translated
from .schema import quoted
from .tables import prepare

LOG = logging.getLogger("podium")

RENEWALS = 3
"""Number of renewals in the time of a lease."""


class Lease:
    """Implements `Ownership`."""

    def __init__(self, database: Database, lease_s: float, host: str | None = None) -> None:
        """Make the lease of one session.

        Args:
            database: the installation.
            lease_s: seconds without a renewal after which another machine may start a cluster.
            host: a name of this machine and of its present boot. An earlier owner from here is certainly gone.
        """
        self._database, self._lease_s = database, lease_s
        self._host = host or _this_host()
        self._holder = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        owner = f"{quoted(database.schema)}.owner"
        until = "now() + make_interval(secs => %s)"
        self._take = f"""
            INSERT INTO {owner} AS o (one, holder, host, pid, until) VALUES (1, %s, %s, %s, {until})
            ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, host = excluded.host, pid = excluded.pid,
                until = excluded.until
            WHERE o.until < now() OR o.host = excluded.host RETURNING 1"""
        self._renew = f"UPDATE {owner} SET until = {until} WHERE holder = %s"
        self._read = f"SELECT host, pid, until FROM {owner}"
        self._release = f"DELETE FROM {owner} WHERE holder = %s"

    def take(self) -> None:
        with translated("*", self._database), self._database.connect() as db:
            prepare(db, self._database)
            taken = db.execute(self._take, (self._holder, self._host, os.getpid(), self._lease_s)).fetchone()
            if taken is None:
                raise DataInUse(directory=self._database.place, holder=self._held_by(db))
        if self._thread is None or not self._thread.is_alive():
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._keep, args=(self._ended,), name="podium-lease", daemon=True)
            self._thread.start()

    def _held_by(self, db: Connection) -> str:
        row = db.execute(self._read).fetchone()
        if row is None:
            return "a cluster that has just ended: try again"
        host, pid, until = row
        return f"a cluster on {str(host).partition(' ')[0]} (process {pid}), whose lease runs until {until:%H:%M:%S %Z}"

    def release(self) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        try:
            with self._database.connect() as db:
                db.execute(self._release, (self._holder,))
        except psycopg.errors.UndefinedTable:
            return  # the installation was moved away, its lease with it
        except psycopg.Error as error:
            LOG.warning("the lease in %s runs out by itself: %s", self._database.place, error)

    def _keep(self, ended: threading.Event) -> None:
        """Renew the lease until `release`, over a connection that is made anew when it is lost."""
        db: Connection | None = None
        while not ended.wait(self._lease_s / RENEWALS):
            try:
                if db is None or db.closed:
                    db = self._database.connect()
                if db.execute(self._renew, (self._lease_s, self._holder)).rowcount == 0:
                    LOG.error("another cluster has taken over %s; this one is fenced", self._database.place)
                    break
            except psycopg.Error as error:
                LOG.warning("the lease in %s is not renewed: %s", self._database.place, error)
                db = None
        if db is not None:
            db.close()


def _this_host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{os.uname().nodename} {boot.read_text().strip() if boot.exists() else ''}"
