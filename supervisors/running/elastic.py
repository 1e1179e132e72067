"""The pool of a protocol whose `replicas` are a range: its hosts start and end with the work (scaling.py decides).

The least hosts of the range last. The others start in the background, and nobody waits for them: where a cluster has no
room for a host, its request waits at Ray, which may add a machine, and the hosts that stand do the work. Steps go to
the first host with a free place, so that the last hosts become idle when there is less work. If steps take longer than
`lookahead_s`, none is sent to a host to wait there for its turn: another host may soon have a place for it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...protocols.errors import PeerLost, PodiumError, SpawnFailed
from ...protocols.probes import hit
from ...protocols.protocol import Declaration
from .placement import Host, Job
from .pool import JobEvents, Pool, PoolContext
from .scaling import Demand, Scaling

LOOK_S = 0.25
"""Time between two looks at the load, in seconds, while steps wait or more than the least hosts run."""
APART_S = 0.05
"""Shortest time between two decisions, in seconds: many steps that come at once need few."""
SETTLE_S = 0.05
"""Time between two attempts to end an actor that was just being started, in seconds."""


class ElasticPool(Pool):
    def __init__(
        self, means: PoolContext, declared: Declaration, listener: JobEvents, label: str, fingerprint: str
    ) -> None:
        super().__init__(means, declared, listener, label, fingerprint)
        self._least, self._concurrency = declared.least_hosts, declared.concurrency
        self._scaling = Scaling(self._least, self._most, self._concurrency, self._settings.host_idle_s)
        self._begun: dict[Host, int] = {}
        """Turns of the newest starts of hosts; one that was overtaken by an end is not the host's turn any more."""
        self._spawning: set[Host] = set()
        """Hosts whose actors are being started, perhaps in vain."""
        self._ending: set[Host] = set()
        self._is_due = self._looks = False
        self._decided_at = -math.inf

    @property
    def wanted(self) -> int:
        return max(self._least, sum(host.is_wanted and host not in self._ending for host in self.hosts))

    @property
    def lasting(self) -> list[Host]:
        return self.hosts[: self._least]

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self._ending

    def start_hosts(self) -> None:
        """Look at the load soon, once for all that happens in this turn of the event loop."""
        if not self._is_due:
            self._is_due = True
            wait_s = self._decided_at + APART_S - self._world.monotonic()
            self._world.call_later(max(0.0, wait_s), self._look)

    def _wait(self, job: Job) -> None:
        super()._wait(job)
        self.start_hosts()

    # which hosts there are

    def _look(self) -> None:
        if self._backlog.wishing and not any(self._has_place(host) for host in self._there()):
            self._permits.count_lacking(self.label, self._decide)
        else:
            self._decide(0)  # what waits for permits with a place free does not lack a place

    def _decide(self, permitted: int) -> None:
        """Start and end hosts. `permitted`: jobs that lack nothing but a place, among those that wait for permits."""
        self._is_due, self._decided_at = False, self._world.monotonic()
        change = self._scaling.decide(self._decided_at, self._demand(permitted))
        if change.start and self._can_start() and not self._pressure:
            hit("more hosts")
            self._family.start_soon([host for host in self.hosts if self._may_start(host)][: change.start])
        for host in self._unneeded()[: change.end]:
            self._ending.add(host)
            self._world.background(self._end(host), f"end {host.address}")
        if (self._backlog or any(host.is_wanted for host in self.hosts[self._least :])) and not self._looks:
            self._looks = True
            self._world.call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._looks = False
        self.start_hosts()

    def _demand(self, permitted: int) -> Demand:
        there = self._there()
        up = sum(host.line is not None for host in there)
        waiting = len(self._backlog) - self._backlog.wishing
        return Demand(sum(map(_present, there)), waiting, permitted, up, len(there) - up)

    def _there(self) -> list[Host]:
        """Return the hosts that run, or are being started."""
        return [host for host in self.hosts if host.is_wanted and host not in self._ending]

    def _has_place(self, host: Host) -> bool:
        return host.line is not None and _present(host) < self._concurrency

    def _may_start(self, host: Host) -> bool:
        return not host.is_wanted and host not in self._ending and host not in self._spawning

    def _unneeded(self) -> list[Host]:
        """Return the hosts that may end: those that are being started, then those that are idle; the last first."""
        idle_since = self._decided_at - self._settings.host_idle_s
        free = [host for host in reversed(self._there()) if not host.jobs and not host.lanes]
        free = [host for host in free if host not in self.lasting]
        starting = [host for host in free if host.line is None]
        return starting + [host for host in free if host.line is not None and host.idle_since <= idle_since]

    async def _end(self, host: Host) -> None:
        hit("host not needed")
        await self._family.rest(host, PeerLost(address=host.address, reason="it was not needed any more"))
        self._ending.discard(host)
        self.start_hosts()

    # where jobs go

    def _free_host(self, job: Job) -> Host | None:
        """Return the first host with a free place for this job, else one that may get it ahead of its turn."""
        found = None
        for host in () if self._pressure else self._there():
            if host.line is not None and self._room(host, job) > 0:
                if len(host.jobs) < self._concurrency:
                    return host
                found = found or host
        return found

    def _room(self, host: Host, job: Job) -> int:
        room = super()._room(host, job)
        is_short = host.mean_s is not None and host.mean_s <= self._settings.lookahead_s
        return room if is_short or job.settings.quotas else min(room, self._concurrency - len(host.jobs))

    def has_room_ahead(self, host: Host) -> bool:
        return host not in self._ending and super().has_room_ahead(host)

    def _leave(self, job: Job, host: Host) -> None:
        super()._leave(job, host)
        host.idle_since = self._world.monotonic()

    # starting and ending them

    async def start_host(self, host: Host) -> None:
        """Start the actor of a host. Only the first of the least hosts is waited for: it shows if the code runs."""
        if self._least and host is self.hosts[0]:
            await super().start_host(host)
            return
        host.turn += 1
        self._begun[host] = host.turn
        if host not in self._spawning:
            self._spawning.add(host)
            self._world.background(self._start_aside(host), f"start {host.address}")

    async def _start_aside(self, host: Host) -> None:
        """Start the actor of a host, as long as the newest word on it is to start it."""
        while self._begun[host] == (turn := host.turn):
            try:
                await self._spawn(host, replace(self._needs(), may_wait=True))
            except SpawnFailed as error:
                self._spawning.discard(host)
                self._family.failed(host, error)
                return
            if host.turn == turn:
                break
            await self._world.kill(host.address)  # it was ended meanwhile
        self._spawning.discard(host)
        self.start_hosts()

    def _connect(self, host: Host) -> None:
        host.idle_since = self._world.monotonic()
        super()._connect(host)

    async def end_host(self, host: Host, error: PodiumError) -> None:
        if not host.turn:
            return  # it was never started
        await super().end_host(host, error)
        while host in self._spawning and self._begun[host] != host.turn:
            await self._world.sleep(SETTLE_S)  # the end may have come before there was an actor to kill
            await self._world.kill(host.address)


def _present(host: Host) -> int:
    """Count the jobs at a host that do not wait for the permits of others there."""
    return len(host.jobs) - sum(lane.ahead for lane in host.lanes.values())
