"""The rows of machines in memory, for the simulated cluster.

They keep the same contract as those in PostgreSQL (tests/cluster/store/test_machine_rows.py tests both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ....supervisors.upkeep.machine_lease import GRACE_SHARE, Neighbour, News


@dataclass(slots=True)
class _Row:
    host: str
    node: str
    lease_s: float
    until: float
    is_lost: bool = False


class MemoryMachines:
    """The machines of one cluster, and which of them is its home."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self.home = ""

    def enter(self, id: str, host: str, node: str, lease_s: float) -> None:
        self._rows.setdefault(id, _Row(host, node, lease_s, self._clock() + lease_s))

    def renew(self, id: str, may_declare: bool) -> News | None:
        """Renew the lease of a machine; None if it was declared lost. See `Machines.renew` of PostgreSQL."""
        row = self._rows.get(id)
        if row is None or row.is_lost:
            return None
        row.until = self._clock() + row.lease_s
        if may_declare:
            for other in self._rows.values():
                other.is_lost = other.is_lost or (other is not row and self._left_s(other) < 0)
        machines = [
            Neighbour(id, row.host, row.node, row.is_lost, self._left_s(row)) for id, row in sorted(self._rows.items())
        ]
        return News(self.home, machines)

    def take_home(self, id: str, lost: str) -> bool:
        is_first = self.home == lost
        self.home = id if is_first else self.home
        return is_first

    def leave(self, id: str) -> None:
        if id in self._rows and not self._rows[id].is_lost:
            del self._rows[id]

    def _left_s(self, row: _Row) -> float:
        return row.until + GRACE_SHARE * row.lease_s - self._clock()
