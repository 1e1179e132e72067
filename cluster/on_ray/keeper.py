"""The keeper of a machine: a small process that renews the lease of the machine, and ends our processes with it.

A cluster on many machines has one keeper on each. It runs no code of users, so it is never too busy to renew. If it
cannot renew, the machine may be cut off, and others may take its work over as soon as the lease and its grace are
over. So the keeper kills our processes on this machine when the lease is over, a grace before that. If the database
itself is down, nobody can take anything over. A refused connection shows that, and then the processes go on.

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
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import psycopg

from ..session import COORDINATOR
from ..store import lock
from ..store.address import StoreAddress
from ..store.postgres.connecting import Connection, Database
from ..store.postgres.lease import RENEWALS, this_host
from ..store.postgres.machines import Machines, Member, News
from .machine_state import Lost, MachineFiles, MachineState, boottime
from .process_locks import folder_of

LOG = logging.getLogger("podium")

RETRY_S = 0.2
"""Time between two attempts to reach the database while it is away, in seconds."""
PROOF_SHARE = 0.8
"""Share of a lease for which a refused connection shows that nobody can declare this machine lost: whoever does must
have renewed for a whole lease before, without a break."""
WARN_EVERY_S = 60.0
"""Time between two warnings for the same reason, in seconds."""
LOG_BYTES = 1024 * 1024
"""Size at which the keeper's log is rotated."""
LOOK_S = 1.0
"""Time between two looks at our processes on this machine, in seconds."""
IDLE_LEASES = 2.0
"""Time without any process of ours here after which the keeper ends, in leases."""
MISSING_S = 3.0
"""Time without a coordinator at its home after which another is started, in seconds. Ray restarts one that crashed."""
GONE_S = 15.0
"""Time without a coordinator after which a cluster that ends with its driver has ended, in seconds."""
NONE_S = 60.0
"""Time without a coordinator after which a lasting cluster has ended, in seconds: perhaps Ray is gone as a whole."""
START_S = 120.0
"""Longest time that the first coordinator may take to start, in seconds."""
_DOWN = ("57P01", "57P02", "57P03")
"""SQLSTATEs with which a server says itself that it stops or starts."""


class Keeper:
    def __init__(self, place: StoreAddress, generation: int, node: str, is_lasting: bool) -> None:
        """`is_lasting`: whether another machine becomes the home if the present one is lost, so that all goes on."""
        self._place, self._generation, self._is_lasting = place, generation, is_lasting
        self._files, self._run = MachineFiles(place.path, generation), folder_of(place.path, generation)
        self._lease_s = place.lease_s
        self._database = Database(place.url, place.schema, max(0.5, place.lease_s / 2))
        self._machines = Machines(self._database)
        self._state = self._begin(node)
        self._lock = threading.Condition()
        self._coordinator_seen = self._ends_cluster = False
        self._missing_since: float | None = None
        self._warned = "", 0.0
        """The last reason for a warning, and its time."""
        self._over = ""
        """The reason why the keeper ends; "" if it does not."""

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
        idle_since = boottime()
        while not self._over:
            with self._lock:
                self._lock.wait(self._wait_s())
                if self._state.until and boottime() > self._state.until:
                    self._over = "its lease could not be renewed"
            if self._is_used():
                idle_since = boottime()
            elif boottime() - idle_since > IDLE_LEASES * self._lease_s:
                self._over = "nothing runs here"
            self._look_for_coordinator()
        LOG.warning("this machine leaves the cluster: %s", self._over)
        self._end_all()
        self._change(over=self._over)
        self._leave()

    def _wait_s(self) -> float:
        return max(0.0, min(LOOK_S, self._state.until - boottime())) if self._state.until else LOOK_S

    # the lease

    def _renew_for_ever(self) -> None:
        db: Connection | None = None
        steady_since, wait_s = boottime(), 0.0
        while not self._over:
            began = boottime()
            try:
                if db is None:
                    db = self._connect()
                news = self._machines.renew(db, self._state.id, began - steady_since > self._lease_s)
                wait_s = self._heard(db, began, news)
            except psycopg.Error as error:
                wait_s, db = 0.0 if db is not None else RETRY_S, None
                steady_since = boottime()
                self._failed(began, error)
            threading.Event().wait(wait_s)

    def _connect(self) -> Connection:
        patience_ms = round(1000 * self._lease_s / RENEWALS)
        db = self._database.connect(connect_timeout="2", tcp_user_timeout=str(patience_ms))
        if not self._state.until:
            member = Member(self._state.id, self._state.host, self._state.node, self._lease_s)
            self._machines.enter(db, member, self._generation)
        return db

    def _failed(self, began: float, error: psycopg.Error) -> None:
        self._warn(str(error).strip().partition("\n")[0])
        if self._state.until and shows_that_it_is_down(error):
            self._change(until=max(self._state.until, began + PROOF_SHARE * self._lease_s))

    def _warn(self, reason: str) -> None:
        """Log that the lease is not renewed, once for each reason and every `WARN_EVERY_S`."""
        if reason != self._warned[0] or boottime() - self._warned[1] > WARN_EVERY_S:
            self._warned = reason, boottime()
            LOG.warning("the lease is not renewed: %s", reason)

    def _heard(self, db: Connection, began: float, news: News | None) -> float:
        """Take the news of a renewal; returns the seconds until the next."""
        if news is None:
            self._end("another cluster has taken over, or this machine was declared lost")
            return 0.0
        home = self._home(db, news)
        lost = {each.id: Lost(each.node, began) for each in news.machines if each.is_lost}
        self._change(until=began + self._lease_s, home=home, lost={**lost, **self._state.lost})
        ends_s = [each.left_s for each in news.machines if not each.is_lost and each.id != self._state.id]
        return max(RETRY_S, min([self._lease_s / RENEWALS, *ends_s]))

    def _home(self, db: Connection, news: News) -> str:
        """Return the home. If that is lost, this machine tries to become it; or the cluster ends with it."""
        if not news.home:
            self._end("the cluster has ended")
        elif all(each.id != news.home or each.is_lost for each in news.machines):
            if not self._is_lasting:
                self._end("the machine of the driver, whose cluster it is, is lost")
            elif self._machines.take_home(db, self._state.id, news.home, self._generation):
                LOG.warning("the machine of the coordinator is lost: this one takes its place")
                self._coordinator_seen = True  # none is starting here
                self._change(home=self._state.id, coordinator_is_missing=True)
                return self._state.id
        return news.home

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)
            self._files.write(self._state)
            self._lock.notify()

    def _end(self, reason: str) -> None:
        with self._lock:
            self._over = self._over or reason
            self._lock.notify()

    # our processes here

    def _is_used(self) -> bool:
        paths = [path for folder in (self._run, self._files.users) for path in folder.glob("*")]
        return any(lock.holder(path) is not None for path in paths)

    def _look_for_coordinator(self) -> None:
        """Note whether this machine is the home and has no coordinator. A cluster that ends with its driver ends."""
        if self._state.home != self._state.id or lock.holder(self._run / COORDINATOR) is not None:
            self._coordinator_seen, self._missing_since = self._state.home == self._state.id, None
            is_missing = False
        else:
            self._missing_since = self._missing_since or boottime()
            most_s = START_S if not self._coordinator_seen else MISSING_S if self._is_lasting else GONE_S
            is_missing = self._state.coordinator_is_missing or boottime() - self._missing_since > most_s
        if is_missing and not self._is_lasting:
            self._end("its driver is gone")
        elif is_missing and boottime() - (self._missing_since or 0.0) > NONE_S:
            self._end("no coordinator could be started")
            self._ends_cluster = True
        elif is_missing != self._state.coordinator_is_missing:
            self._change(coordinator_is_missing=is_missing)

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
                if self._ends_cluster:
                    self._machines.end(db, self._generation)
                self._machines.leave(db, self._state.id)
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
    Keeper(place, setup["generation"], setup["node"], setup["is_lasting"]).run()


def _log_to(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    path.chmod(0o600)


if __name__ == "__main__":
    main()
