"""Tells the level above when a supervisor is idle, so that it may be passivated: ended, and started again if needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ..open_tasks import OpenTasks
from ..ports.messaging import Incoming
from ..ports.world import World
from ..shards import tier_shard
from ..tasks.plan import Plan
from .quarantine import Quarantine

FIRST_S = 60.0
"""A supervisor that has received no message since it started may be passivated after this many idle seconds."""


class HasNextEnd(Protocol):
    @property
    def next_end(self) -> float:
        """UTC seconds at which the first task is woken by its time."""


class Passivation:
    def __init__(
        self,
        world: World,
        shard: str,
        open_tasks: OpenTasks,
        quarantine: Quarantine,
        resting: HasNextEnd,
        after_s: float,
    ) -> None:
        """`after_s`: seconds without work after which the supervisor is idle; 0 for never."""
        self._world, self._shard, self._after_s = world, shard, after_s
        self._open_tasks, self._quarantine, self._resting = open_tasks, quarantine, resting
        self._busy = 0
        self._until = world.monotonic() + min(after_s, FIRST_S)

    def disturb(self) -> None:
        """Begin the idle time anew, because a message came."""
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
        """Answer the message `AwaitIdle` when this supervisor has been idle for long enough."""
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
        """Whether a nested supervisor has open runs, for example undo steps of a cancelled run."""
        for plan in self._open_tasks.plans.values():
            for shard in _shards_below(self._shard, plan):
                if await self._world.open_count(shard) > 0:
                    return True
        return False

    def _has_work(self) -> bool:
        """Whether something runs, somebody waits for the end of a task, or a task will soon be woken by its time."""
        if self._open_tasks.watchers.has_any:
            return True
        if any(task.rests is None for task in self._open_tasks.tasks.values()):
            return True
        return self._resting.next_end < self._world.now() + self._after_s

    def _left_s(self) -> float:
        if self._busy or self._has_work() or self._quarantine.aside:
            self.disturb()
        return self._until - self._world.monotonic()


def _shards_below(shard: str, plan: Plan) -> Iterator[str]:
    for tier in plan.tiers:
        below = tier_shard(shard, tier.name)
        yield below
        yield from _shards_below(below, Plan(tier.definition))
