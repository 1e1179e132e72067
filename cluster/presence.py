"""The port to the processes behind addresses: which process an actor is, and whether it is certainly gone.

Before a successor of an actor starts, the actor itself must be gone: two of them would write the same journal and hold
the same permits. What may be known of a process, and who can end it, depends on the machine it runs on. So everything
that asks goes through this port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Presence(Protocol):
    def announce(self, address: str, epoch: int) -> None:
        """Make this process the actor at `address`. An earlier process there that still runs is killed.

        Args:
            address: the address of the actor in this process.
            epoch: the epoch of the actor that started this process.

        Raises:
            Fenced: a process of a newer epoch was here before. Then the starter is a zombie, and its actors must not
                run beside those of its successor.
        """

    async def end(self, address: str, patience_s: float = 0.0) -> None:
        """Kill the process at `address`, if any, and return when it is certainly gone.

        The process first gets `patience_s` seconds to end by itself. Raises PodiumError if it survives the kill.
        """

    async def end_below(self, prefix: str) -> None:
        """Do the same for every process on this machine whose address begins with `prefix`, but for this process."""

    async def end_all(self) -> None:
        """Kill all processes of an earlier cluster, and forget their epochs."""

    def process_of(self, address: str) -> int | None:
        """Return the id of the process at `address`; None if there is no process."""

    def working(self, address: str) -> Callable[[], bool]:
        """Return a function that tells whether the process at an address has computed since its last call."""
