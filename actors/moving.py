"""The departure of the coordinator from a machine that will be taken away.

All supervisors end with the coordinator, because Ray ends actors whose owner is gone. So shortly before the time is up
they start no step any more. When none runs, another machine becomes the home of the cluster. The coordinator that
starts there ends this one, and all below it, and goes on. No step is lost but those that take too long.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..protocols.errors import PodiumError
from ..protocols.probes import hit
from ..supervisors.messages.supervisor import HoldBack
from ..supervisors.ports.messaging import Connection, Reply
from ..supervisors.ports.world import World
from ..supervisors.running.pool import LOOK_S, MARGIN_S
from ..supervisors.upkeep.leaving import HOLD_BACK_S
from .managed_actor import ManagedActor


class Moving:
    def __init__(self, world: World, supervisors: Mapping[str, ManagedActor]) -> None:
        self._world, self._supervisors = world, supervisors
        self._moves = self._holds_back = False
        self._at_work: set[Connection] = set()
        """Connections to supervisors that have not said yet that no step runs."""

    def on_leaving(self, left_s: Mapping[str, float]) -> None:
        own_s = left_s.get(self._world.address)
        if own_s is not None and not self._moves:
            self._moves = True
            self._world.background(self._move(own_s), "move")

    def attend(self, line: Connection) -> None:
        """Have a supervisor start no step, if the time is up soon."""
        if self._holds_back:
            self._at_work.add(line)
            line.send(HoldBack(), partial(self._rests, line))

    def _rests(self, line: Connection, _reply: Reply) -> None:
        self._at_work.discard(line)  # also if it is gone

    async def _move(self, left_s: float) -> None:
        hit("coordinator leaves")
        self._world.log("info", "leaves its machine", left_s=left_s)
        end = self._world.monotonic() + max(0.0, left_s - MARGIN_S)
        await self._world.sleep(max(0.0, end - HOLD_BACK_S - self._world.monotonic()))
        self._holds_back = True
        for child in self._supervisors.values():
            if child.line is not None:
                self.attend(child.line)
        while self._at_work and self._world.monotonic() < end:
            await self._world.sleep(LOOK_S)
        await self._hand_over()

    async def _hand_over(self) -> None:
        """Make another machine the home. If that fails, one of them becomes it when this machine is lost."""
        try:
            has_moved = await self._world.hand_over()
        except PodiumError as error:
            self._world.log("warning", "the home of the cluster does not move", reason=str(error))
        else:
            self._world.log("info", "the home of the cluster has moved" if has_moved else "there is no other machine")
