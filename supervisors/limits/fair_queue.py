"""Decides which of the entries that wait for the same thing goes next. Pure.

There are two rules. *Priority with ageing*: one level of priority outweighs `age_s` seconds of waiting. A level that is
n higher goes before an entry only as long as it has an entry that arrived less than n times `age_s` later. *Weighted
fairness*: within a level, each user with waiting entries gets starts in proportion to its weight, however many entries
it has (start-time fair queueing). A user's own entries go in the order in which its tasks were accepted.

Entries wait in *flows*. Each flow belongs to one user. A flow can be parked: then none of its entries goes next.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar


class OfUser(Hashable, Protocol):
    """A key of entries that wait in one order, and belong to one user."""

    @property
    def user(self) -> str: ...


Flow = TypeVar("Flow", bound=OfUser)
Item = TypeVar("Item")
Entry: TypeAlias = tuple[float, int, int, Item]
"""(UTC seconds at which the task was accepted, order among tasks of the same time, number, item that waits).

Numbers are unique, and given in the order of arrival."""
KEEP_SHARES = 1_000
"""Number of users without waiting entries whose shares a level remembers."""


class FairQueue(Generic[Flow, Item]):
    def __init__(self, age_s: float, weights: Mapping[str, float]) -> None:
        """`weights`: by user; the weight of all others is 1.0."""
        self._age_s, self._weights = age_s, weights
        self._levels: dict[int, _Level[Flow, Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, priority: int, flow: Flow, entry: Entry[Item]) -> None:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(self._weights)
        level.add(flow, entry)

    def withdraw(self, priority: int, flow: Flow, number: int) -> None:
        """Remove a waiting entry before its turn."""
        if self._levels[priority].withdraw(flow, number):
            del self._levels[priority]

    def take(self, priority: int, flow: Flow) -> None:
        """Take out the head of a flow. It counts towards the share of its user."""
        if self._levels[priority].take(flow):
            del self._levels[priority]

    def charge(self, priority: int, flow: Flow) -> None:
        """Count an entry that left out of turn towards the share of its user, as long as others wait in this level."""
        level = self._levels.get(priority)
        if level is not None:
            level.charge(flow)

    def park(self, priority: int, flow: Flow) -> Callable[[], None]:
        """Park a flow; returns the function that unparks it."""
        level = self._levels[priority]
        level.park(flow)
        return lambda: level.unpark(flow)

    def head(self) -> tuple[float, Entry[Item]] | None:
        """Return (rank, entry) of the next entry; a lower rank goes first. None if everything is parked."""
        best: tuple[float, _Level[Flow, Item]] | None = None
        for priority, level in self._levels.items():
            oldest = level.oldest()
            if oldest is not None:
                rank = oldest / self._age_s - priority
                if best is None or rank < best[0]:
                    best = rank, level
        return None if best is None else (best[0], best[1].first())

    def flows(self) -> Iterator[tuple[Flow, int]]:
        """Yield each flow of each priority, parked ones too, with the number of its entries."""
        for level in self._levels.values():
            yield from level.flows()


class _Level(Generic[Flow, Item]):
    """The entries that wait with one priority."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._flows: dict[Flow, list[Entry[Item]]] = {}
        """Heaps of entries by flow, the oldest task first."""
        self._withdrawn: set[int] = set()
        """Numbers of withdrawn entries that are still in a heap."""
        self._parked: set[Flow] = set()
        self._by_age: list[tuple[float, int, Flow]] = []
        self._by_share: list[tuple[float, int, Flow]] = []
        """Heaps with the heads of flows, and with some former heads. Both are empty while there is only one flow."""
        self._served: dict[str, float] = {}
        """By user: the virtual time at which the next start of the user is due."""
        self._time = 0.0
        """Virtual time, which advances as shares are served."""
        self._alone = 0
        """Number of starts of the only flow that are not charged yet."""

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
        """Remove an entry; returns whether the level is empty now."""
        self._withdrawn.add(number)
        heap = self._flows[flow]
        return heap[0][2] == number and self._next(flow, heap)

    def take(self, flow: Flow) -> bool:
        """Take out the head of a flow; returns whether the level is empty now."""
        heap = self._flows[flow]
        if len(self._flows) == 1:
            self._alone += 1
        else:
            self._time = self.charge(flow)
        heapq.heappop(heap)
        return self._next(flow, heap)

    def charge(self, flow: Flow) -> float:
        """Count a start for the user of a flow; returns the virtual time of the start."""
        self._settle()
        user = flow.user
        start = max(self._time, self._served.get(user, 0.0))
        self._served[user] = start + 1 / self._weights.get(user, 1.0)
        if len(self._served) > 2 * len(self._flows) + KEEP_SHARES:
            self._served = {user: due for user, due in self._served.items() if due > self._time}
        return start

    def _settle(self) -> None:
        """Charge the starts of a flow that was alone. They are charged late, because one flow alone needs no shares."""
        if self._alone:
            user = next(iter(self._flows)).user
            share = 1 / self._weights.get(user, 1.0)
            due = max(self._time, self._served.get(user, 0.0)) + self._alone * share
            self._served[user], self._time, self._alone = due, due - share, 0

    def _next(self, flow: Flow, heap: list[Entry[Item]]) -> bool:
        """Move a flow on after its head has gone; returns whether the level is empty now."""
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
        """Enter the head of a flow into the heaps, unless the flow is parked or alone."""
        if len(self._flows) > 1 and flow not in self._parked:
            accepted_at, _, number, _ = self._flows[flow][0]
            due = max(self._time, self._served.get(flow.user, 0.0))
            heapq.heappush(self._by_age, (accepted_at, number, flow))
            heapq.heappush(self._by_share, (due, number, flow))

    def park(self, flow: Flow) -> None:
        self._parked.add(flow)

    def unpark(self, flow: Flow) -> None:
        if flow in self._parked:
            self._parked.discard(flow)
            self._offer(flow)

    def flows(self) -> Iterator[tuple[Flow, int]]:
        for flow, heap in self._flows.items():
            yield flow, sum(number not in self._withdrawn for _, _, number, _ in heap) if self._withdrawn else len(heap)

    def oldest(self) -> float | None:
        """Return the acceptance time of the oldest entry that is not parked, or None."""
        if len(self._flows) == 1:
            ((flow, heap),) = self._flows.items()
            return None if flow in self._parked else heap[0][0]
        while self._by_age and not self._is_head(self._by_age[0]):
            heapq.heappop(self._by_age)
        return self._by_age[0][0] if self._by_age else None

    def first(self) -> Entry[Item]:
        """Return the next entry by the shares of the users. Call it only if `oldest` is not None."""
        if len(self._flows) == 1:
            (heap,) = self._flows.values()
            return heap[0]
        while True:
            due, number, flow = self._by_share[0]
            later = self._served.get(flow.user, 0.0)
            if not self._is_head(self._by_share[0]):
                heapq.heappop(self._by_share)
            elif later > due:  # another flow of the same user was served meanwhile
                heapq.heapreplace(self._by_share, (later, number, flow))
            else:
                return self._flows[flow][0]

    def _is_head(self, offered: tuple[float, int, Flow]) -> bool:
        _, number, flow = offered
        return flow not in self._parked and flow in self._flows and self._flows[flow][0][2] == number
