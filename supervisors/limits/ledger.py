"""The ledger of permits: pure, exact, and the only place that knows who holds what.

A request gets all it needs in one decision, or nothing: there are no partial holds and no deadlock. A limit of the
cluster has one pool, one "per user" a pool per user, and a request needs of every pool that its quotas have. Permits
are held until they are released; of a rate, what is used up comes back with time (`supervisors/limits/rates.py`).

A request also needs one of the *places* of the hosts that it can run on, so that nothing is held by what cannot run.

Who comes first is decided in permit_queue.py. A waiter that a pool of the whole cluster cannot serve reserves
its cluster pools: nobody behind it takes from them. One that a pool of its own user, workflow, protocol or place holds
up reserves nothing, and neither does one that no pool could ever serve as the limits are now.

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
from typing import Any

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
    """When time alone mends it, in monotonic seconds; infinite for permits that somebody holds."""
    for_ever: bool = False
    """Whether the limit itself is too low."""


class Ledger:
    def __init__(
        self,
        limits: Mapping[str, Amount],
        age_s: float,
        weights: Mapping[str, float] | None = None,
        empty_at: float = -math.inf,
    ) -> None:
        """
        Args:
            limits: as `protocols.limits` reads them.
            age_s: seconds of waiting that weigh as much as one level of priority.
            weights: shares of users; 1.0 for those not named.
            empty_at: rates count as used up then, because what was used before is not known any more.
        """
        self._written = dict(limits)
        self._limits = _by_quota(limits)
        self._lowered: dict[str, int] = {}
        self._held: Counter[Pool] = Counter()
        self._meters = RateMeters(empty_at)
        self._grants: dict[str, Request] = {}
        self._shards: Counter[str] = Counter()
        shares = weights or {}
        self._waiting = PermitQueue(age_s, lambda user: shares.get(user, 1.0))
        self._places: dict[str, int] = {}
        self._due: list[tuple[float, Pool]] = []
        self._due_at: dict[Pool, float] = {}
        self.wake_at = math.inf
        """When time alone may allow the next grant, as of the last decision."""

    @property
    def limits(self) -> dict[str, Amount]:
        return dict(self._written)

    def limit(self, quota: str) -> float | None:
        """How many permits of it the cluster has; None for a rate, or if that is not set."""
        limits = self._limits.get(quota, ())
        return next((each.amount for each in limits if each.scope == "cluster" and each.interval_s is None), None)

    @property
    def held(self) -> dict[str, int]:
        """Permits held by limit, over all its pools."""
        held = Counter(dict.fromkeys(self._written, 0))
        for (name, _), count in self._held.items():
            if name != _PLACE:
                held[name] += count
        return dict(held)

    @property
    def waiting(self) -> dict[str, int]:
        """Requests that wait, by limit, and by quota where none is set."""
        counts = self._waiting.counts
        unset = {quota: count for quota, count in counts.items() if quota not in self._limits and count}
        return {limit.name: counts[quota] for quota, limits in self._limits.items() for limit in limits} | unset

    def uses(self, now: float) -> dict[str, dict[str, Any]]:
        """By limit: permits held, or what is left of a rate of the whole cluster, and requests that wait."""
        held, waiting = self.held, self.waiting
        uses: dict[str, dict[str, Any]] = {
            name: {"held": held.get(name, 0), "waiting": count} for name, count in waiting.items()
        }
        for limit in (each for limits in self._limits.values() for each in limits):
            if limit.interval_s is not None and limit.scope == "cluster":
                uses[limit.name]["left"] = self._meters.left((limit.name, ""), limit, now)
        return uses

    def pools(self, name: str) -> dict[str, int]:
        """Permits held of one limit, by user, workflow or protocol; "" for the cluster's."""
        return {whose: count for (known, whose), count in self._held.items() if known == name}

    def is_granted(self, id: str) -> bool:
        return id in self._grants

    def check(self, needs: Mapping[str, int]) -> None:
        """Raise InvalidInput if `needs` can never be granted: unknown quota, or more than a limit.

        A limit of 0 is a pause, not for ever.
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

    def add(self, request: Request) -> None:
        """Put a request in the queue; `decide` grants it. One that is known already is left as it is.

        What needs more than a limit waits until that is raised, and what needs a quota without one until it is set:
        tasks that were accepted under other limits are not to fail.
        """
        if request.id not in self._grants and request.id not in self._waiting:
            self._waiting.add(request)
            self._shards[request.holder.shard] += 1

    def claim(self, request: Request) -> None:
        """Enter permits that are held already, as known from before a restart of the ledger."""
        if request.id not in self._grants:
            self._grants[request.id] = request
            self._shards[request.holder.shard] += 1
            self._count(request, 1)

    def remove(self, id: str) -> None:
        """Release what `id` holds, or withdraw it from the queue. Unknown ids are fine."""
        withdrawn = self._waiting.remove(id)
        request = self._grants.pop(id, None)
        if gone := withdrawn or request:
            self._shards[gone.holder.shard] -= 1
        if request is not None:
            self._count(request, -1)
            for pool, _, _ in self._pools(request):
                self._waiting.unpark(pool)

    def pools_of(self, request: Request) -> tuple[tuple[Pool, int], ...]:
        """What it takes of which pools."""
        return tuple((pool, count) for pool, _, count in self._pools(request))

    def heir(self, id: str, now: float | None) -> Request | None:
        """Who would get exactly what `id` holds, if that were released now.

        None if nobody would, or somebody with other needs, or if what `id` holds is not to be used again, or who would
        get it anyhow. That nobody knows whose books are not the only ones: `now` is None.
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
        """Whether what `id` holds is free again when it ends: nothing of it is used up, or one too many by now."""
        return not any(
            limit.interval_s is not None or self._is_overdrawn(pool, limit, count)
            for pool, limit, count in self._pools(self._grants[id])
        )

    def _is_overdrawn(self, pool: Pool, limit: Limit, count: int) -> bool:
        held = self._held[pool]
        return held > limit.amount or held > max(count, self._lowered.get(pool[0], math.inf))

    def inherit(self, request: Request) -> None:
        """A waiting request leaves: it will be served, in its turn, with what another holds."""
        self._waiting.take(request)
        self._shards[request.holder.shard] -= 1

    def served(self, id: str) -> None:
        """A waiting request was served with permits that its holder had; if it was granted by now, that is undone."""
        request = self._waiting.served(id)
        if request is None:
            self.remove(id)
        else:
            self._shards[request.holder.shard] -= 1

    @property
    def shards(self) -> set[str]:
        """Whose incarnations hold or wait for something."""
        return {shard for shard, count in self._shards.items() if count}

    def tickets(self) -> list[str]:
        """Of all that is granted."""
        return list(self._grants)

    def meters(self, now: float) -> list[Any]:
        """What rates were used, for `set_meters` of another ledger."""
        return self._meters.to_wire(now)

    def charge(self, who: Who, amounts: Mapping[str, float], now: float) -> None:
        """Count what was used of some rates beyond what was granted, or give back what was not."""
        for quota, amount in amounts.items():
            for limit in self._limits.get(quota, ()):
                if limit.interval_s is not None:
                    pool = limit.name, _whose(limit, who)
                    self._meters.use(pool, limit, amount, now)
                    self._waiting.unpark(pool)

    def set_meters(self, meters: list[Any] | None, now: float) -> None:
        """What rates were used meanwhile; None if nobody knows, and they count as used up."""
        self._meters = RateMeters.from_wire(meters, now)
        self._waiting.unpark_all()

    def remove_holders(self, shard: str) -> None:
        """Take back everything that the incarnations of a shard hold or wait for."""
        for request in [*self._grants.values(), *self._waiting]:
            if request.holder.shard == shard:
                self.remove(request.id)
        self._places = {place: count for place, count in self._places.items() if not place.startswith(f"{shard}/")}

    def set_places(self, places: Mapping[str, int]) -> None:
        """How many may run at once on some hosts: by place, `<shard>/<protocol>`."""
        self._places.update(places)
        for place in places:
            self._waiting.unpark((_PLACE, place))

    def set_limits(self, limits: Mapping[str, Amount], now: float) -> None:
        """Change some limits, or add some, under the running holders; no permit is lost or invented.

        What was used of a rate beyond its burst comes back at the new rate. `now`: monotonic seconds.
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
        """Until the next call, fewer permits of some limits than there are. What needs more than that goes alone."""
        self._lowered = dict(amounts)
        self._waiting.unpark_all()

    @property
    def lowered(self) -> dict[str, int]:
        return dict(self._lowered)

    def decide(self, now: float) -> list[Request]:
        """Grant what can be granted now, in order. `now`: monotonic seconds."""
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
        """Grant a request, or put it aside; returns whether the next of its group can be looked at."""
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
    """Those of the cluster last: who is held up by a pool of its own is to hold up nobody else."""
    found: dict[str, list[Limit]] = {}
    for limit in sorted(read_limits(written).values(), key=lambda limit: limit.scope == "cluster"):
        found.setdefault(limit.quota, []).append(limit)
    return found
