"""Workflows that have nothing to do cost no process: their supervisors are ended, and started for what comes next.

Nothing is kept in memory for it: that a task came in between is in the workflow's journal, and then it is started at
once. Once in a while each is started all the same, so that it forgets what is too old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ..protocols.errors import PeerLost, PodiumError
from ..supervisors.ports import Line, Reply, World
from ..supervisors.settings import Governance
from .child import Child

TIDY_S = 86_400.0
"""Longest time, in seconds, for which a workflow at rest keeps what is to be forgotten."""
APART_S = 5.0
"""Between two workflows that are started to forget."""


class Resting:
    def __init__(
        self,
        world: World,
        settings: Governance,
        supervisors: Mapping[str, Child],
        start: Callable[[str], Awaitable[None]],
        forget: Callable[[list[Child]], Awaitable[None]],
    ) -> None:
        """`start` has the supervisor of a shard run; `forget` frees what some of them held."""
        self._world, self._settings = world, settings
        self._supervisors, self._start, self._forget = supervisors, start, forget

    def attend(self, child: Child, line: Line) -> None:
        """Hear when the supervisor that has just started has nothing to do."""
        line.send("rest", None, lambda reply: self._is_idle(child, line, reply))

    def _is_idle(self, child: Child, line: Line, reply: Reply) -> None:
        if reply.error is None and child.line is line and child.starting is None:
            child.line = None
            child.starting = asyncio.get_running_loop().create_task(self._lay_down(child, line))

    async def _lay_down(self, child: Child, line: Line) -> None:
        try:
            line.lose(PeerLost(address=child.address, reason="it had nothing to do and was laid to rest"))
            await self._world.stop(child.address)
            await self._forget([child])
        except PodiumError:
            pass  # what it held comes back with its lease
        finally:
            child.starting = None
        if await self._world.open_count(child.name) > 0:
            await self._start(child.name)

    async def keep_tidy(self) -> None:
        """Start each that rests, once in a while."""
        while True:
            await self._world.sleep(min(TIDY_S, self._settings.keep_finished_s))
            for shard, child in list(self._supervisors.items()):
                if child.line is None and child.down is None:
                    await self._start(shard)
                    await self._world.sleep(APART_S)
