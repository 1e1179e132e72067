"""Decides how many hosts a protocol has whose `replicas` are a range (min, max). Pure.

Hosts start at once when steps wait for a free place, as many as have work. A step that waits for a permit or a breaker
has no work for a host yet, so quotas bound the number of hosts. Hosts end slowly: only as far as more were there all
through the last `idle_s` than steps wanted. So a load that comes and goes within this time starts and ends nothing.
Hosts that are still being started, perhaps waiting for a machine, end before those that run.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple


class Demand(NamedTuple):
    """The load of the hosts of one protocol, and the hosts."""

    running: int
    """Steps at hosts that run, or wait there for nothing but a free place."""
    waiting: int
    """Steps that wait for nothing but a host: they need no permits, or have them."""
    permitted: int
    """Further steps that could have their permits now, if there were a free place at a host."""
    up: int
    """Hosts that run."""
    starting: int
    """Hosts that are being started, for the first time or again."""


class Change(NamedTuple):
    """The numbers of hosts to start, and to end. One of them is 0."""

    start: int = 0
    end: int = 0
    """Most hosts that may end. Those that are being started go first; one that runs ends only if it is idle."""


class Scaling:
    def __init__(self, least: int, most: int, concurrency: int, idle_s: float) -> None:
        """`concurrency`: steps that one host runs at once; `idle_s`: seconds without need after which a host ends."""
        self._least, self._most = least, most
        self._concurrency, self._idle_s = concurrency, idle_s
        self._peaks: deque[tuple[float, int]] = deque()
        """Times, and the hosts wanted then, of the last `idle_s`: those that no later time exceeds or equals."""

    def decide(self, now: float, demand: Demand) -> Change:
        """Decide what changes. `now`: monotonic seconds, not below those of the call before."""
        wanted = self.wanted(demand)
        self._note(now, wanted)
        there = demand.up + demand.starting
        return Change(start=max(0, wanted - there), end=max(0, there - self._peaks[0][1]))

    def wanted(self, demand: Demand) -> int:
        """Return the number of hosts for which there is work now, within the range."""
        steps = demand.running + demand.waiting + demand.permitted
        return min(self._most, max(self._least, math.ceil(steps / self._concurrency)))

    def _note(self, now: float, wanted: int) -> None:
        while self._peaks and self._peaks[-1][1] <= wanted:
            self._peaks.pop()
        self._peaks.append((now, wanted))
        while self._peaks[0][0] <= now - self._idle_s and len(self._peaks) > 1:
            self._peaks.popleft()
