"""Who waits for permits, and in which order they get them. Pure.

Requests with the same needs form a group, and a decision looks at the head of each group only: whose turn it is
(fair_queue.py). What is held up by a limit of its own (a user's, say) is *parked* until that pool has room,
so that it neither blocks others nor is looked at in vain.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from .fair_queue import Entry, FairQueue

Needs: TypeAlias = tuple[tuple[str, int], ...]
"""(quota, count) in the order of the names."""
Pool: TypeAlias = tuple[str, str]
"""The name of a limit, and whose pool it is: a user's, a workflow's, a protocol's, a place, or "" for the cluster's."""


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


class PermitQueue:
    def __init__(self, age_s: float, weight: Callable[[str], float]) -> None:
        """`age_s` and `weight` as of `FairQueue`."""
        self._age_s, self._weight = age_s, weight
        self._entries: dict[str, Entry[Request]] = {}
        self._groups: dict[Needs, FairQueue[Who, Request]] = {}
        self._parked: dict[Pool, list[Callable[[], None]]] = defaultdict(list)
        """How to unpark what is held up."""
        self._numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()
        """Requests that wait, by quota."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __iter__(self) -> Iterator[Request]:
        return iter([entry[3] for entry in self._entries.values()])

    def add(self, request: Request) -> None:
        entry = self._entries[request.id] = (request.arrived_at, request.order, next(self._numbers), request)
        signature = request.signature
        group = self._groups.get(signature)
        if group is None:
            group = self._groups[signature] = FairQueue(self._age_s, self._weight, attrgetter("user"))
        group.add(request.priority, request.who, entry)
        self.counts.update(request.needs.keys())

    def remove(self, id: str) -> Request | None:
        """Withdraw a request and return it; unknown ids are fine."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return None
        _, _, number, request = entry
        self._groups[request.signature].withdraw(request.priority, request.who, number)
        self._gone(request)
        return request

    def take(self, request: Request) -> None:
        """The head of a group gets its permits; it counts as its user's share."""
        del self._entries[request.id]
        self._groups[request.signature].take(request.priority, request.who)
        self._gone(request)

    def served(self, id: str) -> Request | None:
        """A request leaves, because it was served out of turn; it counts as its user's share all the same."""
        request = self.remove(id)
        if request is not None and request.signature in self._groups:
            self._groups[request.signature].charge(request.priority, request.who)
        return request

    def _gone(self, request: Request) -> None:
        self.counts.subtract(request.needs.keys())
        if not self._groups[request.signature]:
            del self._groups[request.signature]

    def park(self, request: Request, pool: Pool) -> None:
        """Look at this request, and at what waits behind it for the same Who, only after `unpark`."""
        self._parked[pool].append(self._groups[request.signature].park(request.priority, request.who))

    def unpark(self, pool: Pool) -> None:
        for unpark in self._parked.pop(pool, ()):
            unpark()

    def unpark_all(self) -> None:
        for pool in list(self._parked):
            self.unpark(pool)

    def signatures(self) -> list[Needs]:
        return list(self._groups)

    def head(self, signature: Needs) -> tuple[float, int, Request] | None:
        """(rank, number, request) of who is next in a group, lower first; None if all of it is parked."""
        group = self._groups.get(signature)
        head = None if group is None else group.head()
        return None if head is None else (head[0], head[1][2], head[1][3])
