"""One protocol host, as its supervisor sees it."""

from __future__ import annotations

import math
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

    def __init__(self, pool: Pool, address: str, at_once: int, lookahead_s: float) -> None:
        self._pool, self._at_once, self._lookahead_s = pool, at_once, lookahead_s
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
