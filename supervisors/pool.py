"""The protocol hosts of one protocol: started, fed in order of priority, replaced when they die.

A job waits here, not at the host: a host gets as much ahead of its turn as it works off in `lookahead_s`, and
a job that needs permits gets them only when a host is free for it. A job whose host died is queued again,
uncharged; after `max_losses` hosts it fails as `host_lost`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..protocols.errors import PodiumError, SpawnFailed, Unknown
from ..protocols.outcomes import Failure
from ..protocols.protocol import Declaration
from ..protocols.values import Value
from .permits import Permits
from .ports import Line, Needs, Reply, World
from .restarts import RestartWindow
from .settings import Governance

MAX_AHEAD = 1_000
"""Most jobs sent to one host ahead of their turn."""


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one step, to be run on any host of its protocol."""

    what: Any
    """The dispatcher's own: whose step this is."""
    rank: tuple[float, int]
    """Lower goes first."""
    priority: int
    payload: list[Value]
    needs: Mapping[str, int]
    host: _Host | None = None
    number: int | None = None
    losses: int = 0
    dropped: bool = False


@dataclass(slots=True, eq=False)
class _Host:
    address: str
    window: RestartWindow
    line: Line | None = None
    """None while it starts."""
    jobs: dict[Job, None] | None = None
    mean_s: float = 0.001
    """Moving average of the time of one run."""
    ahead: int = 0
    """Jobs that it may have ahead of their turn."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who wants to know what becomes of the jobs of a pool."""

    started: Callable[[Job], None]
    chunk: Callable[[Job, Value], None]
    result: Callable[[Job, list[Value]], None]
    """Gets what the host answered: ["ok", output, seconds] or ["fail", failure, seconds, stuck]."""
    give_up: Callable[[PodiumError], None]
    """Hosts died more often than the restart policy allows."""


class Pool:
    def __init__(
        self,
        world: World,
        declared: Declaration,
        settings: Governance,
        permits: Permits,
        address: str,
        listener: Listener,
    ) -> None:
        self._world, self._declared, self._settings = world, declared, settings
        self._permits, self._listener = permits, listener
        self._queue: list[tuple[tuple[float, int], int, Job]] = []
        self._order = itertools.count()
        self._hosts = [
            _Host(f"{address}/{declared.name}-{index}", RestartWindow(settings.restarts))
            for index in range(declared.replicas)
        ]
        self._code: bytes | None = None
        self._search_path: list[str] = []
        self._starting = False
        self.blocked: str | None = None
        """Why no host can start until the workflow is deployed again, or None."""

    @property
    def addresses(self) -> list[str]:
        return [host.address for host in self._hosts]

    @property
    def up_count(self) -> int:
        return sum(host.line is not None for host in self._hosts)

    def describe(self) -> dict[str, Value]:
        running = sum(len(host.jobs or ()) for host in self._hosts)
        return {
            "protocol": self._declared.ref,
            "hosts": len(self._hosts),
            "up": self.up_count,
            "running": running,
            "queued": len(self._queue),
            "blocked": self.blocked,
        }

    def use_code(self, code: bytes | None, search_path: list[str]) -> None:
        """Where hosts load the protocol from when they start next."""
        self._code, self._search_path = code, search_path
        self.blocked = None

    async def ensure_started(self) -> None:
        """Start the hosts that are not running; raises SpawnFailed if the first does not start."""
        self._starting = True
        waiting = [host for host in self._hosts if host.line is None]
        for host in waiting[1:]:
            self._world.background(self._start(host), f"start {host.address}")
        if waiting:
            await self._spawn(waiting[0])

    def submit(self, job: Job) -> None:
        heapq.heappush(self._queue, (job.rank, next(self._order), job))
        if not self._starting:
            self._starting = True
            for host in self._hosts:
                self._world.background(self._start(host), f"start {host.address}")
        self._feed()

    def cancel(self, job: Job) -> None:
        """Stop the job. Its result is not reported; its permits come back when its code has ended."""
        job.dropped = True
        if job.host is None:
            return
        if job.number is not None and job.host.line is not None:
            job.host.line.cancel(job.number)
        elif job.number is None:
            self._leave(job)

    async def close(self) -> None:
        for host in self._hosts:
            if host.line is not None:
                host.line.close()
                await self._world.stop(host.address)

    def _feed(self) -> None:
        while self._queue:
            job = self._queue[0][2]
            if job.dropped:
                heapq.heappop(self._queue)
                continue
            host = self._free_host(job)
            if host is None:
                return
            heapq.heappop(self._queue)
            self._give(host, job)

    def _free_host(self, job: Job) -> _Host | None:
        """The host that should have the most further jobs, or None if all have enough."""
        best, most = None, 0
        for host in self._hosts:
            if host.line is not None:
                room = self._declared.concurrency + (0 if job.needs else host.ahead) - len(host.jobs or ())
                if room > most:
                    best, most = host, room
        return best

    def _measure(self, host: _Host, seconds: float) -> None:
        host.mean_s += 0.1 * (max(seconds, 1e-6) - host.mean_s)
        ahead = self._declared.concurrency * self._settings.lookahead_s / host.mean_s
        host.ahead = min(MAX_AHEAD, math.ceil(ahead))

    def _give(self, host: _Host, job: Job) -> None:
        assert host.jobs is not None
        host.jobs[job] = None
        job.host = host
        if job.needs:
            self._permits.acquire(id(job), job.needs, job.priority, partial(self._permitted, job))
        else:
            self._send(job)

    def _permitted(self, job: Job, error: PodiumError | None) -> None:
        if job.dropped or job.host is None:
            self._permits.release(id(job))
            return
        if error is not None:
            self._leave(job)
            self._listener.result(job, ["fail", Failure("quota", str(error)).to_wire(), 0.0, False])
            return
        self._send(job)

    def _send(self, job: Job) -> None:
        assert job.host is not None and job.host.line is not None
        listener = self._listener
        answered, chunk = partial(self._answered, job), partial(listener.chunk, job)
        job.number = job.host.line.send("run", job.payload, answered, chunk)
        listener.started(job)

    def _answered(self, job: Job, reply: Reply) -> None:
        host = job.host
        if host is None or isinstance(reply.error, Unknown):
            return  # `_lost` queues it again
        self._leave(job)
        if reply.error is not None:
            result: list[Any] = ["fail", Failure("internal", str(reply.error)).to_wire(), 0.0, False]
        else:
            result = reply.value
        self._measure(host, result[2])
        if result[0] == "fail" and result[3]:
            self._world.background(self._replace(host), f"replace {host.address}")
        if not job.dropped:
            self._listener.result(job, result)
        self._feed()

    def _leave(self, job: Job) -> None:
        """The job's code has ended, or never began: its place and its permits are free."""
        if job.host is not None and job.host.jobs is not None:
            job.host.jobs.pop(job, None)
        job.host = job.number = None
        if job.needs:
            self._permits.release(id(job))

    async def _start(self, host: _Host) -> None:
        """Start a host, and again with growing delays, until it is up, blocked, or given up."""
        while True:
            try:
                await self._spawn(host)
                return
            except SpawnFailed as error:
                if error.kind == "LookupError":
                    self.blocked = error.reason
                    self._starting = False
                    return
                delay_s = host.window.delay_after_failure(self._world.monotonic(), self._world.random)
                if delay_s is None:
                    self._listener.give_up(error)
                    return
            await self._world.sleep(delay_s)

    async def _spawn(self, host: _Host) -> None:
        declared = self._declared
        setup = {
            "ref": declared.ref,
            "name": declared.name,
            "concurrency": declared.concurrency,
            "grace_s": self._settings.grace_s,
            "max_value_bytes": self._settings.max_value_bytes,
            "code": self._code,
            "search_path": self._search_path,
        }
        needs = Needs(declared.num_cpus, declared.num_gpus, declared.resources)
        await self._world.spawn("host", host.address, setup, needs)
        host.line, host.jobs = self._world.line(host.address), {}
        self._measure(host, host.mean_s)
        host.line.watch(lambda error: self._lost(host, error))
        self._feed()

    async def _replace(self, host: _Host) -> None:
        """A host whose code does not end: kill it; `_lost` starts the next."""
        await self._world.kill(host.address)

    def _lost(self, host: _Host, error: PodiumError) -> None:
        jobs, host.jobs, host.line = list(host.jobs or ()), None, None
        self._world.background(self._bury(host, jobs, error), f"bury {host.address}")

    async def _bury(self, host: _Host, jobs: list[Job], error: PodiumError) -> None:
        """Only when the host is certainly dead are its jobs free to run elsewhere, and its permits free.

        A host works in order, so those that ran are the oldest; the others are not to blame for its death.
        """
        await self._world.kill(host.address)
        sent = [job for job in jobs if job.number is not None]
        for job in sent[: self._declared.concurrency]:
            job.losses += 1
        for job in jobs:
            self._requeue(job, error)
        delay_s = host.window.delay_after_failure(self._world.monotonic(), self._world.random)
        if delay_s is None:
            self._listener.give_up(error)
            return
        await self._world.sleep(delay_s)
        await self._start(host)

    def _requeue(self, job: Job, error: PodiumError) -> None:
        self._leave(job)
        if job.dropped:
            return
        if job.losses > self._settings.max_losses:
            message = f"lost {job.losses} hosts of '{self._declared.name}' while it ran; the last: {error}"
            self._listener.result(job, ["fail", Failure("host_lost", message).to_wire(), 0.0, False])
        else:
            heapq.heappush(self._queue, (job.rank, next(self._order), job))
