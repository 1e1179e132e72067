"""Workflows that have nothing to do cost no process: their supervisors are ended, and started for what comes next.

Nothing is kept in memory for it: that a task came in between is in the workflow's journal, and then it is started at
once. Once in a while each is started all the same, so that it forgets what is too old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ..protocols.errors import PeerLost, PodiumError
from ..supervisors.messages.supervisor import AwaitIdle
from ..supervisors.ports.messaging import Connection, Reply
from ..supervisors.ports.world import World
from ..supervisors.settings import Governance
from .managed_actor import ManagedActor

TIDY_S = 86_400.0
"""Longest time, in seconds, for which a workflow at rest keeps what is to be forgotten."""
APART_S = 5.0
"""Between two workflows that are started to forget."""


class Passivator:
    def __init__(
        self,
        world: World,
        settings: Governance,
        supervisors: Mapping[str, ManagedActor],
        start: Callable[[str], Awaitable[None]],
        forget: Callable[[list[ManagedActor]], Awaitable[None]],
    ) -> None:
        """`start` has the supervisor of a shard run; `forget` frees what some of them held."""
        self._world, self._settings = world, settings
        self._supervisors, self.start, self._forget = supervisors, start, forget

    def attend(self, child: ManagedActor, line: Connection) -> None:
        """Hear when the supervisor that has just started has nothing to do."""
        line.send(AwaitIdle(), lambda reply: self._is_idle(child, line, reply))

    def _is_idle(self, child: ManagedActor, line: Connection, reply: Reply) -> None:
        if reply.error is None and child.line is line and child.starting is None:
            self.lay_down(child, "it had nothing to do and was laid to rest")

    def lay_down(self, child: ManagedActor, why: str) -> asyncio.Task[None]:
        """End its actors, if they run, and free what they held; unless it is wanted again by then."""
        line, child.line = child.line, None
        self._world.log("info", "child ends", child=child.address, reason=why)
        child.starting = asyncio.get_running_loop().create_task(self._lay_down(child, line, why))
        return child.starting

    async def _lay_down(self, child: ManagedActor, line: Connection | None, why: str) -> None:
        try:
            if line is not None:
                line.lose(PeerLost(address=child.address, reason=why))
                await self._world.stop(child.address)
            await self._forget([child])
        except PodiumError:
            pass  # what it held comes back with its lease
        finally:
            child.starting = None
        if await self._world.open_count(child.name) > 0:
            await self.start(child.name)

    async def keep_tidy(self) -> None:
        """Start each that rests, once in a while."""
        while True:
            await self._world.sleep(min(TIDY_S, self._settings.keep_finished_s))
            for shard, child in list(self._supervisors.items()):
                if child.line is None and child.down is None:
                    await self.start(shard)
                    await self._world.sleep(APART_S)
