"""When a supervisor has nothing to do: the level above may end it then, and starts it again for what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..open_tasks import OpenTasks
from ..ports.messaging import Incoming
from ..ports.world import World
from ..shards import tier_shard
from ..tasks.plan import Plan
from .quarantine import Quarantine

FIRST_S = 60.0
"""Idle time at which one may end that nothing was asked of since it started: somebody wanted it, or its old tasks were
to be forgotten."""


class Passivation:
    def __init__(self, world: World, shard: str, open_tasks: OpenTasks, quarantine: Quarantine, after_s: float) -> None:
        """`after_s`: idle seconds; 0 for never."""
        self._world, self._shard, self._after_s = world, shard, after_s
        self._open_tasks, self._quarantine = open_tasks, quarantine
        self._busy = 0
        self._until = world.monotonic() + min(after_s, FIRST_S)

    def disturb(self) -> None:
        """Something is asked for."""
        self._until = self._world.monotonic() + self._after_s

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.disturb()

    def promise(self, ask: Incoming) -> None:
        """Answered when this supervisor has been idle for long enough."""
        if self._after_s > 0:
            self._world.background(self._tell(ask), "rest")

    async def _tell(self, ask: Incoming) -> None:
        while True:
            while (left_s := self._left_s()) > 0:
                await self._world.sleep(left_s)
            if not await self._is_busy_below():
                break
            self.disturb()
        ask.reply()

    async def _is_busy_below(self) -> bool:
        """Whether a nested Hierarchy still has something to do, as taking back what a cancelled task did."""
        for plan in self._open_tasks.plans.values():
            for shard in _shards_below(self._shard, plan):
                if await self._world.open_count(shard) > 0:
                    return True
        return False

    def _left_s(self) -> float:
        if self._busy or self._open_tasks.tasks or self._quarantine.aside:
            self.disturb()
        return self._until - self._world.monotonic()


def _shards_below(shard: str, plan: Plan) -> Iterator[str]:
    for tier in plan.tiers:
        below = tier_shard(shard, tier.name)
        yield below
        yield from _shards_below(below, Plan(tier.definition))
