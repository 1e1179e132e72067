"""Escalation: how a supervisor gives up. It tells the level above the reason, stops its children, then itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...protocols.errors import PodiumError
from ..messages.supervisor import LastWords
from ..ports.messaging import Incoming
from ..ports.world import World

LAST_WORDS_S = 0.2
"""Seconds in which the reason may reach the level above, before the supervisor crashes."""


class GivingUp:
    def __init__(self, world: World) -> None:
        self._world = world
        self._reason: str | None = None
        self._listeners: list[Incoming] = []

    def promise(self, ask: Incoming) -> None:
        """Keep the message `AwaitLastWords`; it is answered with the reason if this supervisor gives up."""
        if self._reason is not None:
            ask.reply(LastWords(self._reason))
        else:
            self._listeners.append(ask)
            ask.on_cancel = lambda: self._listeners.remove(ask)

    def give_up(self, stop_children: Callable[[PodiumError], Awaitable[None]], error: PodiumError) -> None:
        """Tell the reason to the listeners, stop the children, and crash. Only the first call has an effect."""
        if self._reason is None:
            self._reason = str(error)
            self._world.log("error", "gives up", reason=self._reason)
            for listener in self._listeners:
                listener.reply(LastWords(self._reason))
            self._world.background(self._end(stop_children, error), "give up")

    async def _end(self, stop_children: Callable[[PodiumError], Awaitable[None]], error: PodiumError) -> None:
        await stop_children(error)
        await self._world.sleep(LAST_WORDS_S)
        self._world.crash(error)
