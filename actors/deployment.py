"""Sends a new version of a workflow to the supervisors of its shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..protocols.errors import Unknown, WorkflowDown
from ..supervisors.messages.supervisor import Govern
from ..supervisors.ports.messaging import Connection
from ..supervisors.ports.world import Scheduling
from .managed_actor import ManagedActor


class Deployment:
    def __init__(
        self, world: Scheduling, message: Govern, started: Callable[[ManagedActor], Awaitable[Connection]]
    ) -> None:
        """`message` is for each supervisor. `started` starts one: it returns the connection, or raises WorkflowDown."""
        self._world, self._message, self._started = world, message, started
        self._down: list[WorkflowDown] = []

    async def reach(self, children: list[ManagedActor]) -> None:
        """Send the version to the supervisors, and return when every actor of the tree runs.

        A supervisor that does not start, or not soon, is not waited for, unless there is no other: it gets the version
        when it starts. Raises the error about the definition, or WorkflowDown if no supervisor starts.
        """
        reached = await self._world.all(map(self._reached_soon, children))
        waiting = [child for child in children if child.waits is not None]
        if not any(reached) and waiting:
            await self._world.all(map(self._reached, waiting))
        if len(self._down) >= len(children):
            raise self._down[0]

    async def _reached_soon(self, child: ManagedActor) -> bool:
        """Send the version to one supervisor; returns False if the supervisor is down, or cannot start for now."""
        loop = asyncio.get_running_loop()
        reached, waits = loop.create_task(self._reached(child)), loop.create_task(child.is_waiting.wait())
        await asyncio.wait({reached, waits}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if reached.done():
            return await reached
        reached.cancel()
        return False

    async def _reached(self, child: ManagedActor) -> bool:
        while True:
            try:
                line = await self._started(child)
            except WorkflowDown as error:
                self._down.append(error)
                return False
            try:
                await line.ask(self._message)
            except Unknown:
                continue
            return True
