"""Who waits for permits, and in which order they get them. Pure.

Two rules. *Priority with ageing*: one level of priority outweighs `age_s` seconds of waiting. A level n higher goes
before a request only as long as somebody waits in it who came less than n times `age_s` after that request.
*Weighted fairness*: within a level each user gets starts in proportion to its weight while it has something waiting,
however much it has (start-time fair queueing); a user's own requests go in the order in which its tasks were accepted.

Requests with the same needs form a group, and a decision looks at the head of each group only. What is held up by a
limit of its own (a user's, say) is *parked* until that pool has room, so that it neither blocks others nor is looked
at in vain.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Needs: TypeAlias = tuple[tuple[str, int], ...]
"""(quota, count) in the order of the names."""
Pool: TypeAlias = tuple[str, str]
"""The name of a limit, and whose pool it is: a user's, a workflow's, a protocol's, a place, or "" for the cluster's."""
Flow: TypeAlias = "list[tuple[float, int, int, _Waiter]]"
"""The requests of one Who, as a heap: the oldest task's first."""
KEEP_SHARES = 1_000
"""Users beyond those waiting whose shares a level remembers."""


class Holder(NamedTuple):
    """One incarnation of a supervisor."""

    shard: str
    epoch: int


class Who(NamedTuple):
    """For whom a step runs."""

    workflow: str = ""
    protocol: str = ""
    user: str = ""
    place: str = ""
    """The hosts that it can run on, if their places are counted."""
    key: str = ""
    """What the `limit_key` of its protocol gave."""


class Request(NamedTuple):
    """A wish for permits: `needs` by quota name, all at once."""

    id: str
    holder: Holder
    needs: Mapping[str, int]
    priority: int = 0
    arrived_at: float = 0.0
    """When its task was accepted, in UTC seconds."""
    order: int = 0
    """Of tasks accepted in the same instant: lower goes first."""
    who: Who = Who()

    def to_wire(self) -> list[Any]:
        holder, who = self.holder, self.who
        by = [holder.shard, holder.epoch]
        return [self.id, by, dict(self.needs), self.priority, self.arrived_at, self.order, list(who)]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Request:
        id, holder, needs, priority, arrived_at, order, who = wire
        return cls(id, Holder(*holder), needs, priority, arrived_at, order, Who(*who))

    @property
    def signature(self) -> Needs:
        return tuple(sorted(self.needs.items())) if self.needs else ()


@dataclass(slots=True, eq=False)
class _Waiter:
    request: Request
    number: int
    withdrawn: bool = False


class Waiting:
    def __init__(self, age_s: float, weight: Callable[[str], float]) -> None:
        """`weight` of a user: 1.0 is the usual."""
        self._age_s, self._weight = age_s, weight
        self._waiters: dict[str, _Waiter] = {}
        self._groups: dict[Needs, dict[int, _Level]] = {}
        self._parked: dict[Pool, list[tuple[_Level, Who]]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()
        """Requests that wait, by quota."""

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, id: object) -> bool:
        return id in self._waiters

    def __iter__(self) -> Iterator[Request]:
        return iter([waiter.request for waiter in self._waiters.values()])

    def add(self, request: Request) -> None:
        waiter = self._waiters[request.id] = _Waiter(request, next(self._numbers))
        levels = self._groups.setdefault(request.signature, {})
        if request.priority not in levels:
            levels[request.priority] = _Level(self._weight)
        levels[request.priority].add(waiter)
        if request.needs:
            self.counts.update(request.needs.keys())

    def remove(self, id: str) -> Request | None:
        """Withdraw a request and return it; unknown ids are fine."""
        waiter = self._waiters.pop(id, None)
        if waiter is None:
            return None
        waiter.withdrawn = True
        level = self._groups[waiter.request.signature][waiter.request.priority]
        level.removed(waiter.request.who)
        self._gone(waiter.request, level)
        return waiter.request

    def take(self, request: Request) -> None:
        """The head of a group gets its permits; it counts as its user's share."""
        del self._waiters[request.id]
        level = self._groups[request.signature][request.priority]
        level.take(request.who)
        self._gone(request, level)

    def served(self, id: str) -> Request | None:
        """A request leaves, because it was served out of turn; it counts as its user's share all the same."""
        request = self.remove(id)
        level = None if request is None else self._groups.get(request.signature, {}).get(request.priority)
        if request is not None and level is not None:
            level.charge(request.who.user)
        return request

    def _gone(self, request: Request, level: _Level) -> None:
        if request.needs:
            self.counts.subtract(request.needs.keys())
        if not level:
            levels = self._groups[request.signature]
            del levels[request.priority]
            if not levels:
                del self._groups[request.signature]

    def park(self, request: Request, pool: Pool) -> None:
        """Look at this request, and at what waits behind it for the same Who, only after `unpark`."""
        level = self._groups[request.signature][request.priority]
        level.park(request.who)
        self._parked[pool].append((level, request.who))

    def unpark(self, pool: Pool) -> None:
        for level, who in self._parked.pop(pool, ()):
            level.unpark(who)

    def unpark_all(self) -> None:
        for pool in list(self._parked):
            self.unpark(pool)

    def signatures(self) -> list[Needs]:
        return list(self._groups)

    def head(self, signature: Needs) -> tuple[float, int, Request] | None:
        """(rank, number, request) of who is next in a group, lower first; None if all of it is parked."""
        best: tuple[float, _Level] | None = None
        for priority, level in self._groups.get(signature, {}).items():
            oldest = level.oldest()
            if oldest is not None:
                rank = oldest / self._age_s - priority
                if best is None or rank < best[0]:
                    best = rank, level
        if best is None:
            return None
        waiter = best[1].first()
        return best[0], waiter.number, waiter.request


class _Level:
    """The requests of one group and one priority, by user."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight
        self._flows: dict[Who, Flow] = {}
        self._parked: set[Who] = set()
        self._by_age: list[tuple[float, int, Who]] = []
        self._by_share: list[tuple[float, int, Who]] = []
        self._served: dict[str, float] = {}
        """By user: the virtual time at which its next start is due."""
        self._time = 0.0
        """Virtual: it advances as shares are served."""

    def __bool__(self) -> bool:
        return bool(self._flows)

    def add(self, waiter: _Waiter) -> None:
        who = waiter.request.who
        flow = self._flows.setdefault(who, [])
        heapq.heappush(flow, (waiter.request.arrived_at, waiter.request.order, waiter.number, waiter))
        if flow[0][3] is waiter and who not in self._parked:
            self._offer(who)

    def removed(self, who: Who) -> None:
        """Somebody of a flow has withdrawn."""
        flow = self._flows[who]
        if flow[0][3].withdrawn:
            self._next(who, flow)

    def take(self, who: Who) -> None:
        flow = self._flows[who]
        self._time = self.charge(who.user)
        heapq.heappop(flow)
        self._next(who, flow)
        if len(self._served) > 2 * len(self._flows) + KEEP_SHARES:
            self._served = {user: due for user, due in self._served.items() if due > self._time}

    def charge(self, user: str) -> float:
        """Count a start; returns its virtual time."""
        start = max(self._time, self._served.get(user, 0.0))
        self._served[user] = start + 1 / self._weight(user)
        return start

    def _next(self, who: Who, flow: Flow) -> None:
        while flow and flow[0][3].withdrawn:
            heapq.heappop(flow)
        if not flow:
            del self._flows[who]
            self._parked.discard(who)
        elif who not in self._parked:
            self._offer(who)

    def _offer(self, who: Who) -> None:
        """The head of a flow may be next from now on."""
        arrived_at, _, number, _ = self._flows[who][0]
        due = max(self._time, self._served.get(who.user, 0.0))
        heapq.heappush(self._by_age, (arrived_at, number, who))
        heapq.heappush(self._by_share, (due, number, who))

    def park(self, who: Who) -> None:
        self._parked.add(who)

    def unpark(self, who: Who) -> None:
        if who in self._parked:
            self._parked.discard(who)
            self._offer(who)

    def oldest(self) -> float | None:
        """When the oldest came that is not parked."""
        while self._by_age and not self._is_head(self._by_age[0]):
            heapq.heappop(self._by_age)
        return self._by_age[0][0] if self._by_age else None

    def first(self) -> _Waiter:
        """Whose turn it is by the shares; there must be an `oldest`."""
        while True:
            due, number, who = self._by_share[0]
            later = self._served.get(who.user, 0.0)
            if not self._is_head(self._by_share[0]):
                heapq.heappop(self._by_share)
            elif later > due:  # another flow of the same user was served meanwhile
                heapq.heapreplace(self._by_share, (later, number, who))
            else:
                return self._flows[who][0][3]

    def _is_head(self, offered: tuple[float, int, Who]) -> bool:
        _, number, who = offered
        return who not in self._parked and who in self._flows and self._flows[who][0][2] == number
