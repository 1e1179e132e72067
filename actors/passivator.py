"""Passivates idle supervisors: they are ended, so that an idle workflow costs no process, and started when needed.

No state is kept in memory for that. If a task came in while a supervisor ended, the journal of its shard has the task,
and the supervisor is started at once. Once in a while each passivated supervisor is started, so that it deletes tasks
that are too old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from ..protocols.errors import PeerLost, PodiumError
from ..supervisors.messages.supervisor import AwaitIdle
from ..supervisors.ports.messaging import Connection, Reply
from ..supervisors.ports.world import World
from ..supervisors.settings import Governance
from .managed_actor import ManagedActor

TIDY_S = 86_400.0
"""Longest time in seconds for which a passivated supervisor keeps tasks that have to be deleted."""
APART_S = 5.0
"""Seconds between the starts of two supervisors that are to delete old tasks."""


class Owner(Protocol):
    """The coordinator, as seen by the passivator: it owns the supervisors."""

    async def rouse(self, shard: str) -> None:
        """Start the supervisor of a shard, if it does not run."""

    async def forget(self, children: list[ManagedActor]) -> None:
        """Free the permits of supervisors that have ended."""


class Passivator:
    def __init__(
        self, world: World, settings: Governance, supervisors: Mapping[str, ManagedActor], owner: Owner
    ) -> None:
        self._world, self._settings = world, settings
        self._supervisors, self.owner = supervisors, owner

    def attend(self, child: ManagedActor, line: Connection) -> None:
        """Ask a supervisor that has just started to tell when it is idle; it is passivated then."""
        line.send(AwaitIdle(), lambda reply: self._is_idle(child, line, reply))

    def _is_idle(self, child: ManagedActor, line: Connection, reply: Reply) -> None:
        if reply.error is None and child.line is line and child.starting is None:
            self.passivate(child, "it had nothing to do and was passivated")

    def passivate(self, child: ManagedActor, why: str) -> asyncio.Task[None]:
        """End a supervisor, if it runs, and free its permits; start it again if its shard has open tasks then."""
        line, child.line = child.line, None
        self._world.log("info", "child ends", child=child.address, reason=why)
        child.starting = asyncio.get_running_loop().create_task(self._passivate(child, line, why))
        return child.starting

    async def _passivate(self, child: ManagedActor, line: Connection | None, why: str) -> None:
        try:
            if line is not None:
                line.lose(PeerLost(address=child.address, reason=why))
                await self._world.stop(child.address)
            await self.owner.forget([child])
        except PodiumError:
            pass  # its permits come back when its lease is over
        finally:
            child.starting = None
        if await self._world.open_count(child.name) > 0:
            await self.owner.rouse(child.name)

    async def keep_tidy(self) -> None:
        """Start each passivated supervisor once in a while."""
        while True:
            await self._world.sleep(min(TIDY_S, self._settings.keep_finished_s))
            for shard, child in list(self._supervisors.items()):
                if child.line is None and child.down is None:
                    await self.owner.rouse(shard)
                    await self._world.sleep(APART_S)
