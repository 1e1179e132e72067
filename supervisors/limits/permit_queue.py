"""The queue of requests for permits, and the order in which they get permits. Pure.

Requests with the same needs form a group. The ledger looks only at the head of each group, which a fair queue chooses
(fair_queue.py). A request that a pool of its own user, workflow, protocol or host place holds up is *parked* until that
pool has room. So it neither blocks other requests nor is looked at in vain.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from .fair_queue import Entry, FairQueue

Needs: TypeAlias = tuple[tuple[str, int], ...]
"""Pairs (quota, count), sorted by quota."""
Pool: TypeAlias = tuple[str, str]
"""The name of a limit, and the owner of the pool: a user, workflow, protocol, key or place, or "" for the cluster."""


class Holder(NamedTuple):
    """One incarnation of a supervisor."""

    shard: str
    epoch: int


class Who(NamedTuple):
    """Identifies for whom a step runs, for limits that count users, workflows, … apart."""

    workflow: str = ""
    protocol: str = ""
    user: str = ""
    place: str = ""
    """Name of the hosts that the step can run on, if places at hosts are counted: `<shard>/<protocol>`."""
    key: str = ""
    """Value of the protocol's `limit_key` for this step."""


class Request(NamedTuple):
    """A request for permits: all of `needs` (by quota) at once."""

    id: str
    holder: Holder
    needs: Mapping[str, int]
    priority: int = 0
    arrived_at: float = 0.0
    """UTC seconds at which the task was accepted."""
    order: int = 0
    """Order among tasks accepted at the same time: lower goes first."""
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
    def __init__(self, age_s: float, weights: Mapping[str, float]) -> None:
        """`age_s` and `weights` are those of `FairQueue`."""
        self._age_s, self._weights = age_s, weights
        self._entries: dict[str, Entry[Request]] = {}
        self._groups: dict[Needs, FairQueue[Who, Request]] = {}
        self._parked: dict[Pool, list[Callable[[], None]]] = defaultdict(list)
        """By pool: functions that unpark the requests that this pool holds up."""
        self._numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()
        """Number of waiting requests, by quota."""

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
            group = self._groups[signature] = FairQueue(self._age_s, self._weights)
        group.add(request.priority, request.who, entry)
        self.counts.update(request.needs.keys())

    def remove(self, id: str) -> Request | None:
        """Withdraw a request and return it; None if the id is unknown."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return None
        _, _, number, request = entry
        self._groups[request.signature].withdraw(request.priority, request.who, number)
        self._gone(request)
        return request

    def take(self, request: Request) -> None:
        """Take out the head of a group, which gets its permits. This counts towards the share of its user."""
        del self._entries[request.id]
        self._groups[request.signature].take(request.priority, request.who)
        self._gone(request)

    def handed_over(self, id: str) -> Request | None:
        """Take out a request that was served elsewhere, out of turn. It counts towards the share of its user, too."""
        request = self.remove(id)
        if request is not None and request.signature in self._groups:
            self._groups[request.signature].charge(request.priority, request.who)
        return request

    def _gone(self, request: Request) -> None:
        self.counts.subtract(request.needs.keys())
        if not self._groups[request.signature]:
            del self._groups[request.signature]

    def park(self, request: Request, pool: Pool) -> None:
        """Hold this request, and those of the same Who behind it, until `unpark(pool)` is called."""
        self._parked[pool].append(self._groups[request.signature].park(request.priority, request.who))

    def unpark(self, pool: Pool) -> None:
        for unpark in self._parked.pop(pool, ()):
            unpark()

    def unpark_all(self) -> None:
        for pool in list(self._parked):
            self.unpark(pool)

    def signatures(self) -> list[Needs]:
        return list(self._groups)

    def flows(self, place: str) -> Iterator[tuple[Needs, Who, int]]:
        """Yield what requests for a place at some hosts need, for whom, and how many of them there are."""
        for signature, group in self._groups.items():
            for who, count in group.flows():
                if who.place == place:
                    yield signature, who, count

    def head(self, signature: Needs) -> tuple[float, int, Request] | None:
        """Return (rank, number, request) of the next request in a group; the lowest tuple goes first.

        None if all requests of the group are parked.
        """
        group = self._groups.get(signature)
        head = None if group is None else group.head()
        return None if head is None else (head[0], head[1][2], head[1][3])
