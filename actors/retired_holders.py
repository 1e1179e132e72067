"""Supervisors that ended for good: the ResourceActor is told, at once or when it runs again, and frees what they held.

What is told names the last start that it is about, so it may come late: it does no harm to one that was started since.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..protocols.errors import Unknown
from ..supervisors.messages.resources import ForgetHolder
from ..supervisors.ports.messaging import Connection
from .managed_actor import ManagedActor


class RetiredHolders:
    def __init__(self) -> None:
        self._starts: dict[str, list[int]] = {}
        """By shard, those that are not told yet."""

    def add(self, children: Iterable[ManagedActor]) -> None:
        self._starts.update({child.name: child.start for child in children})

    async def tell(self, line: Connection | None) -> None:
        """`line`: to the ResourceActor, if there is one."""
        if line is None:
            return
        with suppress(Unknown):  # its successor is told
            for shard, start in list(self._starts.items()):
                await line.ask(ForgetHolder(shard, start))
                if self._starts.get(shard) == start:
                    del self._starts[shard]
