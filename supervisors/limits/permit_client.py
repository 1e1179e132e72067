"""A supervisor's client of the ResourceActor: it asks for permits, holds them, and joins again after a restart.

Each supervisor has a ledger of its own wishes and permits, with the same limits and rules as the ResourceActor. A
supervisor that alone wants permits gets the *delegated ledger*: its own ledger then grants, without a round trip. When
another supervisor wants permits, the ledger is recalled: this supervisor joins again with the permits that it holds,
and asks the ResourceActor as usual. A borrower that gets no renewal for `TRUST_LEASES` leases stops granting, before
the ResourceActor takes the ledger back.

Without the delegated ledger the ResourceActor grants. Its permits then have a *reuse window* of `lookahead_s`: in this
time they pass on to the next jobs of this supervisor that need exactly the same permits. So many supervisors that share
a scarce quota do not need a round trip for each short step. While nobody waits at the ResourceActor, permits that come
back are kept for `KEEP_IDLE_S`. So a step with a plentiful quota needs no round trip either.
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
"""Seconds for which a supervisor keeps an idle permit that nobody waits for."""
_RECONNECT_S = 0.2


@dataclass(slots=True)
class _Wish:
    """A wish for permits. The id of the request is the ticket at the ResourceActor, which is never used twice."""

    request: Request
    then: Callable[[str], None]
    since: float
    number: int | None = None


class PermitClient:
    """The permits of one incarnation of a supervisor. Wishes are known by the caller's key, held permits by ticket."""

    def __init__(self, world: World, resources: list[Any], shard: str, epoch: int, settings: Governance) -> None:
        """`resources`: the address of the ResourceActor, and the coordinator's number of this supervisor's start."""
        self._world, self._settings = world, settings
        self._address, self._start = resources
        self._shard, self._epoch, self._lease_s = shard, epoch, settings.lease_s
        self._workflow = workflow_of(shard)
        self._line: Connection | None = None
        self._joined = False
        self._wishes: dict[str, _Wish] = {}
        self._held: dict[str, Request] = {}
        self._keys: dict[str, str] = {}
        """By ticket: the caller's key of the wish."""
        self._places: dict[str, int] = {}
        self._changes = self._joins = 0
        self.waits = Histogram()
        """Seconds from the wish to the permits."""
        self._tickets = itertools.count(1)
        self._ledger: Ledger | None = None
        """None as long as this supervisor has not joined."""
        self._is_delegated = False
        """Whether this ledger is the delegated one, the only one that grants."""
        self._reusable_until: dict[str, float] = {}
        """By ticket that the ResourceActor granted: monotonic time at which its reuse window ends."""
        self._trusted_until = -math.inf
        self._wanted = False
        """Whether a supervisor waits for permits at the ResourceActor."""
        self._idle: dict[str, tuple[Hashable, Timer]] = {}
        """Idle permits that are kept: by ticket, their pools and the timer that gives them back."""
        self._handed_over: list[str] = []
        """Tickets of wishes that were served within a reuse window, and are not reported yet."""
        self._timer: Timer | None = None
        self._deciding = False

    def acquire(self, wish: Request, then: Callable[[str], None]) -> None:
        """Ask for all permits that `wish` needs, and for a place at the hosts of its protocol, if it names one.

        `wish.id` is the caller's key of the wish. `then` is called with the ticket when all permits are held.
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
        if self._ledger is not None:
            self._enter(wish.id)
        if self._joined and not self._is_delegated:
            self._send(wish.id)
        elif not self._is_delegated:
            self.connect()

    def withdraw(self, id: str) -> None:
        """Withdraw the wish with this key."""
        wish = self._wishes.pop(id)
        del self._keys[wish.request.id]
        if self._ledger is not None:
            self._ledger.remove(wish.request.id)
        if self._is_delegated:
            self._decide_soon()
        elif wish.number is not None and self._line is not None:
            self._line.cancel(wish.number)

    def _kept_for(self, request: Request) -> str | None:
        """Return the ticket of idle permits that are exactly what the request needs, or None."""
        if not self._idle or self._ledger is None:
            return None
        wanted = self._ledger.pools_of(request)
        ticket = next((ticket for ticket, (pools, _) in self._idle.items() if pools == wanted), None)
        if ticket is not None:
            self._idle.pop(ticket)[1].cancel()
        return ticket

    def release(self, ticket: str) -> None:
        """Release the permits of a ticket. They are kept for `KEEP_IDLE_S` if no other supervisor waits for permits."""
        if self._may_keep(ticket):
            timer = self._world.call_later(KEEP_IDLE_S, partial(self._drop, ticket))
            self._idle[ticket] = self.pools(ticket), timer
        else:
            self._give_back(ticket)

    def _may_keep(self, ticket: str) -> bool:
        is_calm = self._joined and not self._is_delegated and not self._wanted and not self._wishes
        return is_calm and self._ledger is not None and self._ledger.may_serve_again(ticket)

    def _drop(self, ticket: str) -> None:
        self._idle.pop(ticket)[1].cancel()
        self._give_back(ticket)

    def _drop_idle(self) -> None:
        for ticket in list(self._idle):
            self._drop(ticket)

    def _give_back(self, ticket: str) -> None:
        del self._held[ticket]
        self._reusable_until.pop(ticket, None)
        if self._ledger is not None:
            self._ledger.remove(ticket)
        if self._is_delegated:
            self._decide()  # at once, so that the next job is on its way before the result is committed
        elif self._joined and self._line is not None:
            self._line.send(Release([ticket]), _ignore)

    def limit(self, quota: str) -> float | None:
        """Permits of a quota in the whole cluster; None if that is not known here."""
        return None if self._ledger is None else self._ledger.limit(quota)

    def charge(self, who: Who, amounts: Mapping[str, float]) -> None:
        """Count that more (or, if negative, less) of some rates was used than was asked for."""
        whom = who._replace(workflow=self._workflow)
        if self._ledger is not None and self._is_delegated:
            self._ledger.charge(whom, amounts, self._world.monotonic())
            self._decide_soon()
        elif self._line is not None:
            self._line.send(Charge(whom, dict(amounts)), _ignore)

    def pools(self, ticket: str) -> Hashable:
        """Key of the permits behind a ticket; two tickets with equal keys are interchangeable."""
        return ticket if self._ledger is None else self._ledger.pools_of(self._held[ticket])

    def next_waiter(self, ticket: str) -> str | None:
        """Return the key of the wish that may take over the permits of a ticket, as if they were released now.

        None also if this supervisor may not decide: it does not have the delegated ledger and the reuse window is over.
        """
        now = self._world.monotonic()
        until = self._trusted_until if self._is_delegated else self._reusable_until.get(ticket, -math.inf)
        if self._ledger is None or now > until:
            return None
        request = self._ledger.next_waiter(ticket, now if self._is_delegated else None)
        return None if request is None else self._keys[request.id]

    def hand_over(self, key: str) -> None:
        """End a wish without permits of its own: its job will use the permits of a job before it."""
        assert self._ledger is not None
        wish = self._wishes.pop(key)
        del self._keys[wish.request.id]
        self._ledger.hand_over(wish.request)
        if not self._is_delegated:
            if not self._handed_over:
                self._world.call_later(0.0, self._report_handed_over)
            self._handed_over.append(wish.request.id)
        self.waits.observe(self._world.monotonic() - wish.since)

    def set_places(self, protocol: str, count: int) -> None:
        """Set the number of runs that the hosts of a protocol can have at once."""
        place = self._place(protocol)
        if self._places.get(place, 0) == count:
            return
        self._places[place] = count
        self._changes += 1
        self._drop_idle()
        if self._ledger is not None:
            self._ledger.set_places({place: count})
            self._decide_soon()
        if self._line is not None:
            self._line.send(SetPlaces(self._shard, self._epoch, self._changes, dict(self._places)), _ignore)

    def _place(self, protocol: str) -> str:
        return f"{self._shard}/{protocol}"

    def _place_of(self, who: Who) -> str:
        return self._place(who.protocol) if who.protocol else ""

    def _report_handed_over(self) -> None:
        tickets, self._handed_over = self._handed_over, []
        if self._joined and self._line is not None:
            self._line.send(Served(tickets), _ignore)

    # joining

    def connect(self) -> None:
        """Join the ResourceActor with the permits held here; this voids the permits of earlier incarnations."""
        if self._line is None:
            self._line = self._world.line(self._address)
            self._line.watch(self._lost, self._lease_s)
            self._join()

    def _join(self) -> None:
        assert self._line is not None
        self._drop_idle()
        ledger, was_delegated = self._ledger, self._is_delegated
        self._ledger, self._joined, self._is_delegated = None, False, False
        self._joins += 1
        joining = Join(
            shard=self._shard,
            start=self._start,
            epoch=self._epoch,
            join=self._joins,
            claims=[Acquire(*request.to_wire()) for request in self._held.values()],
            change=self._changes,
            places=dict(self._places),
            meters=ledger.meters(self._world.monotonic()) if ledger is not None and was_delegated else None,
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
        self._open_ledger(joined.limits, joined.lowered)
        line.send(Release([ticket for ticket in claimed if ticket not in self._held]), _ignore)
        for id in list(self._wishes):
            self._enter(id)
        for id in list(self._wishes):
            self._send(id)
        line.send(WatchLedger(self._shard, self._epoch, join), _ignore, self._on_ledger_said)
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
            return  # the delegated ledger decides, or the wish is sent again after reconnecting
        else:
            self._lapsed(reply)

    def _is_granted(self, id: str, wish: _Wish) -> None:
        if self._wishes.get(id) is wish:
            if not self._is_delegated:
                self._reusable_until[wish.request.id] = self._world.monotonic() + self._settings.lookahead_s
                self._end_wish(id, wish)
        elif wish.request.id not in self._held and self._line is not None:
            self._line.send(Release([wish.request.id]), _ignore)  # granted as it was withdrawn

    def _end_wish(self, id: str, wish: _Wish) -> None:
        ticket = wish.request.id
        del self._wishes[id], self._keys[ticket]
        self._held[ticket] = wish.request
        if self._ledger is not None and not self._ledger.is_granted(ticket):
            self._ledger.remove(ticket)
            self._ledger.claim(wish.request)
        self.waits.observe(self._world.monotonic() - wish.since)
        wish.then(ticket)

    def _lapsed(self, reply: Reply) -> None:
        """Crash this supervisor, and its hosts with it, if it was silent for so long that others got its permits."""
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
        """Reconnect after the loss of the ResourceActor. The ledger stays; it is returned with the next join."""
        self._line, self._joined = None, False
        self._world.call_later(_RECONNECT_S, self.connect)

    # the ledger

    def _open_ledger(self, limits: Mapping[str, Amount], lowered: Mapping[str, int]) -> None:
        self._ledger = Ledger(limits, self._settings.age_s, self._settings.weights)
        self._ledger.lower(lowered)
        self._ledger.set_places(self._places)
        for request in self._held.values():
            self._ledger.claim(request)

    def _on_ledger_said(self, chunk: list[Value]) -> None:
        said = LEDGER_SAID.read_chunk(chunk)
        match said:
            case Lend():
                self._take_ledger(said)
            case Recall():
                if self._is_delegated and self._line is not None:
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
        if self._ledger is not None:
            self._drop_idle()
            self._ledger.set_limits(changed.limits, self._world.monotonic())
            self._ledger.lower(changed.lowered)
            self._decide_soon()

    def _take_ledger(self, loan: Lend) -> None:
        self._drop_idle()
        now = self._world.monotonic()
        self._open_ledger(loan.limits, loan.lowered)
        assert self._ledger is not None
        self._ledger.set_meters(loan.meters, now)
        self._is_delegated = True
        self._reusable_until.clear()
        self._trusted_until = max(self._trusted_until, now + self._lease_s)
        for id, wish in list(self._wishes.items()):
            if wish.request.id in loan.granted:
                self._end_wish(id, wish)
        for id in list(self._wishes):
            self._enter(id)

    def _enter(self, id: str) -> None:
        assert self._ledger is not None
        self._ledger.add(self._wishes[id].request)
        self._decide_soon()

    def _decide_soon(self) -> None:
        """Call `_decide` once for everything that happens in this turn of the event loop."""
        if not self._deciding:
            self._deciding = True
            self._world.call_later(0.0, self._decide_now)

    def _decide_now(self) -> None:
        self._deciding = False
        self._decide()

    def _decide(self) -> None:
        now = self._world.monotonic()
        if self._ledger is None or not self._is_delegated or now > self._trusted_until:
            return
        for request in self._ledger.decide(now):
            id = self._keys.get(request.id)
            if id is not None and (wish := self._wishes.get(id)) is not None:
                self._end_wish(id, wish)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = math.inf if self._ledger is None else self._ledger.wake_at
        self._timer = None if wake_at == math.inf else self._world.call_later(wake_at - now, self._decide_soon)

    def _uses(self) -> dict[str, Any]:
        return self._ledger.uses(self._world.monotonic()) if self._ledger is not None and self._is_delegated else {}


def _ignore(_reply: Reply) -> None:
    """Ignore a reply that carries nothing. If the ResourceActor is lost, `_lost` is called."""
