"""Passivates idle supervisors: they are ended, so that an idle workflow costs no process, and started when needed.

If a task came in while a supervisor ended, the journal of its shard has the task, and the supervisor is started at
once. If all its tasks only wait, it is started again when the first of them is due by its time. Once in a while each
passivated supervisor is started, so that it deletes tasks that are too old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from ..protocols.errors import PeerLost, PodiumError
from ..supervisors.messages.supervisor import AwaitIdle
from ..supervisors.ports.messaging import Connection, Reply
from ..supervisors.ports.world import Timer, World
from ..supervisors.settings import Governance
from .managed_actor import ManagedActor

TIDY_S = 86_400.0
"""Longest time in seconds for which a passivated supervisor keeps tasks that have to be deleted."""
START_S = 5.0
"""Seconds before its first task is due at which a passivated supervisor is started."""
LOOK_S = 300.0
"""Longest time in seconds after which the clock is looked at again: somebody may set it."""
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
        self._alarms: dict[str, Timer] = {}
        """Timers for the shards whose supervisors are passivated and have tasks that will be woken by their time."""

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
        await self.look_after(child.name)

    async def look_after(self, shard: str) -> None:
        """Start the supervisor of a shard now if it has something to do, else when the first task rests no more."""
        rest = await self._world.rest(shard)
        if rest.awake > 0:
            await self.owner.rouse(shard)
        elif rest.first is not None:
            self._set_alarm(shard, rest.first)

    def _set_alarm(self, shard: str, at: float) -> None:
        """Start the supervisor at `at` (UTC seconds), a little before; the clock is looked at once in a while."""
        left_s = at - START_S - self._world.now()
        if shard in self._alarms:
            self._alarms.pop(shard).cancel()
        wake = partial(self._wake, shard, at) if left_s > LOOK_S else partial(self._rouse_soon, shard)
        self._alarms[shard] = self._world.call_later(min(max(0.0, left_s), LOOK_S), wake)

    def _wake(self, shard: str, at: float) -> None:
        self._set_alarm(shard, at)

    def _rouse_soon(self, shard: str) -> None:
        self._alarms.pop(shard, None)
        self._world.background(self.owner.rouse(shard), "rouse")

    async def keep_tidy(self) -> None:
        """Start each passivated supervisor once in a while."""
        while True:
            await self._world.sleep(min(TIDY_S, self._settings.keep_finished_s))
            for shard, child in list(self._supervisors.items()):
                if child.line is None and child.down is None:
                    await self.owner.rouse(shard)
                    await self._world.sleep(APART_S)
