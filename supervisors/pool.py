"""The protocol hosts of one protocol: fed in order of priority, and what becomes of the jobs of one that dies.

A job waits in the backlog, not at the host: a host gets as much ahead of its turn as it works off in `lookahead_s`.
Jobs that need permits share *lanes* there: a job without permits follows those that hold just what it needs, and begins
at the host when one of them ends, so that the permits pass on without a way to the supervisor and back.

A job whose host died is queued again, its attempts uncharged. But the death may be the job's own doing: it is
counted as a loss of each job that ran, and a job with losses runs beside fewer and fewer others, at last alone,
so that poison is told from bystanders; after `max_losses` it fails as `host_lost`. Such deaths say nothing about
the host, so they do not use up the restart intensity.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..protocols.errors import PodiumError, SpawnFailed, Unknown
from ..protocols.outcomes import Failure
from ..protocols.protocol import Declaration
from ..protocols.values import Value
from .backlog import Backlog, Job
from .family import Family
from .permits import Permits
from .ports import Line, Needs, Reply, World
from .settings import Governance

MAX_AHEAD = 1_000
"""Most jobs sent to one host ahead of their turn."""


@dataclass(slots=True, eq=False)
class Lane:
    """Jobs at one host that need the same permits: as many run at once as it has permits, in the order of sending."""

    number: int
    pools: Hashable
    """What each of its permits is taken from."""
    tickets: dict[str, None] = field(default_factory=dict)
    jobs: int = 0

    @property
    def ahead(self) -> int:
        """Jobs that wait for one of its permits."""
        return max(0, self.jobs - len(self.tickets))


class Host:
    """One protocol host, as its family sees it (`family.Child`) and as its pool does."""

    def __init__(self, pool: Pool, address: str) -> None:
        self._pool = pool
        self.address = address
        self.is_wanted = False
        self.line: Line | None = None
        """None while it does not run."""
        self.jobs: dict[Job, None] = {}
        self.lanes: dict[Hashable, Lane] = {}
        """By their `pools`."""
        self.suspects = 0
        """How many of `jobs` have losses."""
        self.mean_s = 0.001
        """Moving average of the time of one run."""
        self.ahead = 0
        """Jobs that it may have ahead of their turn."""
        self.is_stuck = False
        """Whether it is being replaced because its code does not end."""
        self.turn = 0
        """Counts starts and ends: a start that was overtaken by an end changes nothing."""

    async def start(self) -> None:
        await self._pool.start_host(self)

    async def end(self, error: PodiumError) -> None:
        await self._pool.end_host(self, error)


@dataclass(frozen=True, slots=True)
class Listener:
    """Who wants to know what becomes of the jobs of a pool."""

    started: Callable[[Job], None]
    chunk: Callable[[Job, Value], None]
    result: Callable[[Job, list[Value]], None]
    """Gets ["ok", output, …] or ["fail", failure, …]."""
    lost: Callable[[Job], None]
    """The host died while the job ran; it will run again."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all pools of one supervisor share."""

    world: World
    settings: Governance
    permits: Permits
    family: Family


class Pool:
    def __init__(self, means: Means, declared: Declaration, listener: Listener) -> None:
        self._world, self._settings = means.world, means.settings
        self._permits, self._family = means.permits, means.family
        self._declared, self._listener = declared, listener
        self._backlog = Backlog(declared.name, self._permits, self._settings, self._feed, self._refused)
        self.hosts = [
            Host(self, f"{self._world.address}/{declared.name}-{index}") for index in range(declared.replicas)
        ]
        self._code: bytes | None = None
        self._search_path: list[str] = []
        self._lanes = itertools.count(1)
        self._looking_ahead = False
        self._code_from = 0
        """Number of the deployment that `_code` came with."""
        self._succeeded_at = -math.inf
        self.blocked: str | None = None
        """Why no host can start until the workflow is deployed again, or None."""

    def describe(self) -> dict[str, Value]:
        return {
            "protocol": self._declared.ref,
            "hosts": len(self.hosts),
            "up": sum(host.line is not None for host in self.hosts),
            "running": sum(len(host.jobs) for host in self.hosts),
            "queued": len(self._backlog),
            "blocked": self.blocked,
        }

    def use_code(self, code: bytes | None, search_path: list[str]) -> None:
        """Where hosts load the protocol from when they start next."""
        self._code, self._search_path = code, search_path
        self._code_from += 1
        self.blocked = None

    def submit(self, job: Job) -> None:
        if self.blocked is None:
            self._family.start_soon(self.hosts)
        host = None if job.needs or len(self._backlog) else self._free_host(job)
        if host is not None:
            self._give(host, job)  # nobody waits, so there is no order to keep
        else:
            self._backlog.add(job)
            self._feed()
            self._look_ahead_soon()

    def cancel(self, job: Job) -> None:
        """Stop the job. Its result is not reported; its permits come back when its code has ended."""
        job.dropped = True
        if job.host is None:
            self._backlog.withdraw(job)
        elif job.number is not None and job.host.line is not None:
            job.host.line.cancel(job.number)

    # jobs

    def _feed(self) -> None:
        while (job := self._backlog.first()) is not None:
            host = self._free_host(job)
            if host is None:
                return
            self._give(host, self._backlog.take_first())

    def _free_host(self, job: Job) -> Host | None:
        """The host that should have the most further jobs, or None if all have enough."""
        best, most = None, 0
        for host in self.hosts:
            if host.line is not None:
                room = self._room(host, job)
                if room > most:
                    best, most = host, room
        return best

    def _room(self, host: Host, job: Job) -> int:
        """How many jobs like this one `host` may get now."""
        if job.losses or host.suspects:
            losses = max(other.losses for other in (job, *host.jobs))
            share = 1 - losses / max(losses, self._settings.max_losses)
            return max(1, math.floor(math.pow(self._declared.concurrency, share))) - len(host.jobs)
        if job.needs:
            return self._declared.concurrency - len(host.jobs) + sum(lane.ahead for lane in host.lanes.values())
        return self._declared.concurrency + host.ahead - len(host.jobs)

    def _measure(self, host: Host, seconds: float) -> None:
        host.mean_s += 0.1 * (max(seconds, 1e-6) - host.mean_s)
        ahead = self._declared.concurrency * self._settings.lookahead_s / host.mean_s
        host.ahead = min(MAX_AHEAD, math.ceil(ahead))

    def _give(self, host: Host, job: Job) -> None:
        """Send it to a host, with the permits that it has."""
        ticket, job.ticket = job.ticket, None
        if ticket is not None:
            pools = self._permits.pools(ticket)
            if pools not in host.lanes:
                host.lanes[pools] = Lane(next(self._lanes), pools)
            job.lane = host.lanes[pools]
            job.lane.tickets[ticket] = None
        self._send(host, job, ticket)

    def _send(self, host: Host, job: Job, ticket: str | None) -> None:
        host.jobs[job] = None
        host.suspects += job.losses > 0
        job.host = host
        lane = None
        if job.lane is not None:
            job.lane.jobs += 1
            lane = job.lane.number
        assert host.line is not None
        listener = self._listener
        answered, chunk = partial(self._answered, job), partial(listener.chunk, job)
        job.number = host.line.send("run", [*job.payload, lane, ticket], answered, chunk)
        listener.started(job)

    def _look_ahead_soon(self) -> None:
        """Once for all that happens in this turn of the loop."""
        if not self._looking_ahead and any(host.lanes for host in self.hosts):
            self._looking_ahead = True
            self._world.call_later(0.0, self._look_ahead)

    def _look_ahead(self) -> None:
        self._looking_ahead = False
        for host in self.hosts:
            for lane in host.lanes.values():
                self._fill(host, lane)

    def _fill(self, host: Host, lane: Lane) -> None:
        """Send those who are next for the permits of a lane to wait in it."""
        ticket = next(iter(lane.tickets))
        if self._permits.pools(ticket) != lane.pools:
            return  # the limits have changed
        ahead = math.floor(len(lane.tickets) * self._settings.lookahead_s / host.mean_s)
        while lane.jobs < len(lane.tickets) + ahead and self._has_room_ahead(host):
            heir = self._backlog.heir(ticket)
            if heir is None or heir.losses:
                return
            self._backlog.inherit(heir)
            heir.lane = lane
            self._send(host, heir, None)

    def _has_room_ahead(self, host: Host) -> bool:
        is_sound = host.line is not None and not host.suspects and not host.is_stuck
        return is_sound and len(host.jobs) < self._declared.concurrency + host.ahead

    def _permit_back(self, host: Host, lane: Lane, ticket: str) -> None:
        """No job was waiting in the lane when one with these permits ended. One may have been sent meanwhile."""
        if lane.jobs >= len(lane.tickets) and host.line is not None:
            host.line.send("permit", [lane.number, ticket], partial(self._permit_unused, host, lane))
            return
        del lane.tickets[ticket]
        if not lane.tickets:
            del host.lanes[lane.pools]
        self._permits.release(ticket)

    def _permit_unused(self, host: Host, lane: Lane, reply: Reply) -> None:
        if reply.error is None and reply.value is not None and host.lanes.get(lane.pools) is lane:
            self._permit_back(host, lane, reply.value)

    def _refused(self, job: Job, error: PodiumError) -> None:
        self._listener.result(job, ["fail", Failure("quota", str(error)).to_wire()])

    def _answered(self, job: Job, reply: Reply) -> None:
        host = job.host
        if host is None or isinstance(reply.error, Unknown):
            return  # `end_host` queues it again
        lane = job.lane
        self._leave(job, host)
        if reply.error is not None:
            result: list[Any] = ["fail", Failure("internal", str(reply.error)).to_wire(), 0.0, True, None]
        else:
            result = reply.value
            self._succeeded_at = self._world.monotonic()
        self._measure(host, result[2])
        if result[3]:
            host.is_stuck = True
            self._world.background(self._world.kill(host.address), f"replace {host.address}")
        elif lane is not None and result[4] is not None:
            self._permit_back(host, lane, result[4])
        if not job.dropped:
            self._listener.result(job, result)
        self._feed()
        self._look_ahead_soon()

    def _leave(self, job: Job, host: Host) -> None:
        """The job is at this host no more."""
        del host.jobs[job]
        host.suspects -= job.losses > 0
        if job.lane is not None:
            job.lane.jobs -= 1
        job.host = job.lane = job.number = None

    # hosts

    async def start_host(self, host: Host) -> None:
        host.turn += 1
        turn, declared = host.turn, self._declared
        setup = {
            "ref": declared.ref,
            "name": declared.name,
            "concurrency": declared.concurrency,
            "grace_s": self._settings.grace_s,
            "max_value_bytes": self._settings.max_value_bytes,
            "code": self._code,
            "code_from": self._code_from,
            "search_path": self._search_path,
        }
        needs = Needs(declared.num_cpus, declared.num_gpus, declared.resources)
        try:
            await self._world.spawn("host", host.address, setup, needs)
        except SpawnFailed as error:
            if host.turn != turn:
                return
            if error.kind != "LookupError":
                raise
            if self._code_from != setup["code_from"]:
                await self.start_host(host)  # deployed again meanwhile
                return
            self.blocked = error.reason
            raise
        if host.turn == turn:
            self._connect(host)

    def _connect(self, host: Host) -> None:
        host.line, host.is_stuck = self._world.line(host.address), False
        self._measure(host, host.mean_s)
        host.line.watch(partial(self._lost, host), self._settings.lease_s)
        self._count_places()
        self._feed()

    def _count_places(self) -> None:
        up = sum(host.line is not None for host in self.hosts)
        self._permits.set_places(self._declared.name, up * self._declared.concurrency)

    def _lost(self, host: Host, error: PodiumError) -> None:
        host.line = None
        self._count_places()
        excused = host.is_stuck or self._charge(host)
        self._family.failed(host, error, counted=not excused)

    def _charge(self, host: Host) -> bool:
        """Count the death as a loss of every job that ran; returns whether one of them is the likely cause.

        The cause is likely among them if one had losses before, or if the protocol has worked on others of late.
        """
        running = self._running(host)
        is_usual = self._world.monotonic() - self._succeeded_at < self._settings.restart_period_s
        likely = bool(running) and (is_usual or any(job.losses for job in running))
        for job in running:
            host.suspects += job.losses == 0
            job.losses += 1
            if not job.dropped:
                self._listener.lost(job)
        return likely

    def _running(self, host: Host) -> list[Job]:
        """A host works in order, so those that run are the oldest that it got; of each lane, one for each permit."""
        begun: Counter[Lane | None] = Counter()
        running = []
        for job in host.jobs:
            begun[job.lane] += 1
            if job.lane is None or begun[job.lane] <= len(job.lane.tickets):
                running.append(job)
        return running[: self._declared.concurrency]

    async def end_host(self, host: Host, error: PodiumError) -> None:
        """Only when the host is certainly dead are its jobs free to run elsewhere, and its permits free."""
        host.turn += 1
        line, host.line = host.line, None
        self._count_places()
        if line is not None:
            line.close()
            await self._world.stop(host.address)
        else:
            await self._world.kill(host.address)
        lanes = list(host.lanes.values())
        host.lanes.clear()
        for lane in lanes:
            for ticket in lane.tickets:
                self._permits.release(ticket)
        for job in list(host.jobs):
            self._leave(job, host)
            if not job.dropped:
                self._requeue(job, error)

    def _requeue(self, job: Job, error: PodiumError) -> None:
        if job.losses > self._settings.max_losses:
            message = f"lost {job.losses} hosts of '{self._declared.name}' while it ran; the last: {error}"
            self._listener.result(job, ["fail", Failure("host_lost", message).to_wire()])
        else:
            self._backlog.add(job)
