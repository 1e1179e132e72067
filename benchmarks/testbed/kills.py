"""Kills, one at a time, by class of process; and how long it takes until everything works again.

Recovery is the time from the kill until a probe that was submitted right after it has finished, less the median time
of a probe when nothing is wrong. After the driver's own death it is the time until everything that was open has
finished, with nobody submitting anything, the start of the next driver included, and the work itself: up to 10 s
for a task that holds permits for long.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import psutil

from . import witness
from .bed import LEASE_S, Bed, Hang
from .checks import Snapshot, snapshot
from .load import TIER, TOP

ACTORS = ("host", "supervisor", "tier", "resources", "coordinator")
PILLARS = ("raylet", "gcs_server")
CLASSES = (*ACTORS, *PILLARS, "everything", "driver")
"""What is killed: our actors, one pillar of Ray, every process of Ray's, and those with the driver."""
RARE = 0.06
"""Share of kills of each class that takes the cluster down."""
STOPS = 0.25
"""Share of kills of actors that are SIGSTOP."""
TWICE = 0.15
"""Share of kills that are followed by another of the same class before recovery."""
START_S = 6.0
"""What the start of a cluster takes about."""
BOUND_S = 90.0
"""Longest recovery; a longer one is a violation."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to kill next."""

    kind: str
    stop: bool = False
    twice: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{' stop' if self.stop else ''}{' twice' if self.twice else ''}"


@dataclass(slots=True)
class Kill:
    """One kill as it was done."""

    order: Order
    address: str
    pid: int
    at: float
    """UTC seconds since 1970."""
    recovery_s: float | None = None
    """None of the first of two."""


def every_class() -> list[Order]:
    """Each class once with SIGKILL, one of ours with SIGSTOP, one twice: the campaign of a quick test."""
    return [*map(Order, CLASSES), Order("host", stop=True), Order("supervisor", twice=True)]


def drawn(rng: Random, count: int) -> Iterator[Order]:
    """Classes in turn, in an order that is drawn anew each time round; those that take long, more rarely."""
    bag: list[str] = []
    for _ in range(count):
        if rng.random() < RARE * 4:
            kind = rng.choice([*PILLARS, "everything", "driver"])
        else:
            bag = bag or rng.sample(ACTORS, len(ACTORS))
            kind = bag.pop()
        yield Order(kind, stop=kind in ACTORS and rng.random() < STOPS, twice=rng.random() < TWICE)


class Campaign:
    """Carries kills out on a bed and remembers them."""

    def __init__(self, bed: Bed, rng: Random, tell: Callable[[str], None], pause_s: float) -> None:
        """`pause_s`: longest pause between a recovery and the next kill."""
        self._bed, self._rng, self._tell, self._pause_s = bed, rng, tell, pause_s
        self._probes = 0
        self._normal_s = 0.0
        self.kills: list[Kill] = []
        self.snapshots: list[Snapshot] = []
        """The journal and the account as they were when nothing was alive."""
        self.problems: list[str] = []
        self.ended_by_ray = 0
        """Drivers that Ray ended itself, because their raylet died just as they registered with it."""

    def warm_up(self, probes: int = 7) -> float:
        """Measure what a probe takes when nothing is wrong; returns seconds."""
        times = []
        for _ in range(probes):
            began = time.monotonic()
            times.append(self._probe(began))
        self._normal_s = statistics.median(times)
        return self._normal_s

    def carry_out(self, order: Order) -> None:
        time.sleep(self._rng.uniform(0.0, self._pause_s))
        self._strike(order)
        if order.twice:
            self._let_recover(order)
            self._strike(order)
        kill = self.kills[-1]
        try:
            kill.recovery_s = self._recovered(kill)
        except Hang:
            if not self._bed.was_ended_by_ray():
                raise
            self.ended_by_ray += 1
            kill.recovery_s = self._next_driver(kill)
        self._tell(f"{len(self.kills):>4}  {order!s:<22} {kill.address:<32} {kill.recovery_s:6.2f} s")
        if order.stop:
            self._must_be_gone(kill.pid)

    def _let_recover(self, order: Order) -> None:
        """Wait until recovery is under way, and not over."""
        if order.kind == "driver":
            self._bed.launch()
        time.sleep(self._rng.uniform(0.0, START_S if order.kind in (*PILLARS, "everything", "driver") else 1.5))

    def _strike(self, order: Order) -> None:
        strike = {"everything": self._strike_everything, "driver": self._strike_driver}.get(order.kind)
        address, pid = strike() if strike else self._strike_one(order)
        self.kills.append(Kill(order, address, pid, time.time()))

    def _strike_one(self, order: Order) -> tuple[str, int]:
        if order.kind in PILLARS:
            address, pid = order.kind, self._bed.named(order.kind)
        else:
            address = self._rng.choice(self._addresses_of(order.kind))
            pid = self._bed.pid_of(address)
        with suppress(ProcessLookupError):  # it was being replaced just now
            os.kill(pid, signal.SIGSTOP if order.stop else signal.SIGKILL)
        return address, pid

    def _addresses_of(self, kind: str) -> list[str]:
        """Where the actors of a class are."""
        if kind == "host":
            return self._bed.hosts()
        return [{"supervisor": TOP, "tier": TIER}.get(kind, kind)]

    def _strike_everything(self) -> tuple[str, int]:
        pid = self._bed.named("raylet")
        self._bed.kill_all(driver=False)
        return "raylet", pid

    def _strike_driver(self) -> tuple[str, int]:
        pid = self._bed.driver.pid
        self._bed.kill_all(driver=True)
        self.snapshots.append(snapshot(self._bed.data, witness.size(self._bed.folder)))
        return "", pid

    def _recovered(self, kill: Kill) -> float:
        """Seconds from `kill` until everything works."""
        if kill.order.kind == "driver":
            return self._next_driver(kill)
        killed_at = time.monotonic() - (time.time() - kill.at)
        if kill.order.kind in (*PILLARS, "everything"):
            self._bed.named(kill.address, BOUND_S, other_than=kill.pid)  # until then the old actors may answer
        return max(0.0, self._probe(killed_at) - self._normal_s)

    def _next_driver(self, kill: Kill) -> float:
        """Seconds from `kill` until a new driver has finished everything that was open."""
        self._bed.start(BOUND_S)
        return time.time() - kill.at

    def _probe(self, since: float) -> float:
        """Seconds from `since` until a probe submitted now has finished. Raises Hang."""
        self._probes += 1
        self._bed.tell("probe", id=self._probes)
        return float(self._bed.hear("probe", BOUND_S)["at"]) - since

    def _must_be_gone(self, pid: int) -> None:
        """A stopped process that was replaced does not stay behind."""
        give_up_at = time.monotonic() + 5 * LEASE_S
        while is_alive(pid):
            if time.monotonic() > give_up_at:
                self.problems.append(f"I11: process {pid} was stopped, and is still there {5 * LEASE_S:g} s later")
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def settle(bed: Bed, within_s: float) -> dict:
    """No new tasks: what is open finishes. Returns the engine's status at rest. Raises Hang."""
    bed.tell("drain")
    bed.hear("drained", within_s)
    give_up_at = time.monotonic() + 3 * LEASE_S
    while True:
        bed.tell("status")
        status: dict = bed.hear("status", within_s)["value"]
        if not any(use["held"] or use["waiting"] for use in status["quotas"].values()):
            return status
        if time.monotonic() > give_up_at:
            return status
        time.sleep(0.1)
