"""The keeper of a machine: a small process that renews the lease of the machine, and ends our processes with it.

A cluster on many machines has one keeper on each. It runs no code of users, so it is never too busy to renew. If it
cannot renew, the machine may be cut off, and others may take its work over as soon as the lease and its grace are
over. So the keeper kills our processes on this machine when the lease is over, a grace before that. If the database
itself is down, nobody can take anything over. A refused connection shows that, and then the processes go on. The
decisions are in supervisors/upkeep/machine_lease.py.

The first of our processes on a machine starts the keeper, and any of them starts another if it dies (machine.py). It
ends when none of them is left.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path

import psycopg

from ...supervisors.upkeep.machine_lease import RENEWALS, RETRY_S, MachineLease, MachineState, News
from ..session import COORDINATOR
from ..store import lock
from ..store.address import StoreAddress
from ..store.postgres.connecting import Connection, Database
from ..store.postgres.lease import this_host
from ..store.postgres.machines import Machines, Member
from .machine_state import MachineFiles, boottime
from .process_locks import folder_of

LOG = logging.getLogger("podium")

WARN_EVERY_S = 60.0
"""Time between two warnings for the same reason, in seconds."""
LOG_BYTES = 1024 * 1024
"""Size at which the keeper's log is rotated."""
_DOWN = ("57P01", "57P02", "57P03")
"""SQLSTATEs with which a server says itself that it stops or starts."""


class Keeper:
    def __init__(
        self, place: StoreAddress, generation: int, node: str, is_lasting: bool, may_be_home: bool = True
    ) -> None:
        """`is_lasting` and `may_be_home` are those of `MachineLease`."""
        self._place, self._generation = place, generation
        self._files, self._run = MachineFiles(place.path, generation), folder_of(place.path, generation)
        self._lease_s = place.lease_s
        self._database = Database(place.url, place.schema, max(0.5, place.lease_s / 2))
        self._machines = Machines(self._database)
        self._lease = MachineLease(self._begin(node), place.lease_s, is_lasting, boottime(), may_be_home)
        self._lock = threading.Condition()
        self._warned = "", 0.0
        """The last reason for a warning, and its time."""

    def _begin(self, node: str) -> MachineState:
        """Go on with the lease of a keeper before this one, or begin a new one, which has to be entered first.

        A lease that is over here may not be lost yet; then it is renewed, once nothing of ours runs here any more.
        """
        found, host = self._files.read(), this_host()
        if found is None or (found.host, found.node) != (host, node) or found.over:
            return MachineState(secrets.token_hex(8), host, node, self._generation, 0.0, os.getpid())
        if boottime() < found.until:
            return replace(found, keeper=os.getpid())
        self._end_all()
        return replace(found, keeper=os.getpid(), until=0.0)

    def run(self) -> None:
        """Keep the lease until it is over, or nobody is here who needs it."""
        renewing = threading.Thread(target=self._renew_for_ever, name="renewal", daemon=True)
        renewing.start()
        while not self._lease.over:
            with self._lock:
                self._lock.wait(self._lease.next_look_s(boottime()))
            is_used, has_coordinator = self._is_used(), lock.holder(self._run / COORDINATOR) is not None
            is_drained = self._files.drained(self._lease.state.node).exists()
            with self._decided():
                self._lease.look(boottime(), is_used, has_coordinator, is_drained)
        LOG.warning("this machine leaves the cluster: %s", self._lease.over)
        self._end_all()
        with self._decided():
            self._lease.state = replace(self._lease.state, over=self._lease.over)
        self._leave()

    @contextmanager
    def _decided(self) -> Iterator[None]:
        """Tell our processes here, and the other thread, of what is decided within."""
        with self._lock:
            before = self._lease.state
            yield
            if self._lease.state is not before:
                self._files.write(self._lease.state)
            self._lock.notify()

    # the lease

    def _renew_for_ever(self) -> None:
        db: Connection | None = None
        while not self._lease.over:
            began = boottime()
            try:
                db = db or self._connect()
                news = self._machines.renew(db, self._lease.state.id, self._lease.may_declare(began))
                self._heard(db, began, news)
                wait_s = self._lease.next_renewal_s(news)
            except psycopg.Error as error:
                wait_s, db = 0.0 if db is not None else RETRY_S, None
                self._failed(began, error)
            threading.Event().wait(wait_s)

    def _connect(self) -> Connection:
        patience_ms = round(1000 * self._lease_s / RENEWALS)
        db = self._database.connect(connect_timeout="2", tcp_user_timeout=str(patience_ms))
        state = self._lease.state
        if not state.until:
            self._machines.enter(db, Member(state.id, state.host, state.node, self._lease_s), self._generation)
        return db

    def _failed(self, began: float, error: psycopg.Error) -> None:
        reason = str(error).strip().partition("\n")[0]
        if reason != self._warned[0] or boottime() - self._warned[1] > WARN_EVERY_S:
            self._warned = reason, boottime()
            LOG.warning("the lease is not renewed: %s", reason)
        with self._decided():
            self._lease.failed(began, boottime(), shows_that_it_is_down(error))

    def _heard(self, db: Connection, began: float, news: News | None) -> None:
        """Take the news of a renewal. If the home is lost, this machine tries to become it."""
        with self._decided():
            homeless = self._lease.heard(began, news)
        state = self._lease.state
        if homeless and self._machines.take_home(db, state.id, state.home, self._generation):
            LOG.warning("the machine of the coordinator is lost: this one takes its place")
            with self._decided():
                self._lease.became_home()

    # our processes here

    def _is_used(self) -> bool:
        paths = [path for folder in (self._run, self._files.users) for path in folder.glob("*")]
        return any(lock.holder(path) is not None for path in paths)

    def _end_all(self) -> None:
        """Kill every process of the cluster on this machine, and see that it is gone."""
        give_up_at = boottime() + lock.DIES_WITHIN_S
        while boottime() < give_up_at:
            held = [path for path in self._run.glob("*") if lock.holder(path) is not None]
            if not held:
                return
            for path in held:
                lock.kill_holder(path)
            threading.Event().wait(0.01)

    def _leave(self) -> None:
        try:
            with self._database.connect(connect_timeout="2") as db:
                if self._lease.ends_cluster:
                    self._machines.end(db, self._generation)
                self._machines.leave(db, self._lease.state.id)
        except psycopg.Error as error:
            LOG.warning("the lease runs out by itself: %s", error)


def shows_that_it_is_down(error: psycopg.Error) -> bool:
    """Whether an error shows that the database serves nobody now, instead of that this machine is cut off from it."""
    if error.sqlstate in _DOWN:
        return True
    reasons = re.findall(r'(?:port \d+|socket "[^"]*") failed: (.*)', str(error))
    down = ("Connection refused", "FATAL:  the database system is")
    return bool(reasons) and all(reason.startswith(down) for reason in reasons)


def tidy(data: Path, generation: int) -> None:
    """Remove the folders of earlier clusters on this machine."""
    for path in [*data.glob("run.*"), *data.glob("machine.*")]:
        number = path.name.rpartition(".")[2]
        if number.isdigit() and int(number) < generation:
            shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Run as a process of its own, which no other waits for. The setup comes from a pipe, because it has secrets."""
    setup = json.loads(sys.stdin.read())
    if os.fork():
        os._exit(0)
    os.setsid()
    place = StoreAddress(*setup["place"])
    _log_to(MachineFiles(place.path, setup["generation"]).keeper_log)
    tidy(place.path, setup["generation"])
    Keeper(place, setup["generation"], setup["node"], setup["is_lasting"], setup["may_be_home"]).run()


def _log_to(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    path.chmod(0o600)


if __name__ == "__main__":
    main()
