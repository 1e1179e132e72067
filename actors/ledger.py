"""The ledger of permits: pure, exact, and the only place that knows who holds what.

A request is granted all the permits it needs in one decision, or none, so there are no partial holds and no
deadlock. Waiters are ordered by priority with linear ageing: one level of priority outweighs `age_s` seconds
of waiting, so nobody waits for ever behind higher priorities. A waiter that cannot be granted reserves its
quotas: nobody behind it takes from them, but requests for other quotas pass.

Invariant (tested as a property): for every quota, held <= limit at every grant, and held equals the sum over
the holders. A limit may be lowered under running holders; then held falls back to it as they release.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..protocols.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Holder:
    """One incarnation of a supervisor."""

    shard: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Request:
    """A wish for permits: `needs` by quota name, all at once."""

    id: str
    holder: Holder
    needs: Mapping[str, int]
    priority: int = 0
    arrived_at: float = 0.0


class Ledger:
    def __init__(self, limits: Mapping[str, int], age_s: float) -> None:
        """`age_s`: seconds of waiting that weigh as much as one level of priority."""
        self._limits = dict(limits)
        self._age_s = age_s
        self._held: Counter[str] = Counter()
        self._grants: dict[str, Request] = {}
        self._waiting: dict[str, Request] = {}
        self._queues: dict[tuple[tuple[str, int], ...], list[tuple[float, int, str]]] = {}
        """One queue per set of needs, so that a decision looks at its first waiter only."""
        self._arrivals = 0

    @property
    def limits(self) -> dict[str, int]:
        return dict(self._limits)

    @property
    def held(self) -> dict[str, int]:
        return {quota: self._held[quota] for quota in self._limits}

    @property
    def waiting(self) -> dict[str, int]:
        """Requests that wait, counted per quota."""
        counts = Counter(quota for request in self._waiting.values() for quota in request.needs)
        return {quota: counts[quota] for quota in self._limits}

    def is_granted(self, id: str) -> bool:
        return id in self._grants

    def check(self, needs: Mapping[str, int]) -> None:
        """Raise InvalidInput if `needs` can never be granted: unknown quota, or more than its limit."""
        for quota, count in needs.items():
            limit = self._limits.get(quota)
            if limit is None:
                known = ", ".join(self._limits) or "none"
                raise InvalidInput(problem=f"no limit is set for quota '{quota}' (set: {known})", path="quotas")
            if count > limit:
                raise InvalidInput(problem=f"{count} permits of '{quota}', its limit is {limit}", path="quotas")

    def add(self, request: Request) -> None:
        """Put a request in the queue; `decide` grants it. One that is known already is left as it is."""
        if request.id in self._grants or request.id in self._waiting:
            return
        self.check(request.needs)
        self._waiting[request.id] = request
        self._arrivals += 1
        rank = request.arrived_at / self._age_s - request.priority
        queue = self._queues.setdefault(_signature(request.needs), [])
        heapq.heappush(queue, (rank, self._arrivals, request.id))

    def claim(self, request: Request) -> None:
        """Enter permits that are held already, as known from before a restart of the ledger."""
        if request.id not in self._grants:
            self._grants[request.id] = request
            self._held.update(request.needs)

    def remove(self, id: str) -> None:
        """Release what `id` holds, or withdraw it from the queue. Unknown ids are fine."""
        self._waiting.pop(id, None)
        request = self._grants.pop(id, None)
        if request is not None:
            self._held.subtract(request.needs)

    def remove_holders(self, shard: str) -> None:
        """Take back everything that the incarnations of a shard hold or wait for."""
        for request in [*self._grants.values(), *self._waiting.values()]:
            if request.holder.shard == shard:
                self.remove(request.id)

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Change some limits under the running holders; no permit is lost or invented."""
        self._limits.update(limits)

    def decide(self) -> list[Request]:
        """Grant what can be granted now, in order."""
        granted: list[Request] = []
        reserved: set[str] = set()
        heads = [head for queue in list(self._queues) if (head := self._head(queue))]
        heapq.heapify(heads)
        while heads:
            _, _, id = heapq.heappop(heads)
            request = self._waiting[id]
            signature = _signature(request.needs)
            if not self._fits(request.needs, reserved):
                reserved.update(request.needs)
                continue
            heapq.heappop(self._queues[signature])
            del self._waiting[id]
            self._grants[id] = request
            self._held.update(request.needs)
            granted.append(request)
            if head := self._head(signature):
                heapq.heappush(heads, head)
        return granted

    def _fits(self, needs: Mapping[str, int], reserved: Iterable[str]) -> bool:
        return all(
            quota not in reserved and self._held[quota] + count <= self._limits[quota] for quota, count in needs.items()
        )

    def _head(self, signature: tuple[tuple[str, int], ...]) -> tuple[float, int, str] | None:
        queue = self._queues[signature]
        while queue and queue[0][2] not in self._waiting:
            heapq.heappop(queue)
        if not queue:
            del self._queues[signature]
            return None
        return queue[0]


def _signature(needs: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(needs.items()))
