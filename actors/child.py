"""One actor below the coordinator: its state, and who waits for it."""

from __future__ import annotations

import asyncio

from ..supervisors.ports import Line
from ..supervisors.restarts import Restarts
from ..supervisors.settings import Governance


class Child:
    def __init__(self, address: str, settings: Governance, start: list[int]) -> None:
        self.address = address
        self.start = start
        """[epoch of the coordinator, number] of its last start: later ones have higher numbers."""
        self.restarts = Restarts(settings.top_restarts)
        self.line: Line | None = None
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

    @property
    def name(self) -> str:
        """The name of a supervisor's shard, or the whole address."""
        return self.address.partition("/")[2] or self.address
