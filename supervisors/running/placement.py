"""Jobs, the hosts that run them, and the lanes in which they wait there: three kinds of data that name each other."""

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
"""Most jobs sent to one host ahead of their turn."""


class JobPool(Protocol):
    """Where a job is, as those see it who handed it over."""

    def cancel(self, job: Job) -> None:
        """Stop the job; its result is not reported."""

    def has(self, job: Job) -> bool:
        """Whether the job is at a host, or waits."""


class Hosting(Protocol):
    """What starts and ends the hosts of one protocol."""

    async def start_host(self, host: Host) -> None:
        """Raises SpawnFailed."""

    async def end_host(self, host: Host, error: PodiumError) -> None:
        """When this returns nothing of the host acts any more, and its jobs have gone back to be done again."""


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one step, to be run on any host of its protocol."""

    task: TaskState
    place: NodeRun
    settings: StepSettings
    key: str
    """What limits "per key" count apart."""
    losses: int
    """Hosts that died while it ran."""
    ticket: str | None = None
    """The permits that it has, until it takes them to a host."""
    host: Host | None = None
    lane: Lane | None = None
    number: int | None = None
    pool: JobPool | None = None
    call: Call | None = None
    """How its protocol's breaker let it through."""
    dropped: bool = False


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

    def __init__(self, pool: Hosting, address: str, at_once: int, lookahead_s: float) -> None:
        self._pool, self._at_once, self._lookahead_s = pool, at_once, lookahead_s
        self.address = address
        self.is_wanted = False
        self.line: Connection | None = None
        """None while it does not run."""
        self.jobs: dict[Job, None] = {}
        self.lanes: dict[Hashable, Lane] = {}
        """By their `pools`."""
        self.suspects = 0
        """How many of `jobs` have losses."""
        self.mean_s: float | None = None
        """Moving average of the time of one run; None until the first has ended."""
        self.most = at_once + (lookahead_s > 0)
        """Jobs that it may have, those ahead of their turn included: one at least, unless none are wanted."""
        self.is_stuck = False
        """Whether it is being replaced because its code does not end."""
        self.turn = 0
        """Counts starts and ends: a start that was overtaken by an end changes nothing."""

    def measure(self, seconds: float) -> None:
        """A run has taken so long."""
        mean_s = seconds if self.mean_s is None else self.mean_s + 0.1 * (seconds - self.mean_s)
        self.mean_s = max(mean_s, 1e-6)
        self.most = self._at_once + min(MAX_AHEAD, math.ceil(self.works_off(self._at_once)))

    def works_off(self, at_once: int) -> float:
        """Jobs that it ends in `lookahead_s` if it runs so many at once; none, as long as nobody knows how long they
        take."""
        return 0.0 if self.mean_s is None else at_once * self._lookahead_s / self.mean_s

    async def start(self) -> None:
        await self._pool.start_host(self)

    async def end(self, error: PodiumError) -> None:
        await self._pool.end_host(self, error)


def running(host: Host) -> list[Job]:
    """A host works in order, so those that run are the oldest that it got; of each lane, one for each permit."""
    begun: Counter[Lane | None] = Counter()
    jobs = []
    for job in host.jobs:
        begun[job.lane] += 1
        if job.lane is None or begun[job.lane] <= len(job.lane.tickets):
            jobs.append(job)
    return jobs
