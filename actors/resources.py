"""The ResourceActor keeps every limit of the cluster in one ledger, and all breakers. It never waits inside a call.

Permits are leases. Their holders are incarnations of supervisors, which join and renew. A supervisor that starts again
joins under a higher epoch only after its old protocol hosts are certainly gone; this voids the permits of the old
epoch. A holder that falls silent may have hosts that still work. The level above detects the silence and replaces the
holder. Only if it does not do so within `REPLACED_WITHIN` leases are the permits taken back here, so that they are not
lost for ever.

The set of holders is on record in the journal. After a crash of this actor alone, nothing is granted until every known
holder has joined again with its permits, or was silent for `REPLACED_WITHIN` leases. So the limits hold across the
restart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, assert_never

from ..protocols.errors import Fenced, NotFound, PodiumError
from ..protocols.limits import Amount
from ..protocols.probes import hit
from ..supervisors.limits.ledger import Ledger, Request, Who
from ..supervisors.limits.throttle import Thresholds, Throttle
from ..supervisors.messages.client import SetBreaker, SetLimits, Uses
from ..supervisors.messages.door import with_kind
from ..supervisors.messages.resources import (
    ELSEWHERE,
    GRANTED,
    RESOURCES,
    Acquire,
    AskPlaces,
    AskUse,
    Charge,
    CheckQuotas,
    Decided,
    DescribeResources,
    ForgetHolder,
    Join,
    Joined,
    Lend,
    LimitsChanged,
    PlacesLacking,
    Probe,
    Recall,
    Release,
    Renew,
    ReportCalls,
    ReportUse,
    ResourceStatus,
    Served,
    SetPlaces,
    Wanted,
    WatchBreakers,
    WatchLedger,
)
from ..supervisors.ports.journal import Journal, Note
from ..supervisors.ports.messaging import Incoming
from ..supervisors.ports.world import Level, Timer, World
from ..supervisors.shards import is_within
from .breaker_registry import BreakerRegistry

REPLACED_WITHIN = 5
"""Leases of silence after which a holder is given up. Detecting the loss takes up to two leases and a restart less than
three; after five nobody will return."""
LEND_AGAIN_S = 1.0
"""Shortest time in seconds from a recall of the delegated ledger to the next loan."""
REPORT_WITHIN_S = 1.0
"""Seconds to wait for the borrower of the ledger to report its use, for a status."""
LOOK_S = 1.0
"""Seconds between two samples of the load of the machine."""
_HOLDER = "holder:"


Notice: TypeAlias = Release | Served | Charge | SetPlaces | Renew | ReportUse | ForgetHolder | CheckQuotas


class ResourceActor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = Ledger({}, age_s=1.0)
        self._lease_s = 0.0
        self._journal: Journal | None = None
        self._renewed_at: dict[str, float] = {}
        """By shard: monotonic time of the last renewal or join."""
        self._epochs: dict[str, int] = {}
        self._joins: dict[str, int] = {}
        """By shard: the number of the last join in the current epoch."""
        self._places: dict[str, tuple[list[int], Mapping[str, int]]] = {}
        """By shard: (epoch, change) of the newest `SetPlaces`, and the places at the shard's hosts."""
        self._starts: dict[str, list[int]] = {}
        """By shard: the coordinator's number of the start of the supervisor that joined last."""
        self._expected: set[str] = set()
        """Shards of holders from before a crash that have not joined again. While there are any, nothing is granted."""
        self._throttle = Throttle(Thresholds())
        self._board = BreakerRegistry(world)
        world.on_leaving = self._on_leaving
        self._asks: dict[str, list[Incoming]] = {}
        """The messages that wait for permits, by ticket. A wish is sent again after each join, and messages may
        overtake each other. So nobody can tell which of them the supervisor still listens to: all are answered."""
        self._timer: Timer | None = None
        self._ledger_watches: dict[str, Incoming] = {}
        """By shard: the message `WatchLedger`, on which a loan of the ledger and its recall are told."""
        self._lent_to: str | None = None
        self._recalled = False
        self._lend_after = 0.0
        self._wanted = False
        """Whether a request waits for permits: then no supervisor may keep idle permits."""
        self._status_asks: list[Incoming] = []
        """Messages that ask for the status and wait for the report of the borrower of the ledger."""

    async def start(self, setup: Mapping[str, Any]) -> None:
        """Open the journal and expect the known holders.

        Args:
            setup: limits, lease_s, age_s, weights, throttle, thresholds, log_bytes, log_files, cold (whether no holder
                can have survived).
        """
        self._throttle = Throttle(Thresholds(**setup["thresholds"]))
        empty_at = -math.inf if setup["cold"] else self._world.monotonic()
        self._ledger = Ledger(setup["limits"], setup["age_s"], setup["weights"], empty_at)
        self._lease_s = setup["lease_s"]
        self._world.keep_log(setup["log_bytes"], setup["log_files"])
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
        self._world.log("info", "started", cold=setup["cold"], expected=len(self._expected))
        self._tick()
        if setup["throttle"]:
            self._look_at_load()

    def _on_leaving(self, left_s: Mapping[str, float]) -> None:
        """Stop at once if the machine will be taken away; the holders of permits join the next one."""
        if self._world.address in left_s:
            self._world.background(self._leave(), "leave")

    async def _leave(self) -> None:
        self._world.log("info", "leaves its machine")
        await self.stop()
        self._world.leave()

    async def stop(self) -> None:
        if self._journal is not None:
            await self._journal.close()

    def receive(self, ask: Incoming) -> None:
        message = RESOURCES.read(ask.kind, ask.payload)
        match message:
            case Acquire():
                self._acquire(ask, Request.from_wire(list(message)))
            case WatchLedger():
                self._may_lend(ask, message)
            case WatchBreakers() | ReportCalls() | Probe() | SetBreaker():
                self._board.receive(ask, message)
            case DescribeResources() if self._lent_to is not None:
                self._ask_borrower(ask)
            case DescribeResources():
                ask.reply(self._status())
                self._grant()
            case Join():
                self._join(message)
                ask.reply(Joined(self._ledger.limits, self._ledger.lowered))
                self._grant()
            case AskPlaces():
                ask.reply(PlacesLacking(self._places_lacking(message.place)))
            case SetLimits():
                self._change_limits(message.limits)
                ask.reply(Uses(self._status().limits))
                self._grant()
            case _:
                self._take_note(message)
                ask.reply()
                self._grant()

    def _take_note(self, message: Notice) -> None:
        """Carry out a message that is answered at once, without a value."""
        match message:
            case Release():
                for ticket in message.tickets:
                    self._ledger.remove(ticket)
            case Served():
                self._handed_over(message.tickets)
            case Charge():
                self._ledger.charge(Who(*message.who), message.amounts, self._world.monotonic())
            case SetPlaces():
                self._set_places(message.shard, [message.epoch, message.change], message.places)
            case Renew():
                self._renew(message.shard)
            case ReportUse():
                self._reported(message.uses)
            case ForgetHolder():
                self._forget_all_within(message.shard, list(message.start))
            case CheckQuotas():
                self._ledger.check(message.quotas)
            case _:
                assert_never(message)

    def _acquire(self, ask: Incoming, request: Request) -> None:
        id, holder = request.id, request.holder
        if self._epochs.get(holder.shard) != holder.epoch:
            raise NotFound(what="permit holder", name=f"{holder.shard} epoch {holder.epoch}", hint="join first")
        if self._ledger.is_granted(id):
            ask.reply(GRANTED)
            return
        if holder.shard == self._lent_to:
            ask.reply(ELSEWHERE)
            return
        self._ledger.add(request)
        self._asks.setdefault(id, []).append(ask)
        ask.on_cancel = lambda: self._withdraw(id, ask)
        self._grant()

    def _handed_over(self, tickets: Sequence[str]) -> None:
        for id in tickets:
            self._ledger.handed_over(id)
            self._answer(id, ELSEWHERE)

    def _answer(self, id: str, decided: Decided) -> None:
        """Answer every message that asks for the permits of a ticket."""
        for ask in self._asks.pop(id, []):
            ask.reply(decided)

    def _withdraw(self, id: str, ask: Incoming) -> None:
        asks = self._asks.get(id, [])
        if ask in asks:
            asks.remove(ask)
            ask.refuse(PodiumError("withdrawn"))
            self._answer(id, ELSEWHERE)
            self._ledger.remove(id)
            self._grant()

    def _join(self, message: Join) -> None:
        """Replace all that is known of a holder by its claims, because answers and releases may have been lost."""
        shard, epoch, start = message.shard, message.epoch, list(message.start)
        if epoch < self._epochs.get(shard, 0):
            raise Fenced(shard=shard, epoch=epoch, newer=self._epochs[shard])
        if epoch == self._epochs.get(shard) and message.join <= self._joins[shard]:
            return  # a later join on another connection has overtaken this one
        if message.claims:
            hit("joined with claims")
        self._end_loan(shard, message.meters)
        self._ledger.remove_holders(shard)
        self._epochs[shard], self._joins[shard], self._starts[shard] = epoch, message.join, start
        if ask := self._ledger_watches.pop(shard, None):
            ask.reply()
        self._renew(shard)
        self._expected.discard(shard)
        self._set_places(shard, [epoch, message.change], message.places)
        self._world.log("debug", "holder joined", holder=shard, holder_epoch=epoch, claims=len(message.claims))
        for claim in message.claims:
            self._ledger.claim(Request.from_wire(list(claim)))
        if self._journal is not None:
            self._journal.write([Note(_HOLDER + shard, start)])

    def _set_places(self, shard: str, version: list[int], places: Mapping[str, int]) -> None:
        """Set the places at the hosts of a shard. The newest version counts; it may come before its holder joins."""
        if shard not in self._places or version > self._places[shard][0]:
            self._places[shard] = version, places
        (epoch, _), newest = self._places[shard]
        if self._epochs.get(shard) == epoch:
            self._ledger.set_places(newest)

    def _places_lacking(self, place: str) -> int:
        """Count the requests that wait for nothing but a place. While not all holders are known, none surely does."""
        return 0 if self._expected else self._ledger.lacking_places(place, self._world.monotonic())

    def _renew(self, shard: str) -> None:
        if shard not in self._epochs:
            raise NotFound(what="permit holder", name=shard, hint="it was silent for too long")
        self._renewed_at[shard] = self._world.monotonic()

    def _forget_all_within(self, parent: str, start: list[int]) -> None:
        """Forget a shard and the nested shards within it, whose supervisors are gone for good.

        A shard whose supervisor joined with a later start than `start` is kept.
        """
        known = {*self._renewed_at, *self._board.shards}
        for shard in [shard for shard in known if is_within(shard, parent)]:
            if self._starts.get(shard, start) <= start:
                self._forget(shard)

    def _forget(self, shard: str) -> None:
        self._end_loan(shard, None)
        self._board.forget(shard)
        if ask := self._ledger_watches.pop(shard, None):
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
        """Take back the permits of holders that were silent for `REPLACED_WITHIN` leases."""
        now = self._world.monotonic()
        for shard, renewed_at in list(self._renewed_at.items()):
            if now - renewed_at > REPLACED_WITHIN * self._lease_s:
                hit("silent holder forgotten")
                self._world.log("warning", "permits taken back", holder=shard, silent_s=now - renewed_at)
                self._forget(shard)
        self._board.tidy()
        self._grant()
        self._world.call_later(self._lease_s / 4, self._tick)

    def _change_limits(self, limits: Mapping[str, Amount]) -> None:
        self._ledger.set_limits(limits, self._world.monotonic())
        self._ledger.lower(self._throttle.lowered(self._ledger.limits))
        for ask in self._ledger_watches.values():
            ask.chunk(with_kind(LimitsChanged(limits, self._ledger.lowered)))

    def _look_at_load(self) -> None:
        if self._throttle.look(self._world.load(), self._world.now()):
            change = self._throttle.changes[-1]
            level: Level = "warning" if change.factor < 1 else "info"
            self._world.log(level, "limits follow the load", factor=change.factor, reason=change.reason)
            self._change_limits({})
            self._grant()
        self._world.call_later(LOOK_S, self._look_at_load)

    def _grant(self) -> None:
        if self._expected:
            hit("grants held back")
            return
        now = self._world.monotonic()
        if self._lent_to is not None:
            self._recall(now)
            return
        for request in self._ledger.decide(now):
            self._answer(request.id, GRANTED)
        self._wake_at(self._ledger.wake_at, now)
        if self._wanted != bool(self._asks):
            self._wanted = not self._wanted
            for watch in self._ledger_watches.values():
                watch.chunk(with_kind(Wanted(self._wanted)))
        self._lend(now)

    # the delegated ledger

    def _may_lend(self, ask: Incoming, offer: WatchLedger) -> None:
        shard = offer.shard
        if (self._epochs.get(shard), self._joins.get(shard)) == (offer.epoch, offer.join):
            self._ledger_watches[shard] = ask
            ask.chunk(with_kind(Wanted(self._wanted)))
            self._grant()
        else:
            ask.reply()

    def _lend(self, now: float) -> None:
        """Lend the ledger to the only supervisor that wants permits, so that it grants without a round trip.

        See `supervisors/limits/permit_client.py`.
        """
        shards = self._ledger.shards
        shard = next(iter(shards)) if len(shards) == 1 else None
        if shard is None or shard not in self._ledger_watches or now < self._lend_after:
            return
        granted = self._ledger.tickets()
        loan = Lend(self._ledger.limits, self._ledger.lowered, self._ledger.meters(now), granted)
        self._lent_to, self._recalled = shard, False
        self._world.log("debug", "ledger lent", holder=shard)
        for id in [id for id in self._asks if id not in granted]:
            self._answer(id, ELSEWHERE)
        self._ledger.remove_holders(shard)
        self._ledger_watches[shard].chunk(with_kind(loan))

    def _recall(self, now: float) -> None:
        """Recall the delegated ledger if another supervisor wants permits."""
        if not self._recalled and self._lent_to is not None and self._ledger.shards:
            self._recalled, self._lend_after = True, now + LEND_AGAIN_S
            self._world.log("debug", "ledger recalled", holder=self._lent_to)
            self._ledger_watches[self._lent_to].chunk(with_kind(Recall()))

    def _end_loan(self, shard: str, meters: Any) -> None:
        if self._lent_to == shard:
            hit("books lost" if meters is None else "books returned")
            self._lent_to = None
            self._ledger.set_meters(meters, self._world.monotonic())
            self._reported({})

    def _ask_borrower(self, ask: Incoming) -> None:
        """Answer with the use that the borrower of the ledger reports, or without it after `REPORT_WITHIN_S`."""
        assert self._lent_to is not None
        self._status_asks.append(ask)
        self._ledger_watches[self._lent_to].chunk(with_kind(AskUse()))
        self._world.call_later(REPORT_WITHIN_S, lambda: self._reported({}))

    def _reported(self, uses: Mapping[str, Any]) -> None:
        asks, self._status_asks = self._status_asks, []
        status = self._status()
        limits = status.limits
        for name, use in uses.items():
            here = limits.setdefault(name, {"limit": None, "waiting": 0})
            here |= use | {"waiting": use["waiting"] + here["waiting"]}
        for ask in asks:
            ask.reply(status)

    def _wake_at(self, at: float, now: float) -> None:
        """Set the timer for the next decision, at the time at which a rate will have come back."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == math.inf else self._world.call_later(at - now, self._grant)

    def _status(self) -> ResourceStatus:
        written = self._ledger.limits
        uses, lowered = self._ledger.uses(self._world.monotonic()), self._ledger.lowered
        limits = {
            name: {"limit": written.get(name)} | use | ({"now": lowered[name]} if name in lowered else {})
            for name, use in uses.items()
        }
        load = self._world.load()._asdict()
        return ResourceStatus(limits, self._board.to_wire(), self._throttle.to_wire(), load)
