"""The ResourceActor: every limit of the cluster in one ledger, all breakers on one board. It never waits inside a call.

Permits are leases. Their holders are incarnations of supervisors, which join and renew. A supervisor that starts
again joins under a higher epoch only after its old protocol hosts are certainly gone; that voids the permits of the
old epoch. A holder that falls silent has hosts that still work: the level above notices within a lease, and replaces
it. Only when nobody did for several leases are its permits taken back here, so that they are not lost for ever.

The set of holders is journalled. After a crash of this actor alone, nothing is granted until every known
holder has joined again with what it holds, or has been silent for as long: the limit holds across the restart.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ..protocols.errors import Fenced, NotFound, PodiumError
from ..protocols.limits import Amount
from ..supervisors.ledger import Ledger, Request, Who
from ..supervisors.ports import Ask, Journal, Note, Timer, World
from ..supervisors.shards import is_within
from ..supervisors.throttle import Thresholds, Throttle
from .board import Board

REPLACED_WITHIN = 5
"""Leases of silence after which nobody will replace a holder: noticing takes up to two, a start at most some."""
LOG = logging.getLogger("podium")
LENT = "lent"
"""Answer to a wish that is decided elsewhere now."""
LEND_AGAIN_S = 1.0
"""After a recall, the books stay here for so long at least."""
REPORT_WITHIN_S = 1.0
LOOK_S = 1.0
"""Seconds between two looks at the load of the machine."""
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
        self._joins: dict[str, int] = {}
        """By shard: the number of the last join of that epoch."""
        self._places: dict[str, tuple[list[int], dict[str, int]]] = {}
        """By shard: (epoch, change) and the places at its hosts then."""
        self._starts: dict[str, list[int]] = {}
        """By shard: the coordinator's number of the start that joined last."""
        self._expected: set[str] = set()
        """Holders from before a crash that have not joined again: nothing is granted while there are any."""
        self._throttle = Throttle(Thresholds())
        self._board = Board(world)
        self._asks: dict[str, Ask] = {}
        self._timer: Timer | None = None
        self._books: dict[str, Ask] = {}
        """By shard: where a loan of the books and its recall are told."""
        self._lent_to: str | None = None
        self._recalled = False
        self._lend_after = 0.0
        self._wanted = False
        """Whether somebody waits: nobody is to keep what it does not use."""
        self._curious: list[Ask] = []
        """Who asked for the status while the books are lent."""

    async def start(self, setup: Mapping[str, Any]) -> None:
        """setup: limits, lease_s, age_s, weights, throttle, thresholds, cold (whether no holder can have survived)."""
        self._throttle = Throttle(Thresholds(**setup["thresholds"]))
        empty_at = -math.inf if setup["cold"] else self._world.monotonic()
        self._ledger = Ledger(setup["limits"], setup["age_s"], setup["weights"], empty_at)
        self._lease_s = setup["lease_s"]
        self._journal = await self._world.open_journal("resources")
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        known = {name.removeprefix(_HOLDER): start for name, start in notes.items() if name.startswith(_HOLDER)}
        if setup["cold"]:
            self._journal.write([Note(_HOLDER + shard, None) for shard in known])
        else:
            self._expected = set(known)
            self._starts = {shard: start for shard, start in known.items() if isinstance(start, list)}
            self._renewed_at = dict.fromkeys(known, self._world.monotonic())
        self._board.open(self._journal, notes, setup["cold"])
        self._tick()
        if setup["throttle"]:
            self._look_at_load()

    async def stop(self) -> None:
        if self._journal is not None:
            await self._journal.close()

    def receive(self, ask: Ask) -> None:
        match ask.kind:
            case "acquire":
                self._acquire(ask, Request.from_wire(ask.payload))
                return
            case "books":
                self._may_lend(ask, *ask.payload)
                return
            case "breakers" | "calls" | "probe" | "breaker":
                self._board.receive(ask)
                return
            case "report":
                self._reported(ask.payload)
            case "status" if self._lent_to is not None:
                self._ask_debtor(ask)
                return
            case "release":
                for id in ask.payload:
                    self._ledger.remove(id)
            case "served":
                self._served(ask.payload)
            case "charge":
                who, amounts = ask.payload
                self._ledger.charge(Who(*who), amounts, self._world.monotonic())
            case "places":
                self._set_places(*ask.payload)
            case "join":
                self._join(**ask.payload)
            case "renew":
                self._renew(ask.payload)
            case "forget":
                self._forget_all_within(*ask.payload)
            case "check":
                self._ledger.check(ask.payload)
            case "limits":
                self._change_limits(ask.payload)
            case "status":
                pass
            case _:
                raise NotFound(what="message kind", name=ask.kind)
        if ask.kind == "join":
            ask.reply({"limits": self._ledger.limits, "lowered": self._ledger.lowered})
        else:
            ask.reply(self._status() if ask.kind in ("status", "limits") else None)
        self._grant()

    def _acquire(self, ask: Ask, request: Request) -> None:
        id, holder = request.id, request.holder
        if self._epochs.get(holder.shard) != holder.epoch:
            raise NotFound(what="permit holder", name=f"{holder.shard} epoch {holder.epoch}", hint="join first")
        if self._ledger.is_granted(id):
            ask.reply()
            return
        if holder.shard == self._lent_to:
            ask.reply(LENT)
            return
        self._ledger.add(request)
        if before := self._asks.pop(id, None):
            before.reply(LENT)  # the same wish, sent before a loan that has ended since
        self._asks[id] = ask
        ask.on_cancel = lambda: self._withdraw(id, ask)
        self._grant()

    def _served(self, ids: list[str]) -> None:
        """served [ticket, …]: these wishes were served with other permits of their holder."""
        for id in ids:
            self._ledger.served(id)
            if ask := self._asks.pop(id, None):
                ask.reply(LENT)

    def _withdraw(self, id: str, ask: Ask) -> None:
        if self._asks.get(id) is ask:
            del self._asks[id]
            self._ledger.remove(id)
            ask.refuse(PodiumError("withdrawn"))
            self._grant()

    def _join(
        self,
        shard: str,
        start: list[int],
        epoch: int,
        join: int,
        claims: list[list[Any]],
        places: list[Any],
        meters: Any,
    ) -> None:
        """What the holder says it holds is all it holds: answers and releases may have been lost.

        Of who has the books, this is how it returns them; `meters` are what its rates are at.
        """
        if epoch < self._epochs.get(shard, 0):
            raise Fenced(shard=shard, epoch=epoch, newer=self._epochs[shard])
        if epoch == self._epochs.get(shard) and join <= self._joins[shard]:
            return  # it was overtaken by a later one, on another line
        self._end_loan(shard, meters)
        self._ledger.remove_holders(shard)
        self._epochs[shard], self._joins[shard], self._starts[shard] = epoch, join, start
        if ask := self._books.pop(shard, None):
            ask.reply()
        self._renew(shard)
        self._expected.discard(shard)
        self._set_places(*places)
        for claim in claims:
            self._ledger.claim(Request.from_wire(claim))
        if self._journal is not None:
            self._journal.write([Note(_HOLDER + shard, start)])

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

    def _forget_all_within(self, parent: str, start: list[int]) -> None:
        """forget [shard, start]: its supervisors are gone for good, up to that start of the workflow's own."""
        known = {*self._renewed_at, *self._board.shards}
        for shard in [shard for shard in known if is_within(shard, parent)]:
            if self._starts.get(shard, start) <= start:
                self._forget(shard)

    def _forget(self, shard: str) -> None:
        self._end_loan(shard, None)
        self._board.forget(shard)
        if ask := self._books.pop(shard, None):
            ask.reply()
        self._ledger.remove_holders(shard)
        self._epochs.pop(shard, None)
        self._joins.pop(shard, None)
        self._starts.pop(shard, None)
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
        self._board.tidy()
        self._grant()
        self._world.call_later(self._lease_s / 4, self._tick)

    def _change_limits(self, limits: Mapping[str, Amount]) -> None:
        self._ledger.set_limits(limits, self._world.monotonic())
        self._ledger.lower(self._throttle.lowered(self._ledger.limits))
        for ask in self._books.values():
            ask.chunk(["limits", limits, self._ledger.lowered])

    def _look_at_load(self) -> None:
        if self._throttle.look(self._world.load(), self._world.now()):
            change = self._throttle.changes[-1]
            LOG.warning("%s: limits are at %.0f %% now", change.reason, change.factor * 100)
            self._change_limits({})
            self._grant()
        self._world.call_later(LOOK_S, self._look_at_load)

    def _grant(self) -> None:
        if self._expected:
            return
        now = self._world.monotonic()
        if self._lent_to is not None:
            self._recall(now)
            return
        for request in self._ledger.decide(now):
            ask = self._asks.pop(request.id, None)
            if ask is not None:
                ask.reply()
        self._wake_at(self._ledger.wake_at, now)
        if self._wanted != bool(self._asks):
            self._wanted = not self._wanted
            for books in self._books.values():
                books.chunk(["wanted", self._wanted])
        self._lend(now)

    # the books on loan

    def _may_lend(self, ask: Ask, shard: str, epoch: int, join: int) -> None:
        """books [shard, epoch, join]: answered when it counts no more; on loan as chunks."""
        if (self._epochs.get(shard), self._joins.get(shard)) == (epoch, join):
            self._books[shard] = ask
            ask.chunk(["wanted", self._wanted])
            self._grant()
        else:
            ask.reply()

    def _lend(self, now: float) -> None:
        """Who alone wants permits decides by itself, as fast as it can; see `supervisors/permits.py`."""
        shards = self._ledger.shards
        shard = next(iter(shards)) if len(shards) == 1 else None
        if shard is None or shard not in self._books or now < self._lend_after:
            return
        granted = self._ledger.tickets()
        loan = {
            "limits": self._ledger.limits,
            "lowered": self._ledger.lowered,
            "meters": self._ledger.meters(now),
            "granted": granted,
        }
        self._lent_to, self._recalled = shard, False
        for id in [id for id in self._asks if id not in granted]:
            self._asks.pop(id).reply(LENT)
        self._ledger.remove_holders(shard)
        self._books[shard].chunk(["lend", loan])

    def _recall(self, now: float) -> None:
        """Somebody else wants permits, too."""
        if not self._recalled and self._lent_to is not None and self._ledger.shards:
            self._recalled, self._lend_after = True, now + LEND_AGAIN_S
            self._books[self._lent_to].chunk(["recall"])

    def _end_loan(self, shard: str, meters: Any) -> None:
        if self._lent_to == shard:
            self._lent_to = None
            self._ledger.set_meters(meters, self._world.monotonic())
            self._reported({})

    def _ask_debtor(self, ask: Ask) -> None:
        """The status is what the holder of the books says, or what is known here if it does not answer soon."""
        assert self._lent_to is not None
        self._curious.append(ask)
        self._books[self._lent_to].chunk(["report"])
        self._world.call_later(REPORT_WITHIN_S, lambda: self._reported({}))

    def _reported(self, uses: Mapping[str, Any]) -> None:
        curious, self._curious = self._curious, []
        status = self._status()
        limits = status["limits"]
        for name, use in uses.items():
            here = limits.setdefault(name, {"limit": None, "waiting": 0})
            here |= use | {"waiting": use["waiting"] + here["waiting"]}
        for ask in curious:
            ask.reply(status)

    def _wake_at(self, at: float, now: float) -> None:
        """Decide again when a rate will have come back."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == math.inf else self._world.call_later(at - now, self._grant)

    def _status(self) -> dict[str, Any]:
        """limits: by name, `limit` as it was set (None if it is not, and waited for), `now` if it is lowered because of
        the load, and its use."""
        written = self._ledger.limits
        uses, lowered = self._ledger.uses(self._world.monotonic()), self._ledger.lowered
        limits = {
            name: {"limit": written.get(name)} | use | ({"now": lowered[name]} if name in lowered else {})
            for name, use in uses.items()
        }
        return {
            "limits": limits,
            "breakers": self._board.to_wire(),
            "throttle": self._throttle.to_wire(),
            "load": self._world.load()._asdict(),
        }
