"""One actor below the coordinator: its state, and the events that others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..protocols.errors import Unknown
from ..protocols.values import Value
from ..supervisors.messages.supervisor import DescribeSupervisor, LastWords, SupervisorStatus
from ..supervisors.ports.messaging import Connection, Reply
from ..supervisors.restarts import Restarts
from ..supervisors.settings import Governance


class ManagedActor:
    def __init__(self, address: str, settings: Governance, start: list[int]) -> None:
        self.address = address
        self.start = start
        """[epoch of the coordinator, number] of the last start; a later start has a higher pair."""
        self.restarts = Restarts(settings.top_restarts)
        self.line: Connection | None = None
        self.leaves = False
        """Whether its machine will be taken away, so that it ends by itself and starts elsewhere."""
        self.starting: asyncio.Task[None] | None = None
        """The task that starts or passivates the actor; None if there is none."""
        self.last_words: str | None = None
        """The reason why the actor gave up, if it did."""
        self.waits: str | None = None
        """The reason why the actor cannot start now, if that may pass by itself."""
        self.is_waiting = asyncio.Event()
        """Set while `waits` has a reason."""
        self.down: str | None = None
        """The reason why the actor is down and not started any more."""

    def wait_for(self, reason: str | None) -> None:
        """Note that the actor cannot start now for this reason, or (None) that it can again."""
        self.waits = reason
        if reason is None:
            self.is_waiting.clear()
        else:
            self.is_waiting.set()

    def hear(self, reply: Reply) -> None:
        """Note the reason why the actor gives up."""
        if reply.error is None:
            self.last_words = reply.read(LastWords).reason

    async def describe(self, entry: Mapping[str, Value]) -> dict[str, Value]:
        """Describe the state of the actor, in addition to the catalogue's entry of its workflow."""
        if self.down is not None:
            return {**entry, "state": "down", "reason": self.down}
        if self.line is None:
            return {**entry, "state": "starting" if self.starting else "idle", "reason": self.waits}
        try:
            status = await self.line.ask(DescribeSupervisor(), SupervisorStatus)
            return {**entry, "state": "up", **status._asdict()}
        except Unknown:
            return {**entry, "state": "starting", "reason": None}

    @property
    def name(self) -> str:
        """Name of the supervisor's shard, or the whole address of another actor."""
        return self.address.partition("/")[2] or self.address
