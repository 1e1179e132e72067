"""A supervisor's side of the ResourceActor: wishes, held permits, and both again after it restarted.

Each supervisor keeps books of its own wishes and permits, with a ledger under the same limits and rules. One that
alone wants permits gets *the* books on loan: its ledger then decides, and there is no round trip. When another wants
some, too, the books are recalled: it joins again with what it holds, and wishes as usual. A loan lasts no longer than
the ResourceActor is known to count on it: without an answer for `TRUST_LEASES` leases nothing more is granted here.

Without the loan the ResourceActor grants, and its permits may serve a *stint*: for `lookahead_s` they pass on to the
next of this supervisor that need just the same, so that many supervisors over a scarce quota do not pay a round trip
for each short step. And while nobody waits at the ResourceActor, permits that come back are kept for `KEEP_IDLE_S`, so
that a step over a plentiful quota pays none either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

from ...protocols.errors import PodiumError, Unknown
from ...protocols.limits import Amount
from ...protocols.values import Value
from ..figures.counters import Histogram
from ..messages.resources import (
    LEDGER_SAID,
    Acquire,
    AskUse,
    Charge,
    Decided,
    Join,
    Joined,
    Lend,
    LimitsChanged,
    Recall,
    Release,
    Renew,
    ReportUse,
    Served,
    SetPlaces,
    Wanted,
    WatchLedger,
)
from ..ports.messaging import Connection, Reply
from ..ports.world import Timer, World
from ..settings import Governance
from ..shards import workflow_of
from .ledger import Ledger
from .permit_queue import Holder, Request, Who

TRUST_LEASES = 2
KEEP_IDLE_S = 1.0
"""How long a permit that nobody waits for stays with the supervisor that had it last."""
_RECONNECT_S = 0.2


@dataclass(slots=True)
class _Wish:
    """Permits wished for. The request's id is their ticket at the ResourceActor, never used twice."""

    request: Request
    then: Callable[[str], None]
    since: float
    number: int | None = None


class PermitClient:
    """Permits of one incarnation of one supervisor: wishes by the key of the job, held ones by their ticket."""

    def __init__(self, world: World, resources: list[Any], shard: str, epoch: int, settings: Governance) -> None:
        """`resources`: the address of the ResourceActor, and as which start this one is known there."""
        self._world, self._settings = world, settings
        self._address, self._start = resources
        self._shard, self._epoch, self._lease_s = shard, epoch, settings.lease_s
        self._workflow = workflow_of(shard)
        self._line: Connection | None = None
        self._joined = False
        self._wishes: dict[str, _Wish] = {}
        self._held: dict[str, Request] = {}
        self._keys: dict[str, str] = {}
        """By ticket: the key of the job that wishes."""
        self._places: dict[str, int] = {}
        self._changes = self._joins = 0
        self.waits = Histogram()
        """From the wish to the permits."""
        self._tickets = itertools.count(1)
        self._books: Ledger | None = None
        """None until it has joined."""
        self._lent = False
        """Whether the books are the only ones."""
        self._stints: dict[str, float] = {}
        """By ticket that the ResourceActor granted: until when it may pass on."""
        self._trusted_until = -math.inf
        self._wanted = False
        """Whether somebody waits at the ResourceActor."""
        self._idle: dict[str, tuple[Hashable, Timer]] = {}
        """Held, and used by nobody: by ticket, the pools."""
        self._served: list[str] = []
        """Tickets of wishes that were served during a stint, not told yet."""
        self._timer: Timer | None = None
        self._deciding = False

    def acquire(self, wish: Request, then: Callable[[str], None]) -> None:
        """Ask for all that `wish` needs, and a place at the hosts of its protocol, if it is of one.

        `wish.id` is the caller's key for it; `then` gets the ticket when all is held.
        """
        ticket = f"{self._shard}@{self._epoch}/{next(self._tickets)}"
        who = wish.who._replace(workflow=self._workflow, place=self._place_of(wish.who))
        request = wish._replace(id=ticket, holder=Holder(self._shard, self._epoch), who=who)
        if (kept := self._kept_for(request)) is not None:
            self.waits.observe(0.0)
            then(kept)
            return
        self._wishes[wish.id] = _Wish(request, then, self._world.monotonic())
        self._keys[ticket] = wish.id
        if self._books is not None:
            self._enter(wish.id)
        if self._joined and not self._lent:
            self._send(wish.id)
        elif not self._lent:
            self.connect()

    def withdraw(self, id: str) -> None:
        """The job with this key wishes nothing any more."""
        wish = self._wishes.pop(id)
        del self._keys[wish.request.id]
        if self._books is not None:
            self._books.remove(wish.request.id)
        if self._lent:
            self._decide_soon()
        elif wish.number is not None and self._line is not None:
            self._line.cancel(wish.number)

    def _kept_for(self, request: Request) -> str | None:
        """The ticket of idle permits that are just what is needed."""
        if not self._idle or self._books is None:
            return None
        wanted = self._books.pools_of(request)
        ticket = next((ticket for ticket, (pools, _) in self._idle.items() if pools == wanted), None)
        if ticket is not None:
            self._idle.pop(ticket)[1].cancel()
        return ticket

    def release(self, ticket: str) -> None:
        """Nobody here needs what the ticket holds; it is kept for a moment if nobody elsewhere waits for it."""
        if self._may_keep(ticket):
            timer = self._world.call_later(KEEP_IDLE_S, partial(self._drop, ticket))
            self._idle[ticket] = self.pools(ticket), timer
        else:
            self._give_back(ticket)

    def _may_keep(self, ticket: str) -> bool:
        is_calm = self._joined and not self._lent and not self._wanted and not self._wishes
        return is_calm and self._books is not None and self._books.may_serve_again(ticket)

    def _drop(self, ticket: str) -> None:
        self._idle.pop(ticket)[1].cancel()
        self._give_back(ticket)

    def _drop_idle(self) -> None:
        for ticket in list(self._idle):
            self._drop(ticket)

    def _give_back(self, ticket: str) -> None:
        del self._held[ticket]
        self._stints.pop(ticket, None)
        if self._books is not None:
            self._books.remove(ticket)
        if self._lent:
            self._decide()  # at once: the next is to be on its way before the result is committed
        elif self._joined and self._line is not None:
            self._line.send(Release([ticket]), _ignore)

    def limit(self, quota: str) -> float | None:
        """Of the permits of the whole cluster, as far as it is known here."""
        return None if self._books is None else self._books.limit(quota)

    def charge(self, who: Who, amounts: Mapping[str, float]) -> None:
        """More, or less, of some rates was used than was asked for."""
        whom = who._replace(workflow=self._workflow)
        if self._books is not None and self._lent:
            self._books.charge(whom, amounts, self._world.monotonic())
            self._decide_soon()
        elif self._line is not None:
            self._line.send(Charge(whom, dict(amounts)), _ignore)

    def pools(self, ticket: str) -> Hashable:
        """What one holds with this ticket: equal for those that could take each other's place, as far as known."""
        return ticket if self._books is None else self._books.pools_of(self._held[ticket])

    def heir(self, ticket: str) -> str | None:
        """The key of the job that would get just what the ticket holds, if that were released now.

        None as well if others decide about that.
        """
        now = self._world.monotonic()
        until = self._trusted_until if self._lent else self._stints.get(ticket, -math.inf)
        if self._books is None or now > until:
            return None
        request = self._books.heir(ticket, now if self._lent else None)
        return None if request is None else self._keys[request.id]

    def inherit(self, heir: str) -> None:
        """The job wishes nothing any more: it follows one that holds all it needs."""
        assert self._books is not None
        wish = self._wishes.pop(heir)
        del self._keys[wish.request.id]
        self._books.inherit(wish.request)
        if not self._lent:
            if not self._served:
                self._world.call_later(0.0, self._tell_served)
            self._served.append(wish.request.id)
        self.waits.observe(self._world.monotonic() - wish.since)

    def set_places(self, protocol: str, count: int) -> None:
        """How many runs of a protocol its hosts can have at once."""
        place = self._place(protocol)
        if self._places.get(place, 0) == count:
            return
        self._places[place] = count
        self._changes += 1
        self._drop_idle()
        if self._books is not None:
            self._books.set_places({place: count})
            self._decide_soon()
        if self._line is not None:
            self._line.send(SetPlaces(self._shard, self._epoch, self._changes, dict(self._places)), _ignore)

    def _place(self, protocol: str) -> str:
        return f"{self._shard}/{protocol}"

    def _place_of(self, who: Who) -> str:
        return self._place(who.protocol) if who.protocol else ""

    def _tell_served(self) -> None:
        served, self._served = self._served, []
        if self._joined and self._line is not None:
            self._line.send(Served(served), _ignore)

    # joining

    def connect(self) -> None:
        """Join with what is held, voiding what earlier incarnations of this shard held."""
        if self._line is None:
            self._line = self._world.line(self._address)
            self._line.watch(self._lost, self._lease_s)
            self._join()

    def _join(self) -> None:
        assert self._line is not None
        self._drop_idle()
        books, lent = self._books, self._lent
        self._books, self._joined, self._lent = None, False, False
        self._joins += 1
        joining = Join(
            shard=self._shard,
            start=self._start,
            epoch=self._epoch,
            join=self._joins,
            claims=[Acquire(*request.to_wire()) for request in self._held.values()],
            change=self._changes,
            places=dict(self._places),
            meters=books.meters(self._world.monotonic()) if books is not None and lent else None,
        )
        join, claimed = self._joins, list(self._held)
        self._line.send(joining, lambda reply: self._on_joined(join, claimed, reply))

    def _on_joined(self, join: int, claimed: list[str], reply: Reply) -> None:
        if reply.error is not None:
            self._lapsed(reply)
            return
        line = self._line
        if line is None or join != self._joins:
            return
        self._joined = True
        joined = reply.read(Joined)
        self._open_books(joined.limits, joined.lowered)
        line.send(Release([ticket for ticket in claimed if ticket not in self._held]), _ignore)
        for id in list(self._wishes):
            self._enter(id)
        for id in list(self._wishes):
            self._send(id)
        line.send(WatchLedger(self._shard, self._epoch, join), _ignore, self._on_books)
        self._renew(line)

    def _send(self, id: str) -> None:
        assert self._line is not None
        wish = self._wishes[id]
        message = Acquire(*wish.request.to_wire())
        wish.number = self._line.send(message, lambda reply: self._granted(id, wish, reply))

    def _granted(self, id: str, wish: _Wish, reply: Reply) -> None:
        if reply.error is None and reply.read(Decided).granted:
            self._is_granted(id, wish)
        elif reply.error is None or isinstance(reply.error, Unknown) or self._wishes.get(id) is not wish:
            return  # decided by the books on loan, or asked again when the line is there again
        else:
            self._lapsed(reply)

    def _is_granted(self, id: str, wish: _Wish) -> None:
        if self._wishes.get(id) is wish:
            if not self._lent:
                self._stints[wish.request.id] = self._world.monotonic() + self._settings.lookahead_s
                self._end_wish(id, wish)
        elif wish.request.id not in self._held and self._line is not None:
            self._line.send(Release([wish.request.id]), _ignore)  # granted as it was withdrawn

    def _end_wish(self, id: str, wish: _Wish) -> None:
        ticket = wish.request.id
        del self._wishes[id], self._keys[ticket]
        self._held[ticket] = wish.request
        if self._books is not None and not self._books.is_granted(ticket):
            self._books.remove(ticket)
            self._books.claim(wish.request)
        self.waits.observe(self._world.monotonic() - wish.since)
        wish.then(ticket)

    def _lapsed(self, reply: Reply) -> None:
        """This supervisor was silent for so long that its permits went to others: it ends, and its hosts with it."""
        if reply.error is not None and not isinstance(reply.error, Unknown):
            self._world.crash(reply.error)

    def _renew(self, line: Connection) -> None:
        if self._line is line and self._joined:
            asked_at = self._world.monotonic()
            line.send(Renew(self._shard), lambda reply: self._renewed(asked_at, reply))
            self._world.call_later(self._lease_s / 3, lambda: self._renew(line))

    def _renewed(self, asked_at: float, reply: Reply) -> None:
        self._lapsed(reply)
        if reply.error is None:
            self._trusted_until = asked_at + TRUST_LEASES * self._lease_s
            self._decide_soon()

    def _lost(self, _error: PodiumError) -> None:
        """The books stay, and are returned to the next incarnation."""
        self._line, self._joined = None, False
        self._world.call_later(_RECONNECT_S, self.connect)

    # the books

    def _open_books(self, limits: Mapping[str, Amount], lowered: Mapping[str, int]) -> None:
        self._books = Ledger(limits, self._settings.age_s, self._settings.weights)
        self._books.lower(lowered)
        self._books.set_places(self._places)
        for request in self._held.values():
            self._books.claim(request)

    def _on_books(self, chunk: list[Value]) -> None:
        said = LEDGER_SAID.read_chunk(chunk)
        match said:
            case Lend():
                self._take_books(said)
            case Recall():
                if self._lent and self._line is not None:
                    self._join()
            case Wanted():
                self._wanted = said.is_wanted
                if said.is_wanted:
                    self._drop_idle()
            case LimitsChanged():
                self._change_limits(said)
            case AskUse():
                if self._line is not None:
                    self._line.send(ReportUse(self._uses()), _ignore)
            case _:
                assert_never(said)

    def _change_limits(self, changed: LimitsChanged) -> None:
        if self._books is not None:
            self._drop_idle()
            self._books.set_limits(changed.limits, self._world.monotonic())
            self._books.lower(changed.lowered)
            self._decide_soon()

    def _take_books(self, loan: Lend) -> None:
        self._drop_idle()
        now = self._world.monotonic()
        self._open_books(loan.limits, loan.lowered)
        assert self._books is not None
        self._books.set_meters(loan.meters, now)
        self._lent = True
        self._stints.clear()
        self._trusted_until = max(self._trusted_until, now + self._lease_s)
        for id, wish in list(self._wishes.items()):
            if wish.request.id in loan.granted:
                self._end_wish(id, wish)
        for id in list(self._wishes):
            self._enter(id)

    def _enter(self, id: str) -> None:
        assert self._books is not None
        self._books.add(self._wishes[id].request)
        self._decide_soon()

    def _decide_soon(self) -> None:
        """Once for all that happens in this turn of the loop."""
        if not self._deciding:
            self._deciding = True
            self._world.call_later(0.0, self._decide_now)

    def _decide_now(self) -> None:
        self._deciding = False
        self._decide()

    def _decide(self) -> None:
        now = self._world.monotonic()
        if self._books is None or not self._lent or now > self._trusted_until:
            return
        for request in self._books.decide(now):
            id = self._keys.get(request.id)
            if id is not None and (wish := self._wishes.get(id)) is not None:
                self._end_wish(id, wish)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = math.inf if self._books is None else self._books.wake_at
        self._timer = None if wake_at == math.inf else self._world.call_later(wake_at - now, self._decide_soon)

    def _uses(self) -> dict[str, Any]:
        return self._books.uses(self._world.monotonic()) if self._books is not None and self._lent else {}


def _ignore(_reply: Reply) -> None:
    """The answer carries nothing; if the other side is lost, `_lost` hears of it."""
