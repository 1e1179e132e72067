"""Forgetting finished tasks: by age and by number, never one that is open.

The runs of nested Hierarchies are part of the task above them: they are forgotten with it, and before it, so
that a crash in between leaves nothing that nobody would ever forget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from ..messages.supervisor import Busy
from ..open_tasks import OpenTasks
from ..ports.journal import Change, Forget, Journal, durable
from ..ports.messaging import Incoming
from ..ports.world import World
from ..settings import Governance

SWEEP_S = 60.0
"""Longest time between two looks for tasks to forget, in seconds."""
BATCH = 500
"""Tasks forgotten in one commit, so that it does not hold others up for long."""


class ForgetsBelow(Protocol):
    async def forget(self, ids: list[str]) -> set[str]:
        """Have what nested Hierarchies recorded of these tasks forgotten; returns the tasks that cannot be now."""


class GoesWithTasks(Protocol):
    def forgotten(self, ids: list[str]) -> list[Change]:
        """What else goes when these tasks are forgotten."""


class Retention:
    def __init__(
        self,
        world: World,
        settings: Governance,
        journal: Journal,
        open_tasks: OpenTasks,
        below: ForgetsBelow,
        letters: GoesWithTasks,
    ) -> None:
        """`below` forgets first."""
        self._world, self._settings, self._journal = world, settings, journal
        self._open_tasks, self._below, self._letters = open_tasks, below, letters
        self._known = 0
        """Finished tasks that were there at the start, less those that were forgotten since."""

    @property
    def finished(self) -> int:
        """Finished tasks in the shard, as far as known."""
        return self._known + self._open_tasks.ended_count

    async def keep_sweeping(self) -> None:
        self._known += await self._journal.finished_count()
        every_s = min(SWEEP_S, self._settings.keep_finished_s / 2)
        while True:
            while await self._sweep():
                pass
            await self._world.sleep(every_s)

    def forget(self, ask: Incoming, wanted: Sequence[str], busy: set[str]) -> None:
        """Forget tasks for the level above; answered with those that are `busy` and stay."""
        ids = [id for id in wanted if id not in busy]
        changes = [*(Forget(id) for id in ids), *self._letters.forgotten(ids)]
        self._journal.write(changes, lambda: ask.reply(Busy(sorted(busy.intersection(wanted)))))

    async def _sweep(self) -> int:
        """Forget one batch; returns how many that were."""
        before = self._world.now() - self._settings.keep_finished_s
        ids = await self._journal.forgettable(before, BATCH)
        surplus = self.finished - len(ids) - self._settings.keep_finished_tasks
        if surplus > 0 and not ids:
            ids = await self._journal.forgettable(math.inf, min(BATCH, surplus))
        if ids:
            busy = await self._below.forget(ids)
            ids = [id for id in ids if id not in busy]
        if not ids:
            return 0
        await durable(self._journal, [*(Forget(id) for id in ids), *self._letters.forgotten(ids)])
        self._known -= len(ids)
        self._world.log("info", "finished tasks forgotten", count=len(ids), left=self.finished)
        return len(ids)
