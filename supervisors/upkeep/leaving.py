"""The departure of a supervisor, and of the actors below it, from a machine that will be taken away.

Ray says so in advance where it can: spot machines that are reclaimed, clusters that shrink. Hosts there get no new
steps, and others take their places at once; steps that run may end until shortly before the time is up. A supervisor
there goes on until none of its steps runs. Shortly before the time is up it starts no more, nor do those below it,
waits for those that run, and stops in order. Its owner starts it on another machine. If it is the owner's machine that
will be taken away, the owner asks it to do the same (actors/moving.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ...protocols.probes import hit
from ..ports.messaging import Incoming
from ..ports.world import World
from ..running.dispatch import Dispatcher
from ..running.pool import LOOK_S, MARGIN_S

HOLD_BACK_S = 10.0
"""Seconds before that, in which a supervisor there starts no more steps."""


class Leaving:
    def __init__(self, world: World, dispatcher: Dispatcher, stop: Callable[[], Awaitable[None]]) -> None:
        """`stop` stops the supervisor in order."""
        self._world, self._dispatcher, self._stop = world, dispatcher, stop
        self._leaves = False

    def on_leaving(self, left_s: Mapping[str, float]) -> None:
        """Leave the machines of these actors within these seconds."""
        self._dispatcher.leave(left_s)
        own_s = left_s.get(self._world.address)
        if own_s is not None and not self._leaves:
            self._leaves = True
            self._world.background(self._leave(own_s), "leave")

    async def _leave(self, left_s: float) -> None:
        hit("supervisor leaves")
        self._world.log("info", "leaves its machine", left_s=left_s)
        end = self._world.monotonic() + max(0.0, left_s - MARGIN_S)
        while self._dispatcher.is_at_work and self._world.monotonic() < end - HOLD_BACK_S:
            await self._world.sleep(LOOK_S)
        self._dispatcher.begin_no_more()
        while self._dispatcher.runs_steps and self._world.monotonic() < end:
            await self._world.sleep(LOOK_S)
        await self._stop()
        self._world.leave()

    def hold_back(self, ask: Incoming) -> None:
        """Start no step any more, and answer when none runs."""
        self._dispatcher.begin_no_more()
        self._world.background(self._tell_of_rest(ask), "hold back")

    async def _tell_of_rest(self, ask: Incoming) -> None:
        while self._dispatcher.runs_steps:
            await self._world.sleep(LOOK_S)
        ask.reply()
