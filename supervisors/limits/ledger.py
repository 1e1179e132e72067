"""The ledger of permits: it alone decides who holds which permits. It is pure and exact.

A request gets all that it needs in one decision, or nothing. So there are no partial holds and no deadlock. A limit of
the cluster has one pool; a limit "per user" has one pool for each user. A request takes from every pool of its quotas.
Permits are held until they are released. A rate comes back with time (`supervisors/limits/rates.py`).

A request also needs one *place* at the hosts that it can run on. So no permit is held by a step that cannot run.

permit_queue.py decides which request comes first. A request that a pool of the whole cluster cannot serve reserves its
cluster pools: no request behind it takes from them. A request that a pool of its own user, workflow, protocol or place
holds up reserves nothing, and neither does a request that is larger than a limit.

Invariant (tested as a property): for every pool, held <= limit at every grant, and held equals the sum over the
holders; a rate never gives more than burst + time / interval. A limit may be lowered under running holders; then held
falls back to it as they release.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...protocols.errors import InvalidInput
from ...protocols.limits import Amount, Limit, read_limits
from .permit_queue import Holder, PermitQueue, Pool, Request, Who
from .rates import RateMeters

__all__ = ["Holder", "Ledger", "Request", "Who"]
_PLACE = "!place"


@dataclass(frozen=True, slots=True)
class _Lack:
    """A pool that has too little for a request."""

    pool: Pool
    until: float
    """Monotonic time at which a rate will have come back far enough; infinite for permits, which somebody holds."""
    for_ever: bool = False
    """Whether the limit itself is too low for the request."""


class Ledger:
    def __init__(
        self,
        limits: Mapping[str, Amount],
        age_s: float,
        weights: Mapping[str, float] | None = None,
        empty_at: float = -math.inf,
    ) -> None:
        """Make a ledger without holders.

        Args:
            limits: amounts by name, as `protocols.limits` reads them.
            age_s: seconds of waiting that weigh as much as one level of priority.
            weights: fair shares by user; a user that is not named has 1.0.
            empty_at: monotonic seconds; all rates count as used up at that time, because earlier use is not known.
        """
        self._written = dict(limits)
        self._limits = _by_quota(limits)
        self._lowered: dict[str, int] = {}
        self._held: Counter[Pool] = Counter()
        self._meters = RateMeters(empty_at)
        self._grants: dict[str, Request] = {}
        self._shards: Counter[str] = Counter()
        self._waiting = PermitQueue(age_s, weights or {})
        self._places: dict[str, int] = {}
        self._due: list[tuple[float, Pool]] = []
        self._due_at: dict[Pool, float] = {}
        self.wake_at = math.inf
        """Monotonic time at which a rate may allow the next grant, as of the last call of `decide`."""

    @property
    def limits(self) -> dict[str, Amount]:
        return dict(self._written)

    def limit(self, quota: str) -> float | None:
        """Permits of a quota in the whole cluster; None for a rate, or if no such limit is set."""
        limits = self._limits.get(quota, ())
        return next((each.amount for each in limits if each.scope == "cluster" and each.interval_s is None), None)

    @property
    def held(self) -> dict[str, int]:
        """Permits held, by limit, in all pools of the limit together."""
        held = Counter(dict.fromkeys(self._written, 0))
        for (name, _), count in self._held.items():
            if name != _PLACE:
                held[name] += count
        return dict(held)

    @property
    def waiting(self) -> dict[str, int]:
        """Number of waiting requests by limit, or by quota where no limit is set."""
        counts = self._waiting.counts
        unset = {quota: count for quota, count in counts.items() if quota not in self._limits and count}
        return {limit.name: counts[quota] for quota, limits in self._limits.items() for limit in limits} | unset

    def uses(self, now: float) -> dict[str, dict[str, object]]:
        """Describe each limit: `held` permits, `waiting` requests, and for a rate of the cluster what is `left`."""
        held, waiting = self.held, self.waiting
        uses: dict[str, dict[str, object]] = {
            name: {"held": held.get(name, 0), "waiting": count} for name, count in waiting.items()
        }
        for limit in (each for limits in self._limits.values() for each in limits):
            if limit.interval_s is not None and limit.scope == "cluster":
                uses[limit.name]["left"] = self._meters.left((limit.name, ""), limit, now)
        return uses

    def pools(self, name: str) -> dict[str, int]:
        """Permits held of one limit, by owner of the pool: user, workflow, protocol, …, or "" for the cluster."""
        return {whose: count for (known, whose), count in self._held.items() if known == name}

    def is_granted(self, id: str) -> bool:
        return id in self._grants

    def check(self, needs: Mapping[str, int]) -> None:
        """Raise InvalidInput if `needs` can never be granted: a quota is unknown, or a count is above its limit.

        A limit of 0 is a pause and raises nothing.
        """
        for quota, count in needs.items():
            if quota not in self._limits:
                known = ", ".join(self._limits) or "none"
                raise InvalidInput(problem=f"no limit is set for quota '{quota}' (set: {known})", path="quotas")
            for limit in self._limits[quota]:
                if count > limit.amount > 0:
                    problem = f"{count} permits of '{quota}', its limit is {limit.amount:g}"
                    where = "" if limit.scope == "cluster" else f" ('{limit.name}')"
                    raise InvalidInput(problem=problem + where, path="quotas")

    def lacking_places(self, place: str, now: float) -> int:
        """Count the waiting requests that could all be granted now if only there were more places at these hosts.

        Requests behind one that has reserved a pool are not counted. `now`: monotonic seconds.
        """
        reserved, taken, found = self._reserved(now), Counter[Pool](), 0
        for needs, who, count in self._waiting.flows(place):
            like = Request("", Holder("", 0), dict(needs), who=who._replace(place=""))
            pools = list(self._pools(like))
            for pool, limit, each in pools:
                count = 0 if pool in reserved else min(count, self._fitting(pool, limit, each, taken[pool], now))
            for pool, _, each in pools:
                taken[pool] += each * count
            found += count
        return found

    def _reserved(self, now: float) -> set[Pool]:
        """Return the pools of the cluster that the next of some group waits for, so that none behind it gets them."""
        reserved: set[Pool] = set()
        for _, _, request in filter(None, map(self._waiting.head, self._waiting.signatures())):
            lack = self._lack(request, now, set())
            if lack is not None and not lack.pool[1] and not lack.for_ever:
                reserved.update(pool for pool, _, _ in self._pools(request) if not pool[1])
        return reserved

    def _fitting(self, pool: Pool, limit: Limit, each: int, taken: int, now: float) -> int:
        """Count the further requests for `each` of a pool that it can serve now, when `taken` are granted first."""
        if limit.interval_s is not None:
            return max(0, self._meters.left(pool, limit, now) - taken) // each
        used = self._held[pool] + taken
        left = min(limit.amount, self._lowered.get(pool[0], math.inf)) - used
        is_first = used == 0 and each <= limit.amount  # it is granted even if the limit is lowered below it
        return max(int(is_first), math.floor(left / each))

    def add(self, request: Request) -> None:
        """Put a request in the queue; `decide` grants it. A request that is known already is left as it is.

        A request above a limit waits until the limit is raised. A request for a quota without a limit waits until a
        limit is set. So tasks that were accepted under other limits do not fail.
        """
        if request.id not in self._grants and request.id not in self._waiting:
            self._waiting.add(request)
            self._shards[request.holder.shard] += 1

    def claim(self, request: Request) -> None:
        """Enter permits that the holder has already, from before a restart of the ledger."""
        if request.id not in self._grants:
            self._grants[request.id] = request
            self._shards[request.holder.shard] += 1
            self._count(request, 1)

    def remove(self, id: str) -> None:
        """Release the permits of request `id`, or withdraw it from the queue. An unknown id is no error."""
        withdrawn = self._waiting.remove(id)
        request = self._grants.pop(id, None)
        if gone := withdrawn or request:
            self._shards[gone.holder.shard] -= 1
        if request is not None:
            self._count(request, -1)
            for pool, _, _ in self._pools(request):
                self._waiting.unpark(pool)

    def pools_of(self, request: Request) -> tuple[tuple[Pool, int], ...]:
        """Return the pools that a request takes from, each with the count that it takes."""
        return tuple((pool, count) for pool, _, count in self._pools(request))

    def next_waiter(self, id: str, now: float | None) -> Request | None:
        """Return the waiting request that may take over the permits of grant `id`, as if they were released now.

        None if no waiter needs exactly these pools, or if a waiter that needs some of them and others comes first. None
        also if the permits cannot be used again (`may_serve_again`), or if the waiter could be granted now without
        them. Pass `now=None` when another ledger also grants: the last case cannot be known then.
        """
        if not self.may_serve_again(id):
            return None
        pools = list(self._pools(self._grants[id]))
        taken = {pool for pool, _, _ in pools}
        heads = [head for signature in self._waiting.signatures() if (head := self._waiting.head(signature))]
        for _, _, request in sorted(heads):
            wanted = list(self._pools(request))
            if wanted == pools:
                return None if now is not None and self._lack(request, now, set()) is None else request
            if not taken.isdisjoint(pool for pool, _, _ in wanted):
                return None
        return None

    def may_serve_again(self, id: str) -> bool:
        """Whether the permits of grant `id` are free again when its job ends.

        They are not if one is of a rate (it is used up), or if a pool is over its limit by now.
        """
        return not any(
            limit.interval_s is not None or self._is_overdrawn(pool, limit, count)
            for pool, limit, count in self._pools(self._grants[id])
        )

    def _is_overdrawn(self, pool: Pool, limit: Limit, count: int) -> bool:
        held = self._held[pool]
        return held > limit.amount or held > max(count, self._lowered.get(pool[0], math.inf))

    def hand_over(self, request: Request) -> None:
        """Take a waiting request out of the queue, in its turn: it will use the permits of another grant."""
        self._waiting.take(request)
        self._shards[request.holder.shard] -= 1

    def handed_over(self, id: str) -> None:
        """Take out a request that its holder served with other permits; if it was granted meanwhile, release it."""
        request = self._waiting.handed_over(id)
        if request is None:
            self.remove(id)
        else:
            self._shards[request.holder.shard] -= 1

    @property
    def shards(self) -> set[str]:
        """Shards with incarnations that hold permits or wait for some."""
        return {shard for shard, count in self._shards.items() if count}

    def tickets(self) -> list[str]:
        """Ids of all requests that are granted."""
        return list(self._grants)

    def meters(self, now: float) -> list[object]:
        """Return the meters of all rates, for `set_meters` of another ledger."""
        return self._meters.to_wire(now)

    def charge(self, who: Who, amounts: Mapping[str, float], now: float) -> None:
        """Count use of rates beyond what was granted; a negative amount gives back what was not used."""
        for quota, amount in amounts.items():
            for limit in self._limits.get(quota, ()):
                if limit.interval_s is not None:
                    pool = limit.name, _whose(limit, who)
                    self._meters.use(pool, limit, amount, now)
                    self._waiting.unpark(pool)

    def set_meters(self, meters: list[object] | None, now: float) -> None:
        """Set the meters of all rates; None if they are not known: then all rates count as used up."""
        self._meters = RateMeters.from_wire(meters, now)
        self._waiting.unpark_all()

    def remove_holders(self, shard: str) -> None:
        """Remove all grants and requests of the incarnations of a shard, and the places at its hosts."""
        for request in [*self._grants.values(), *self._waiting]:
            if request.holder.shard == shard:
                self.remove(request.id)
        self._places = {place: count for place, count in self._places.items() if not place.startswith(f"{shard}/")}

    def set_places(self, places: Mapping[str, int]) -> None:
        """Set the number of steps that may run at once on some hosts, by place (`<shard>/<protocol>`)."""
        self._places.update(places)
        for place in places:
            self._waiting.unpark((_PLACE, place))

    def set_limits(self, limits: Mapping[str, Amount], now: float) -> None:
        """Change or add limits while permits are held; no permit is lost or invented.

        The missing part of a rate's burst comes back at the new rate. `now`: monotonic seconds.
        """
        before, after = read_limits(self._written), read_limits({**self._written, **limits})
        for name in before.keys() & limits.keys():
            self._meters.change_rate(before[name], after[name], now)
        self._limits = _by_quota({**self._written, **limits})
        self._written.update(limits)
        self._held.clear()
        for request in self._grants.values():
            self._count(request, 1)
        self._waiting.unpark_all()

    def lower(self, amounts: Mapping[str, int]) -> None:
        """Lower some limits below their set amounts, until the next call of this method.

        A request that needs more than a lowered amount is granted when nothing else is held of that pool.
        """
        self._lowered = dict(amounts)
        self._waiting.unpark_all()

    @property
    def lowered(self) -> dict[str, int]:
        return dict(self._lowered)

    def decide(self, now: float) -> list[Request]:
        """Grant the requests that can be granted now, and return them in order. `now`: monotonic seconds."""
        self._wake(now)
        granted: list[Request] = []
        reserved: set[Pool] = set()
        heads = [
            (*head, signature) for signature in self._waiting.signatures() if (head := self._waiting.head(signature))
        ]
        heapq.heapify(heads)
        while heads:
            _, _, request, signature = heads[0]
            if self._pass(request, now, reserved, granted) and (head := self._waiting.head(signature)):
                heapq.heapreplace(heads, (*head, signature))
            else:
                heapq.heappop(heads)
        return granted

    def _pass(self, request: Request, now: float, reserved: set[Pool], granted: list[Request]) -> bool:
        """Grant or park a request, or reserve its cluster pools; returns whether the next of its group may be tried."""
        lack = self._lack(request, now, reserved)
        if lack is None:
            self._grant(request, now)
            granted.append(request)
            return True
        if lack.until < math.inf:
            self._wake_later(lack)
        if lack.pool[1]:
            self._waiting.park(request, lack.pool)
            return True
        if not lack.for_ever:
            reserved.update(pool for pool, _, _ in self._pools(request) if not pool[1])
        return False

    def _lack(self, request: Request, now: float, reserved: set[Pool]) -> _Lack | None:
        for pool, limit, count in self._pools(request):
            if count > limit.amount:
                return _Lack(pool, math.inf, for_ever=True)
            if pool in reserved:
                return _Lack(pool, math.inf)
            if limit.interval_s is not None:
                until = self._meters.free_at(pool, limit, count, now)
                if until > now:
                    return _Lack(pool, until)
            elif self._held[pool] + count > limit.amount or self._is_lowered_below(pool, count):
                return _Lack(pool, math.inf)
        return None

    def _is_lowered_below(self, pool: Pool, count: int) -> bool:
        held = self._held[pool]
        return held > 0 and held + count > self._lowered.get(pool[0], math.inf)

    def _grant(self, request: Request, now: float) -> None:
        self._waiting.take(request)
        self._grants[request.id] = request
        self._count(request, 1)
        for pool, limit, count in self._pools(request):
            if limit.interval_s is not None:
                self._meters.use(pool, limit, count, now)

    def _wake_later(self, lack: _Lack) -> None:
        if lack.until < self._due_at.get(lack.pool, math.inf):
            self._due_at[lack.pool] = lack.until
            heapq.heappush(self._due, (lack.until, lack.pool))
            self.wake_at = min(self.wake_at, lack.until)

    def _wake(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, pool = heapq.heappop(self._due)
            self._due_at.pop(pool, None)
            self._waiting.unpark(pool)
        self.wake_at = self._due[0][0] if self._due else math.inf

    def _count(self, request: Request, sign: int) -> None:
        for pool, limit, count in self._pools(request):
            if limit.interval_s is None:
                self._held[pool] += sign * count
                if not self._held[pool]:
                    del self._held[pool]

    def _pools(self, request: Request) -> Iterator[tuple[Pool, Limit, int]]:
        if place := request.who.place:
            yield (_PLACE, place), Limit(_PLACE, _PLACE, "protocol", self._places.get(place, 0)), 1
        for quota, count in request.needs.items():
            for limit in self._limits.get(quota) or [Limit(quota, quota, "cluster", 0)]:
                yield (limit.name, _whose(limit, request.who)), limit, count


def _whose(limit: Limit, who: Who) -> str:
    return "" if limit.scope == "cluster" else getattr(who, limit.scope) or "?"


def _by_quota(written: Mapping[str, Amount]) -> dict[str, list[Limit]]:
    """Return the limits by quota, those of the cluster last.

    So a request that a pool of its own holds up is found to be so first, and reserves no cluster pool.
    """
    found: dict[str, list[Limit]] = {}
    for limit in sorted(read_limits(written).values(), key=lambda limit: limit.scope == "cluster"):
        found.setdefault(limit.quota, []).append(limit)
    return found
