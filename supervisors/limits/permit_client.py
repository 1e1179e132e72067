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

What follows from who grants is in `regimes.py`. This file joins the ResourceActor, and changes from regime to regime.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, assert_never

from ...protocols.errors import PodiumError, Unknown
from ...protocols.limits import Amount
from ...protocols.probes import hit
from ...protocols.values import Value
from ..figures.counters import Histogram
from ..messages.resources import (
    LEDGER_SAID,
    Acquire,
    AskUse,
    Join,
    Joined,
    Lend,
    LimitsChanged,
    Recall,
    Release,
    Renew,
    ReportUse,
    SetPlaces,
    Wanted,
    WatchLedger,
)
from ..ports.messaging import Connection, Reply
from ..ports.world import World
from ..settings import Governance
from ..shards import workflow_of
from .account import Account
from .ledger import Ledger
from .permit_queue import Holder, Request, Who
from .regimes import Asking, Borrowing, Unjoined

TRUST_LEASES = 2
_RECONNECT_S = 0.2


class PermitClient:
    """The permits of one incarnation of a supervisor. Wishes are known by the caller's key, held permits by ticket."""

    def __init__(self, world: World, resources: list[Any], shard: str, epoch: int, settings: Governance) -> None:
        """`resources`: the address of the ResourceActor, and the coordinator's number of this supervisor's start."""
        self._world, self._settings = world, settings
        self._address, self._start = resources
        self._shard, self._epoch, self._lease_s = shard, epoch, settings.lease_s
        self._workflow = workflow_of(shard)
        self._account = Account(world, settings)
        self._regime = Unjoined(self._account)
        self._places: dict[str, int] = {}
        self._changes = self._joins = 0
        self._tickets = itertools.count(1)
        self._trusted_until = -math.inf

    @property
    def waits(self) -> Histogram:
        """Seconds from the wish to the permits."""
        return self._account.waits

    def acquire(self, wish: Request, then: Callable[[str], None]) -> None:
        """Ask for all permits that `wish` needs, and for a place at the hosts of its protocol, if it names one.

        `wish.id` is the caller's key of the wish. `then` is called with the ticket when all permits are held.
        """
        ticket = f"{self._shard}@{self._epoch}/{next(self._tickets)}"
        who = wish.who._replace(workflow=self._workflow, place=self._place_of(wish.who))
        request = wish._replace(id=ticket, holder=Holder(self._shard, self._epoch), who=who)
        if (kept := self._regime.kept_for(request)) is not None:
            self.waits.observe(0.0)
            then(kept)
            return
        self._regime.enter(self._account.add(wish.id, request, then))
        if not self._regime.may_grant:
            self.connect()

    def withdraw(self, id: str) -> None:
        """Withdraw the wish with this key."""
        self._regime.withdraw(self._account.take(id))

    def release(self, ticket: str) -> None:
        """Release the permits of a ticket. They may be kept for a while, if no other supervisor waits for permits."""
        self._regime.release(ticket)

    def limit(self, quota: str) -> float | None:
        """Permits of a quota in the whole cluster; None if that is not known here."""
        return self._regime.limit(quota)

    def count_lacking(self, protocol: str, then: Callable[[int], None]) -> None:
        """Tell `then` how many wishes wait for nothing but a place at the hosts of a protocol; 0 if it is not known.

        It may be told later, or at once. If the ResourceActor is lost meanwhile, it is told 0.
        """
        self._regime.count_lacking(self._place(protocol), then)

    def charge(self, who: Who, amounts: Mapping[str, float]) -> None:
        """Count that more (or, if negative, less) of some rates was used than was asked for."""
        self._regime.charge(who._replace(workflow=self._workflow), amounts)

    def pools(self, ticket: str) -> Hashable:
        """Key of the permits behind a ticket; two tickets with equal keys are interchangeable."""
        return self._regime.pools(ticket)

    def next_waiter(self, ticket: str) -> str | None:
        """Return the key of the wish that may take over the permits of a ticket, as if they were released now.

        None also if this supervisor may not decide: it does not have the delegated ledger and the reuse window is over.
        """
        return self._regime.next_waiter(ticket)

    def hand_over(self, key: str) -> None:
        """End a wish without permits of its own: its job will use the permits of a job before it."""
        wish = self._account.take(key)
        self._regime.hand_over(wish)
        self._account.served(wish)

    def set_places(self, protocol: str, count: int) -> None:
        """Set the number of runs that the hosts of a protocol can have at once."""
        place = self._place(protocol)
        if self._places.get(place, 0) == count:
            return
        self._places[place] = count
        self._changes += 1
        self._regime.set_places({place: count})
        self._account.tell(SetPlaces(self._shard, self._epoch, self._changes, dict(self._places)))

    def _place(self, protocol: str) -> str:
        return f"{self._shard}/{protocol}"

    def _place_of(self, who: Who) -> str:
        return self._place(who.protocol) if who.protocol else ""

    # joining

    def connect(self) -> None:
        """Join the ResourceActor with the permits held here; this voids the permits of earlier incarnations."""
        if self._account.line is None:
            meters = self._leave()
            line = self._account.line = self._world.line(self._address)
            line.watch(self._lost, self._lease_s)
            self._join(line, meters)

    def _leave(self) -> list[Any] | None:
        """End the present regime; returns the meters of the rates, if only this supervisor knows them."""
        self._regime.leave()
        meters, self._regime = self._regime.meters(), Unjoined(self._account)
        return meters

    def _join(self, line: Connection, meters: list[Any] | None) -> None:
        self._joins += 1
        joining = Join(
            shard=self._shard,
            start=self._start,
            epoch=self._epoch,
            join=self._joins,
            claims=[Acquire(*request.to_wire()) for request in self._account.held.values()],
            change=self._changes,
            places=dict(self._places),
            meters=meters,
        )
        line.send(joining, partial(self._on_joined, line, self._joins, list(self._account.held)))

    def _on_joined(self, line: Connection, join: int, claimed: list[str], reply: Reply) -> None:
        if reply.error is not None:
            self._crash_if_lapsed(reply)
            return
        if self._account.line is not line or join != self._joins:
            return
        joined, account = reply.read(Joined), self._account
        self._regime = Asking(account, self._open_ledger(joined.limits, joined.lowered))
        account.tell(Release([ticket for ticket in claimed if ticket not in account.held]))
        for wish in list(account.wishes.values()):
            self._regime.enter(wish)
        line.send(WatchLedger(self._shard, self._epoch, join), _ignore, self._on_ledger_said)
        self._renew(line)

    def _open_ledger(self, limits: Mapping[str, Amount], lowered: Mapping[str, int]) -> Ledger:
        ledger = Ledger(limits, self._settings.age_s, self._settings.weights)
        ledger.lower(lowered)
        ledger.set_places(self._places)
        return ledger

    def _crash_if_lapsed(self, reply: Reply) -> None:
        """Crash this supervisor, and its hosts with it, if it was silent for so long that others got its permits."""
        if reply.error is not None and not isinstance(reply.error, Unknown):
            self._world.crash(reply.error)

    def _renew(self, line: Connection) -> None:
        if self._account.line is line and self._regime.is_joined:
            asked_at = self._world.monotonic()
            line.send(Renew(self._shard), partial(self._renewed, asked_at))
            self._world.call_later(self._lease_s / 3, partial(self._renew, line))

    def _renewed(self, asked_at: float, reply: Reply) -> None:
        self._crash_if_lapsed(reply)
        if reply.error is None:
            self._trusted_until = asked_at + TRUST_LEASES * self._lease_s
            self._regime.trust_until(self._trusted_until)

    def _lost(self, _error: PodiumError) -> None:
        """Reconnect after the loss of the ResourceActor. The ledger stays; it is returned with the next join."""
        hit("ResourceActor lost")
        self._account.line = None
        self._world.call_later(_RECONNECT_S, self.connect)

    # the ledger

    def _on_ledger_said(self, chunk: list[Value]) -> None:
        said = LEDGER_SAID.read_chunk(chunk)
        match said:
            case Lend():
                self._borrow(said)
            case Recall():
                self._return_ledger()
            case Wanted():
                self._regime.waited_for(said.is_wanted)
            case LimitsChanged():
                self._regime.change_limits(said)
            case AskUse():
                self._account.tell(ReportUse(self._regime.uses()))
            case _:
                assert_never(said)

    def _borrow(self, loan: Lend) -> None:
        hit("books lent")
        self._regime.leave()
        until = max(self._trusted_until, self._world.monotonic() + self._lease_s)
        borrowing = Borrowing(self._account, self._open_ledger(loan.limits, loan.lowered), loan, until)
        self._regime = borrowing
        borrowing.take_granted(loan.granted)
        for wish in list(self._account.wishes.values()):
            borrowing.enter(wish)

    def _return_ledger(self) -> None:
        if self._regime.may_grant and (line := self._account.line) is not None:
            self._join(line, self._leave())


def _ignore(_reply: Reply) -> None:
    """Ignore a reply that carries nothing. If the ResourceActor is lost, `_lost` is called."""
