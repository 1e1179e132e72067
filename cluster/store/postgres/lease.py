"""The ownership of an installation by a cluster on one machine: its lease is renewed as long as the cluster lives.

It keeps a second cluster from starting by mistake. A cluster that cannot renew its lease goes on, since no other
machine is a part of it, and is fenced when another cluster starts (see schema.py). A cluster on many machines is
stricter, see on_ray/keeper.py.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg

from ....protocols.errors import DataInUse
from ....supervisors.upkeep.machine_lease import RENEWALS
from .connecting import Connection, Database, translated
from .machines import Claim, Machines, Member, Taken, name_of
from .tables import prepare

LOG = logging.getLogger("podium")

LOOK_S = 0.2
"""Time between two looks whether the machines of an earlier cluster are gone, in seconds."""


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
        self._machines = Machines(database)
        self._host = host or this_host()
        self._id = ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        member = Member(secrets.token_hex(8), self._host, lease_s=self._lease_s)
        facts = {"kind": "one machine", "pid": os.getpid()}
        begin(self._database, member, facts, lambda claim: claim.host == self._host and not is_shared(claim))
        self._id = member.id
        if self._thread is None or not self._thread.is_alive():
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._keep, args=(self._ended,), name="podium-lease", daemon=True)
            self._thread.start()

    def release(self) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        try:
            with self._database.connect() as db:
                self._machines.leave(db, self._id)
        except psycopg.errors.UndefinedTable:
            return  # the installation was moved away, its lease with it
        except psycopg.Error as error:
            LOG.warning("the lease in %s runs out by itself: %s", self._database.place, error)

    def _keep(self, ended: threading.Event) -> None:
        """Renew the lease until `release`, over a connection that is made anew when it is lost."""
        db: Connection | None = None
        while not ended.wait(self._lease_s / RENEWALS):
            id = self._id
            try:
                if db is None or db.closed:
                    db = self._database.connect()
                if self._machines.renew(db, id, may_declare=False) is None and id == self._id:
                    LOG.error("another cluster has taken over %s; this one is fenced", self._database.place)
                    break
            except psycopg.Error as error:
                LOG.warning("the lease in %s is not renewed: %s", self._database.place, error)
                db = None
        if db is not None:
            db.close()


def begin(database: Database, home: Member, facts: Mapping[str, object], may_replace: Callable[[Claim], bool]) -> int:
    """Begin the next cluster, and wait until every machine of an earlier cluster is surely gone. It blocks.

    Returns the generation of the cluster. Raises DataInUse if another cluster is alive, and errors of the database.
    """
    machines = Machines(database)
    with translated("*", database), database.connect() as db:
        prepare(db, database)
        try:
            generation = machines.begin(db, home, facts, may_replace)
        except Taken as taken:
            raise DataInUse(directory=database.place, holder=described(taken.claim)) from taken
        while (left_s := machines.earlier_left_s(db, generation, home.host)) > 0:
            time.sleep(min(left_s, LOOK_S))
            machines.renew(db, home.id, may_declare=False)
    return generation


def is_shared(claim: Claim) -> bool:
    """Whether other machines can be a part of the cluster."""
    return claim.facts.get("kind") == "ray"


def described(claim: Claim) -> str:
    """Describe the cluster that has an installation, for people."""
    left = f"whose lease ends in {claim.left_s:.1f} s if it is not renewed"
    return f"a cluster on {name_of(claim.host)} (process {claim.facts.get('pid')}), {left}"


def this_host() -> str:
    """Return the name of this machine, and the id of its present boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{os.uname().nodename} {boot.read_text().strip() if boot.exists() else ''}"
