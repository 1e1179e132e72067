"""Tells the ResourceActor of supervisors that ended for good, at once or when it runs again: it frees their permits.

Each notice has the start number of the supervisor that ended. So a late notice is ignored if a newer one has started.
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
        """Start numbers of ended supervisors that the ResourceActor was not told of yet, by shard."""

    def add(self, children: Iterable[ManagedActor]) -> None:
        self._starts.update({child.name: child.start for child in children})

    async def tell(self, line: Connection | None) -> None:
        """Tell the ResourceActor of the ended supervisors. `line`: connection to it, or None if it does not run."""
        if line is None:
            return
        with suppress(Unknown):  # the successor of the ResourceActor is told
            for shard, start in list(self._starts.items()):
                await line.ask(ForgetHolder(shard, start))
                if self._starts.get(shard) == start:
                    del self._starts[shard]
