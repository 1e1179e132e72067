"""The data of jobs, of the hosts that run them, and of the lanes in which jobs wait at a host. They name each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from ...protocols.errors import PodiumError
from ..ports.messaging import Connection
from ..tasks.plan import StepSettings
from ..tasks.state import NodeRun, TaskState
from .breaker import Call

MAX_AHEAD = 1_000
"""Most jobs that are sent to one host ahead of their turn."""


class JobPool(Protocol):
    """A pool, as seen by the dispatcher that submitted a job to it."""

    def cancel(self, job: Job) -> None:
        """Stop the job; its result is not reported."""

    def has(self, job: Job) -> bool:
        """Whether the job is at a host or waits for one."""


class Hosting(Protocol):
    """A pool, as seen by its hosts: it starts and ends them."""

    async def start_host(self, host: Host) -> None:
        """Start the actor of a host. Raises SpawnFailed."""

    async def end_host(self, host: Host, error: PodiumError) -> None:
        """End the actor of a host; on return it is certainly gone, and its jobs are queued again or have failed."""


class Feeding(Protocol):
    """A pool, as seen by its backlog and its lanes: it sends jobs to hosts."""

    def feed(self) -> None:
        """Give jobs of the backlog to hosts that have room."""

    def has_room_ahead(self, host: Host) -> bool:
        """Whether a host may get one more job ahead of its turn."""

    def send(self, host: Host, job: Job, ticket: str | None) -> None:
        """Send a job to a host, with the ticket of its permits or without."""


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one step, to be run on any host of its protocol."""

    task: TaskState
    place: NodeRun
    settings: StepSettings
    key: str
    """Value of the protocol's `limit_key` for this step, for limits and breakers "per key"."""
    losses: int
    """Number of hosts that died while the job ran."""
    ticket: str | None = None
    """Ticket of the permits that the job has, until it is sent to a host."""
    host: Host | None = None
    lane: Lane | None = None
    number: int | None = None
    pool: JobPool | None = None
    call: Call | None = None
    """The call that the protocol's breaker let through for this job."""
    dropped: bool = False


@dataclass(slots=True, eq=False)
class Lane:
    """The jobs at one host that need the same permits. As many run at once as the lane has permits, oldest first."""

    number: int
    pools: Hashable
    """Key of the permits of this lane: the pools that they are taken from."""
    tickets: dict[str, None] = field(default_factory=dict)
    jobs: int = 0

    @property
    def ahead(self) -> int:
        """Number of jobs that wait for a permit of this lane."""
        return max(0, self.jobs - len(self.tickets))


class Host:
    """One protocol host, as its pool knows it. It is a `children.Child` of the supervisor."""

    def __init__(self, pool: Hosting, address: str, at_once: int, lookahead_s: float) -> None:
        self._pool, self._at_once, self._lookahead_s = pool, at_once, lookahead_s
        self.address = address
        self.is_wanted = False
        self.line: Connection | None = None
        """The connection to the host; None while the host does not run."""
        self.jobs: dict[Job, None] = {}
        self.lanes: dict[Hashable, Lane] = {}
        """Lanes by their `pools`."""
        self.suspects = 0
        """Number of `jobs` with losses."""
        self.mean_s: float | None = None
        """Moving average of the seconds of one run; None until the first run has ended."""
        self.most = at_once + (lookahead_s > 0)
        """Most jobs this host may hold, running plus prefetched: at least one is prefetched if `lookahead_s` > 0."""
        self.is_stuck = False
        """Whether the host is being replaced because its code does not end."""
        self.idle_since = 0.0
        """Monotonic seconds since when no job was there; not kept by pools with a fixed number of hosts."""
        self.turn = 0
        """Counts starts and ends of the host, so that a start that was overtaken by an end changes nothing."""

    def measure(self, seconds: float) -> None:
        """Count a run that took `seconds`."""
        mean_s = seconds if self.mean_s is None else self.mean_s + 0.1 * (seconds - self.mean_s)
        self.mean_s = max(mean_s, 1e-6)
        self.most = self._at_once + min(MAX_AHEAD, math.ceil(self.works_off(self._at_once)))

    def works_off(self, at_once: int) -> float:
        """Estimate the jobs that the host ends in `lookahead_s` if it runs `at_once` jobs at once.

        0.0 as long as no run has ended.
        """
        return 0.0 if self.mean_s is None else at_once * self._lookahead_s / self.mean_s

    async def start(self) -> None:
        await self._pool.start_host(self)

    async def end(self, error: PodiumError) -> None:
        await self._pool.end_host(self, error)


def running(host: Host) -> list[Job]:
    """Return the jobs that may run at a host now, the oldest first: of each lane one for each permit, and all others.

    A host works in the order of sending, so the first jobs of this list are those that run.
    """
    begun: Counter[Lane | None] = Counter()
    jobs = []
    for job in host.jobs:
        begun[job.lane] += 1
        if job.lane is None or begun[job.lane] <= len(job.lane.tickets):
            jobs.append(job)
    return jobs
