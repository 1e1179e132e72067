"""Forgetting finished tasks: by age and by number, never one that is open.

The runs of nested Hierarchies are part of the task above them: they are forgotten with it, and before it, so
that a crash in between leaves nothing that nobody would ever forget.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from .messages.supervisor import Busy
from .ports import Ask, Change, Forget, Journal, World, durable
from .settings import Governance

SWEEP_S = 60.0
"""Longest time between two looks for tasks to forget, in seconds."""
BATCH = 500
"""Tasks forgotten in one commit, so that it does not hold others up for long."""


class Retention:
    def __init__(
        self,
        world: World,
        settings: Governance,
        journal: Journal,
        forget_below: Callable[[list[str]], Awaitable[set[str]]],
        with_them: Callable[[list[str]], list[Change]],
    ) -> None:
        """`forget_below` has the tiers forget first; returns what they cannot now. `with_them` is what else goes."""
        self._with_them = with_them
        self._world, self._settings, self._journal = world, settings, journal
        self._forget_below = forget_below
        self.finished = 0
        """Finished tasks in the shard, as far as known."""

    async def keep_sweeping(self) -> None:
        self.finished += await self._journal.finished_count()
        every_s = min(SWEEP_S, self._settings.keep_finished_s / 2)
        while True:
            while await self._sweep():
                pass
            await self._world.sleep(every_s)

    def forget(self, ask: Ask, wanted: Sequence[str], busy: set[str]) -> None:
        """Forget tasks for the level above; answered with those that are `busy` and stay."""
        ids = [id for id in wanted if id not in busy]
        changes = [*(Forget(id) for id in ids), *self._with_them(ids)]
        self._journal.write(changes, lambda: ask.reply(Busy(sorted(busy.intersection(wanted)))))

    async def _sweep(self) -> int:
        """Forget one batch; returns how many that were."""
        before = self._world.now() - self._settings.keep_finished_s
        ids = await self._journal.forgettable(before, BATCH)
        surplus = self.finished - len(ids) - self._settings.keep_finished_tasks
        if surplus > 0 and not ids:
            ids = await self._journal.forgettable(math.inf, min(BATCH, surplus))
        if ids:
            busy = await self._forget_below(ids)
            ids = [id for id in ids if id not in busy]
        if not ids:
            return 0
        await durable(self._journal, [*(Forget(id) for id in ids), *self._with_them(ids)])
        self.finished -= len(ids)
        self._world.log("info", "finished tasks forgotten", count=len(ids), left=self.finished)
        return len(ids)
