"""Who goes next of those that wait for the same. Pure.

Two rules. *Priority with ageing*: one level of priority outweighs `age_s` seconds of waiting. A level n higher goes
before a request only as long as somebody waits in it who came less than n times `age_s` after that request.
*Weighted fairness*: within a level each user gets starts in proportion to its weight while it has something waiting,
however much it has (start-time fair queueing); a user's own requests go in the order in which its tasks were accepted.

What waits is kept in *flows*, each of one user, and can be parked by the flow: then nothing of it has its turn.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeAlias, TypeVar

Flow = TypeVar("Flow", bound=Hashable)
Item = TypeVar("Item")
Entry: TypeAlias = tuple[float, int, int, Item]
"""(when its task was accepted in UTC seconds, its order among those of the same instant, its number, what waits).

Numbers are given in the order of coming, and none twice."""
KEEP_SHARES = 1_000
"""Users beyond those waiting whose shares a level remembers."""


class FairQueue(Generic[Flow, Item]):
    def __init__(self, age_s: float, weight: Callable[[str], float], user_of: Callable[[Flow], str]) -> None:
        """`weight` of a user: 1.0 is the usual."""
        self._age_s, self._weight, self._user_of = age_s, weight, user_of
        self._levels: dict[int, _Level[Flow, Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, priority: int, flow: Flow, entry: Entry[Item]) -> None:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(self._weight, self._user_of)
        level.add(flow, entry)

    def withdraw(self, priority: int, flow: Flow, number: int) -> None:
        """One that waits leaves before its turn."""
        if self._levels[priority].withdraw(flow, number):
            del self._levels[priority]

    def take(self, priority: int, flow: Flow) -> None:
        """The head of a flow leaves; it counts as its user's share."""
        if self._levels[priority].take(flow):
            del self._levels[priority]

    def charge(self, priority: int, flow: Flow) -> None:
        """One that left out of turn counts as its user's share all the same, as long as others wait."""
        level = self._levels.get(priority)
        if level is not None:
            level.charge(flow)

    def park(self, priority: int, flow: Flow) -> Callable[[], None]:
        """Nothing of a flow has its turn until what is returned is called."""
        level = self._levels[priority]
        level.park(flow)
        return lambda: level.unpark(flow)

    def head(self) -> tuple[float, Entry[Item]] | None:
        """(rank, entry) of who is next, lower first; None if all of it is parked."""
        best: tuple[float, _Level[Flow, Item]] | None = None
        for priority, level in self._levels.items():
            oldest = level.oldest()
            if oldest is not None:
                rank = oldest / self._age_s - priority
                if best is None or rank < best[0]:
                    best = rank, level
        return None if best is None else (best[0], best[1].first())


class _Level(Generic[Flow, Item]):
    """What waits with one priority."""

    def __init__(self, weight: Callable[[str], float], user_of: Callable[[Flow], str]) -> None:
        self._weight, self._user_of = weight, user_of
        self._flows: dict[Flow, list[Entry[Item]]] = {}
        """Heaps: the oldest task's first."""
        self._withdrawn: set[int] = set()
        """Numbers of entries that are still in a heap."""
        self._parked: set[Flow] = set()
        self._by_age: list[tuple[float, int, Flow]] = []
        self._by_share: list[tuple[float, int, Flow]] = []
        """Heads of flows, and some that were; neither is kept as long as there is one flow alone."""
        self._served: dict[str, float] = {}
        """By user: the virtual time at which its next start is due."""
        self._time = 0.0
        """Virtual: it advances as shares are served."""
        self._alone = 0
        """Starts of the only flow that are not charged yet."""

    def add(self, flow: Flow, entry: Entry[Item]) -> None:
        heap = self._flows.get(flow)
        if heap is None:
            if len(self._flows) == 1:
                self._settle()
            heap = self._flows[flow] = []
            if len(self._flows) == 2:
                self._offer(next(iter(self._flows)))
        heapq.heappush(heap, entry)
        if heap[0] is entry:
            self._offer(flow)

    def withdraw(self, flow: Flow, number: int) -> bool:
        """Returns whether nothing is left."""
        self._withdrawn.add(number)
        heap = self._flows[flow]
        return heap[0][2] == number and self._next(flow, heap)

    def take(self, flow: Flow) -> bool:
        """Returns whether nothing is left."""
        heap = self._flows[flow]
        if len(self._flows) == 1:
            self._alone += 1
        else:
            self._time = self.charge(flow)
        heapq.heappop(heap)
        return self._next(flow, heap)

    def charge(self, flow: Flow) -> float:
        """Count a start; returns its virtual time."""
        self._settle()
        user = self._user_of(flow)
        start = max(self._time, self._served.get(user, 0.0))
        self._served[user] = start + 1 / self._weight(user)
        if len(self._served) > 2 * len(self._flows) + KEEP_SHARES:
            self._served = {user: due for user, due in self._served.items() if due > self._time}
        return start

    def _settle(self) -> None:
        """Charge what a flow that was alone has started meanwhile: who is alone need not be counted at each start."""
        if self._alone:
            user = self._user_of(next(iter(self._flows)))
            share = 1 / self._weight(user)
            due = max(self._time, self._served.get(user, 0.0)) + self._alone * share
            self._served[user], self._time, self._alone = due, due - share, 0

    def _next(self, flow: Flow, heap: list[Entry[Item]]) -> bool:
        """The head of a flow has gone; returns whether nothing is left."""
        while heap and heap[0][2] in self._withdrawn:
            self._withdrawn.discard(heapq.heappop(heap)[2])
        if not heap:
            return self._end(flow)
        if len(self._flows) > 1:
            self._offer(flow)
        return False

    def _end(self, flow: Flow) -> bool:
        del self._flows[flow]
        self._parked.discard(flow)
        if len(self._flows) == 1:
            self._by_age.clear()
            self._by_share.clear()
        return not self._flows

    def _offer(self, flow: Flow) -> None:
        """The head of a flow may be next from now on."""
        if len(self._flows) > 1 and flow not in self._parked:
            accepted_at, _, number, _ = self._flows[flow][0]
            due = max(self._time, self._served.get(self._user_of(flow), 0.0))
            heapq.heappush(self._by_age, (accepted_at, number, flow))
            heapq.heappush(self._by_share, (due, number, flow))

    def park(self, flow: Flow) -> None:
        self._parked.add(flow)

    def unpark(self, flow: Flow) -> None:
        if flow in self._parked:
            self._parked.discard(flow)
            self._offer(flow)

    def oldest(self) -> float | None:
        """When the oldest came that is not parked."""
        if len(self._flows) == 1:
            ((flow, heap),) = self._flows.items()
            return None if flow in self._parked else heap[0][0]
        while self._by_age and not self._is_head(self._by_age[0]):
            heapq.heappop(self._by_age)
        return self._by_age[0][0] if self._by_age else None

    def first(self) -> Entry[Item]:
        """Whose turn it is by the shares; there must be an `oldest`."""
        if len(self._flows) == 1:
            (heap,) = self._flows.values()
            return heap[0]
        while True:
            due, number, flow = self._by_share[0]
            later = self._served.get(self._user_of(flow), 0.0)
            if not self._is_head(self._by_share[0]):
                heapq.heappop(self._by_share)
            elif later > due:  # another flow of the same user was served meanwhile
                heapq.heapreplace(self._by_share, (later, number, flow))
            else:
                return self._flows[flow][0]

    def _is_head(self, offered: tuple[float, int, Flow]) -> bool:
        _, number, flow = offered
        return flow not in self._parked and flow in self._flows and self._flows[flow][0][2] == number
