"""Undeploys a workflow: its supervisors end, and it is neither listed nor started. All its records stay.

An undeployment is refused while tasks are open, unless they are to be left open: they go on when the workflow is
deployed again. A task that comes in at the last moment counts, too: then the workflow is restored.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..protocols.errors import FixTheCall, PodiumError
from ..supervisors.ports.journal import Journal, durable
from ..supervisors.ports.world import World
from .catalogue import Catalogue
from .managed_actor import ManagedActor
from .passivator import Passivator

WHY = "its workflow was undeployed"


class Undeploying:
    def __init__(self, world: World, journal: Journal, catalogue: Catalogue, resting: Passivator) -> None:
        self._world, self._journal, self._catalogue, self._resting = world, journal, catalogue, resting

    async def undeploy(self, workflow: str, children: list[ManagedActor], leave_open: bool) -> None:
        """Undeploy a workflow durably, and end its supervisors. Raises FixTheCall if tasks are open and may not be."""
        if not leave_open:
            _refuse_if_open(workflow, await self._open(children))
        await durable(self._journal, [self._catalogue.withdraw(workflow)])
        for child in children:
            await self._end(child)
        if leave_open or self._catalogue.is_listed(workflow):  # or somebody has deployed it again meanwhile
            return
        if count := await self._open(children):
            await durable(self._journal, [self._catalogue.restore(workflow)])
            await self._world.all([self._resting.owner.rouse(child.name) for child in children])
            _refuse_if_open(workflow, count)

    async def _open(self, children: list[ManagedActor]) -> int:
        return sum([await self._world.open_count(child.name) for child in children])

    async def _end(self, child: ManagedActor) -> None:
        while child.starting is not None:
            with suppress(PodiumError):
                await asyncio.shield(child.starting)
        await asyncio.shield(self._resting.passivate(child, WHY))


def _refuse_if_open(workflow: str, count: int) -> None:
    if count:
        tasks = f"{count} tasks are" if count > 1 else "1 task is"
        raise FixTheCall(
            f"workflow '{workflow}' is not undeployed: {tasks} open. Wait for them, cancel them, or leave them as they "
            "are (--leave-open): they go on when it is deployed again"
        )
