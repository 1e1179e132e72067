"""One actor below the coordinator: its state, and who waits for it."""

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
        """[epoch of the coordinator, number] of its last start: later ones have higher numbers."""
        self.restarts = Restarts(settings.top_restarts)
        self.line: Connection | None = None
        self.starting: asyncio.Task[None] | None = None
        """While it is started, or laid to rest."""
        self.last_words: str | None = None
        """Why it gave up, if it did."""
        self.waits: str | None = None
        """What keeps it from starting, if that may pass by itself."""
        self.is_waiting = asyncio.Event()
        """Set while there is such a thing."""
        self.down: str | None = None
        """Why it is not started any more."""

    def wait_for(self, reason: str | None) -> None:
        """It cannot start now, or (None) can again."""
        self.waits = reason
        if reason is None:
            self.is_waiting.clear()
        else:
            self.is_waiting.set()

    def hear(self, reply: Reply) -> None:
        """Its last words."""
        if reply.error is None:
            self.last_words = reply.read(LastWords).reason

    async def describe(self, entry: Mapping[str, Value]) -> dict[str, Value]:
        """How it is, beside what the catalogue says of its workflow."""
        if self.down is not None:
            return {**entry, "state": "down", "reason": self.down}
        if self.line is None:
            return {**entry, "state": "starting" if self.starting else "idle", "reason": self.waits}
        try:
            status = await self.line.ask(DescribeSupervisor(), SupervisorStatus)
            return {**entry, "state": "up", **status._asdict()}
        except Unknown:
            return {**entry, "state": "starting"}

    @property
    def name(self) -> str:
        """The name of a supervisor's shard, or the whole address."""
        return self.address.partition("/")[2] or self.address
