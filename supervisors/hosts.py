"""One protocol host, as its supervisor sees it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..protocols.errors import PodiumError
from .ports import Line

if TYPE_CHECKING:
    from .backlog import Job
    from .lanes import Lane
    from .pool import Pool

MAX_AHEAD = 1_000
"""Most jobs sent to one host ahead of their turn."""


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
        self.mean_s: float | None = None
        """Moving average of the time of one run; None until the first has ended."""
        self.most = pool.most_of(self)
        """Jobs that it may have, those ahead of their turn included."""
        self.is_stuck = False
        """Whether it is being replaced because its code does not end."""
        self.turn = 0
        """Counts starts and ends: a start that was overtaken by an end changes nothing."""

    def measure(self, seconds: float) -> None:
        seconds = max(seconds, 1e-6)
        self.mean_s = seconds if self.mean_s is None else self.mean_s + 0.1 * (seconds - self.mean_s)
        self.most = self._pool.most_of(self)

    def works_off(self, at_once: int, within_s: float) -> float:
        """Jobs that it ends in a time if it runs so many at once; none, as long as nobody knows how long they take."""
        return 0.0 if self.mean_s is None else at_once * within_s / self.mean_s

    async def start(self) -> None:
        await self._pool.start_host(self)

    async def end(self, error: PodiumError) -> None:
        await self._pool.end_host(self, error)
