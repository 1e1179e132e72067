"""The ResourceActor: every limit of the cluster in one ledger. It never waits inside a call.

Permits are leases. Their holders are incarnations of supervisors, which join and renew. A supervisor that starts
again joins under a higher epoch only after its old protocol hosts are certainly gone; that voids the permits of the
old epoch. A holder that falls silent has hosts that still work: the level above notices within a lease, and replaces
it. Only when nobody did for several leases are its permits taken back here, so that they are not lost for ever.

The set of holders is journalled. After a crash of this actor alone, nothing is granted until every known
holder has joined again with what it holds, or has been silent for as long: the limit holds across the restart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..protocols.errors import Fenced, NotFound, PodiumError
from ..supervisors.ports import Ask, Journal, Note, Timer, World
from .ledger import Ledger, Request

REPLACED_WITHIN = 5
"""Leases of silence after which nobody will replace a holder: noticing takes up to two, a start at most some."""
_HOLDER = "holder:"


class ResourceActor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = Ledger({}, age_s=1.0)
        self._lease_s = 0.0
        self._journal: Journal | None = None
        self._renewed_at: dict[str, float] = {}
        """Monotonic time of each shard's last sign of life."""
        self._epochs: dict[str, int] = {}
        self._places: dict[str, tuple[list[int], dict[str, int]]] = {}
        """By shard: (epoch, change) and the places at its hosts then."""
        self._expected: set[str] = set()
        """Holders from before a crash that have not joined again: nothing is granted while there are any."""
        self._asks: dict[str, Ask] = {}
        self._timer: Timer | None = None

    async def start(self, setup: Mapping[str, Any]) -> None:
        """setup: limits, lease_s, age_s, weights, cold (whether no holder can have survived)."""
        empty_at = -math.inf if setup["cold"] else self._world.monotonic()
        self._ledger = Ledger(setup["limits"], setup["age_s"], setup["weights"], empty_at)
        self._lease_s = setup["lease_s"]
        self._journal = await self._world.open_journal("resources")
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        known = [name.removeprefix(_HOLDER) for name in notes if name.startswith(_HOLDER)]
        if setup["cold"]:
            self._journal.write([Note(_HOLDER + shard, None) for shard in known])
        else:
            self._expected = set(known)
            self._renewed_at = dict.fromkeys(known, self._world.monotonic())
        self._tick()

    async def stop(self) -> None:
        if self._journal is not None:
            await self._journal.close()

    def receive(self, ask: Ask) -> None:
        match ask.kind:
            case "acquire":
                self._acquire(ask, Request.from_wire(ask.payload))
                return
            case "release":
                for id in ask.payload:
                    self._ledger.remove(id)
            case "places":
                self._set_places(*ask.payload)
            case "join":
                self._join(**ask.payload)
            case "renew":
                self._renew(ask.payload)
            case "forget":
                for shard in [known for known in self._renewed_at if _is_within(known, ask.payload)]:
                    self._forget(shard)
            case "check":
                self._ledger.check(ask.payload)
            case "limits":
                self._ledger.set_limits(ask.payload)
            case "status":
                pass
            case _:
                raise NotFound(what="message kind", name=ask.kind)
        ask.reply(self._status() if ask.kind in ("status", "limits") else None)
        self._grant()

    def _acquire(self, ask: Ask, request: Request) -> None:
        id, holder = request.id, request.holder
        if self._epochs.get(holder.shard) != holder.epoch:
            raise NotFound(what="permit holder", name=f"{holder.shard} epoch {holder.epoch}", hint="join first")
        if self._ledger.is_granted(id):
            ask.reply()
            return
        self._ledger.add(request)
        self._asks[id] = ask
        ask.on_cancel = lambda: self._withdraw(id)
        self._grant()

    def _withdraw(self, id: str) -> None:
        ask = self._asks.pop(id, None)
        self._ledger.remove(id)
        if ask is not None:
            ask.refuse(PodiumError("withdrawn"))
        self._grant()

    def _join(self, shard: str, epoch: int, claims: list[list[Any]], places: list[Any]) -> None:
        """What the holder says it holds is all it holds: answers and releases may have been lost."""
        if epoch < self._epochs.get(shard, 0):
            raise Fenced(shard=shard, epoch=epoch, newer=self._epochs[shard])
        self._ledger.remove_holders(shard)
        self._epochs[shard] = epoch
        self._renew(shard)
        self._expected.discard(shard)
        self._set_places(*places)
        for claim in claims:
            self._ledger.claim(Request.from_wire(claim))
        if self._journal is not None:
            self._journal.write([Note(_HOLDER + shard, epoch)])

    def _set_places(self, shard: str, version: list[int], places: dict[str, int]) -> None:
        """The newest version counts, which may come before its holder has joined."""
        if shard not in self._places or version > self._places[shard][0]:
            self._places[shard] = version, places
        (epoch, _), newest = self._places[shard]
        if self._epochs.get(shard) == epoch:
            self._ledger.set_places(newest)

    def _renew(self, shard: str) -> None:
        if shard not in self._epochs:
            raise NotFound(what="permit holder", name=shard, hint="it was silent for too long")
        self._renewed_at[shard] = self._world.monotonic()

    def _forget(self, shard: str) -> None:
        self._ledger.remove_holders(shard)
        self._epochs.pop(shard, None)
        self._places.pop(shard, None)
        self._renewed_at.pop(shard, None)
        self._expected.discard(shard)
        if self._journal is not None:
            self._journal.write([Note(_HOLDER + shard, None)])

    def _tick(self) -> None:
        """Take back the permits of holders that nobody replaces."""
        now = self._world.monotonic()
        for shard, renewed_at in list(self._renewed_at.items()):
            if now - renewed_at > REPLACED_WITHIN * self._lease_s:
                self._forget(shard)
        self._grant()
        self._world.call_later(self._lease_s / 4, self._tick)

    def _grant(self) -> None:
        if self._expected:
            return
        now = self._world.monotonic()
        for request in self._ledger.decide(now):
            ask = self._asks.pop(request.id, None)
            if ask is not None:
                ask.reply()
        self._wake_at(self._ledger.wake_at, now)

    def _wake_at(self, at: float, now: float) -> None:
        """Decide again when a rate will have come back."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == math.inf else self._world.call_later(at - now, self._grant)

    def _status(self) -> dict[str, Any]:
        ledger = self._ledger
        return {
            quota: {"limit": limit, "held": ledger.held[quota], "waiting": ledger.waiting[quota]}
            for quota, limit in ledger.limits.items()
        }


def _is_within(shard: str, parent: str) -> bool:
    """Whether `shard` is `parent` or one of its tiers."""
    return shard == parent or shard.startswith(parent + ".")
