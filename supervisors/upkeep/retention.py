"""Deletes ("forgets") finished tasks by age and by number. An open task is never deleted.

The runs of nested Hierarchies belong to the task above. They are deleted before that task, so that a crash in between
leaves no runs behind that would never be deleted.
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
"""Longest time in seconds between two searches for tasks to delete."""
BATCH = 500
"""Most tasks that are deleted in one commit, so that it does not hold up other commits for long."""


class ForgetsBelow(Protocol):
    async def forget(self, ids: list[str]) -> set[str]:
        """Have the nested runs of these tasks deleted; returns the ids of tasks whose runs cannot be deleted now."""


class GoesWithTasks(Protocol):
    def forgotten(self, ids: list[str]) -> list[Change]:
        """Return the other changes that belong to the deletion of these tasks."""


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
        """`below` deletes the nested runs of tasks, before the tasks themselves are deleted."""
        self._world, self._settings, self._journal = world, settings, journal
        self._open_tasks, self._below, self._letters = open_tasks, below, letters
        self._known = 0
        """Number of finished tasks at the start, less those that were deleted since; may be negative."""

    @property
    def finished(self) -> int:
        """Number of finished tasks in the shard, as far as known."""
        return self._known + self._open_tasks.ended_count

    async def keep_sweeping(self) -> None:
        self._known += await self._journal.finished_count()
        every_s = min(SWEEP_S, self._settings.keep_finished_s / 2)
        while True:
            while await self._sweep():
                pass
            await self._world.sleep(every_s)

    def forget(self, ask: Incoming, wanted: Sequence[str], busy: set[str]) -> None:
        """Delete tasks for the level above; the answer has the ids of the tasks that are `busy` and stay."""
        ids = [id for id in wanted if id not in busy]
        changes = [*(Forget(id) for id in ids), *self._letters.forgotten(ids)]
        self._journal.write(changes, lambda: ask.reply(Busy(sorted(busy.intersection(wanted)))))

    async def _sweep(self) -> int:
        """Delete one batch of tasks; returns how many were deleted."""
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
