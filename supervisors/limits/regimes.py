"""The regimes of permits: nobody grants yet (`Unjoined`), the ResourceActor grants (`Asking`), or we do (`Borrowing`).

A PermitClient is in one of these regimes at a time, and passes on to it all that its caller asks for. The rules for the
change from one to the next are in `permit_client.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from ...protocols.errors import Unknown
from ...protocols.probes import hit
from ..messages.resources import (
    Acquire,
    AskPlaces,
    Charge,
    Decided,
    Lend,
    LimitsChanged,
    PlacesLacking,
    Release,
    Served,
)
from ..ports.messaging import Reply
from ..ports.world import Timer
from .account import Account, Wish
from .ledger import Ledger
from .permit_queue import Request, Who

KEEP_IDLE_S = 1.0
"""Seconds for which a supervisor keeps an idle permit that nobody waits for."""


class Unjoined:
    """The ResourceActor has not answered the join yet. Nothing is granted or handed over; wishes are kept.

    The other regimes change what they do differently.
    """

    is_joined = False
    may_grant = False
    """Whether this supervisor grants permits without the ResourceActor."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def kept_for(self, _request: Request) -> str | None:
        """Return the ticket of idle permits that are exactly what the request needs, or None."""
        return None

    def enter(self, wish: Wish) -> None:
        """Take a wish that was entered in the account."""

    def withdraw(self, wish: Wish) -> None:
        """Forget a wish that was taken out of the account."""

    def release(self, ticket: str) -> None:
        """Release the permits of a ticket."""
        del self._account.held[ticket]

    def next_waiter(self, _ticket: str) -> str | None:
        """Return the key of the wish that may take over the permits of a ticket, as if they were released now."""
        return None

    def hand_over(self, _wish: Wish) -> None:
        """A wish that `next_waiter` returned has been served with the permits of a job before it."""

    def pools(self, ticket: str) -> Hashable:
        """Key of the permits behind a ticket; two tickets with equal keys are interchangeable."""
        return ticket

    def limit(self, _quota: str) -> float | None:
        """Permits of a quota in the whole cluster; None if that is not known here."""
        return None

    def count_lacking(self, _place: str, then: Callable[[int], None]) -> None:
        """Tell how many wishes wait for nothing but a place at some hosts; 0 if it is not known."""
        then(0)

    def charge(self, who: Who, amounts: Mapping[str, float]) -> None:
        """Count that more (or, if negative, less) of some rates was used than was asked for."""
        self._account.tell(Charge(who, dict(amounts)))

    def set_places(self, _places: Mapping[str, int]) -> None:
        """Take the number of runs that hosts of some protocols can have at once."""

    def change_limits(self, _changed: LimitsChanged) -> None:
        """Take limits that were changed."""

    def waited_for(self, _is_wanted: bool) -> None:
        """Take whether any supervisor waits for permits at the ResourceActor."""

    def trust_until(self, _time: float) -> None:
        """Take the monotonic time until which the ResourceActor surely counts on this supervisor."""

    def uses(self) -> dict[str, Any]:
        """The use of each limit, if this supervisor alone knows it."""
        return {}

    def meters(self) -> list[Any] | None:
        """The meters of all rates, if this supervisor alone knows them."""
        return None

    def leave(self) -> None:
        """End this regime: give back what only it may keep."""


class _Joined(Unjoined):
    """The part that is the same whoever grants: a ledger with the wishes and permits of this supervisor."""

    is_joined = True

    def __init__(self, account: Account, ledger: Ledger) -> None:
        super().__init__(account)
        self._ledger = ledger
        for request in account.held.values():
            ledger.claim(request)

    def withdraw(self, wish: Wish) -> None:
        self._ledger.remove(wish.ticket)

    def pools(self, ticket: str) -> Hashable:
        return self._ledger.pools_of(self._account.held[ticket])

    def limit(self, quota: str) -> float | None:
        return self._ledger.limit(quota)

    def set_places(self, places: Mapping[str, int]) -> None:
        self._ledger.set_places(places)

    def change_limits(self, changed: LimitsChanged) -> None:
        self._ledger.set_limits(changed.limits, self._now())
        self._ledger.lower(changed.lowered)

    def _now(self) -> float:
        return self._account.world.monotonic()


class Asking(_Joined):
    """The ResourceActor grants. The ledger tells only which permits could serve which wish."""

    def __init__(self, account: Account, ledger: Ledger) -> None:
        super().__init__(account, ledger)
        self._reusable_until: dict[str, float] = {}
        """By ticket: monotonic time at which its reuse window ends."""
        self._idle: dict[str, tuple[Hashable, Timer]] = {}
        """Idle permits that are kept: by ticket, their pools and the timer that gives them back."""
        self._is_wanted = False
        self._is_left = False
        self._handed_over: list[str] = []
        """Tickets of wishes that were served within a reuse window, and are not reported yet."""

    def kept_for(self, request: Request) -> str | None:
        if not self._idle:
            return None
        hit("idle permits are there")
        wanted = self._ledger.pools_of(request)
        ticket = next((ticket for ticket, (pools, _) in self._idle.items() if pools == wanted), None)
        if ticket is not None:
            self._idle.pop(ticket)[1].cancel()
        return ticket

    def enter(self, wish: Wish) -> None:
        self._ledger.add(wish.request)
        if (line := self._account.line) is not None:
            wish.number = line.send(Acquire(*wish.request.to_wire()), partial(self._answered, wish))

    def withdraw(self, wish: Wish) -> None:
        super().withdraw(wish)
        if wish.number is None:
            return
        hit("wish withdrawn")
        if (line := self._account.line) is not None:
            line.cancel(wish.number)

    def release(self, ticket: str) -> None:
        """Keep the permits for `KEEP_IDLE_S` if nobody waits for any, else give them back."""
        if self._may_keep(ticket):
            timer = self._account.world.call_later(KEEP_IDLE_S, partial(self._drop, ticket))
            self._idle[ticket] = self.pools(ticket), timer
        else:
            self._give_back(ticket)

    def next_waiter(self, ticket: str) -> str | None:
        if self._now() > self._reusable_until.get(ticket, -math.inf):
            return None
        return _key_of(self._account, self._ledger.next_waiter(ticket, None))

    def hand_over(self, wish: Wish) -> None:
        hit("waits in a reuse window")
        self._ledger.hand_over(wish.request)
        if not self._handed_over:
            self._account.world.call_later(0.0, self._report_handed_over)
        self._handed_over.append(wish.ticket)

    def count_lacking(self, place: str, then: Callable[[int], None]) -> None:
        """Ask the ResourceActor, as only that knows who else has permits."""
        if (line := self._account.line) is None:
            then(0)
        else:
            line.send(AskPlaces(place), lambda reply: then(_lacking(reply)))

    def set_places(self, places: Mapping[str, int]) -> None:
        self._drop_idle()
        super().set_places(places)

    def change_limits(self, changed: LimitsChanged) -> None:
        self._drop_idle()
        super().change_limits(changed)

    def waited_for(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        if is_wanted:
            self._drop_idle()

    def leave(self) -> None:
        self._drop_idle()
        self._is_left = True

    def _answered(self, wish: Wish, reply: Reply) -> None:
        """If it is not granted, the delegated ledger decides, or the wish is sent again after the next join."""
        is_open = self._account.is_open(wish)
        if reply.error is not None:
            if is_open and not isinstance(reply.error, Unknown):
                self._account.world.crash(reply.error)
        elif not reply.read(Decided).granted:
            pass
        elif is_open and not self._is_left:
            self._granted(wish)
        elif not is_open and wish.ticket not in self._account.held:
            self._account.tell(Release([wish.ticket]))  # granted as it was withdrawn

    def _granted(self, wish: Wish) -> None:
        self._reusable_until[wish.ticket] = self._now() + self._account.settings.lookahead_s
        self._ledger.remove(wish.ticket)
        self._ledger.claim(wish.request)
        self._account.grant(wish)

    def _may_keep(self, ticket: str) -> bool:
        is_calm = self._account.line is not None and not self._is_wanted and not self._account.wishes
        return is_calm and self._ledger.may_serve_again(ticket)

    def _drop(self, ticket: str) -> None:
        self._idle.pop(ticket)[1].cancel()
        self._give_back(ticket)

    def _drop_idle(self) -> None:
        for ticket in list(self._idle):
            hit("idle permits dropped")
            self._drop(ticket)

    def _give_back(self, ticket: str) -> None:
        super().release(ticket)
        self._reusable_until.pop(ticket, None)
        self._ledger.remove(ticket)
        self._account.tell(Release([ticket]))

    def _report_handed_over(self) -> None:
        tickets, self._handed_over = self._handed_over, []
        if not self._is_left:
            self._account.tell(Served(tickets))


class Borrowing(_Joined):
    """This supervisor has the delegated ledger: its ledger grants as long as the ResourceActor surely counts on it."""

    may_grant = True

    def __init__(self, account: Account, ledger: Ledger, loan: Lend, trusted_until: float) -> None:
        super().__init__(account, ledger)
        ledger.set_meters(loan.meters, self._now())
        self._trusted_until = trusted_until
        self._timer: Timer | None = None
        self._deciding = False

    def take_granted(self, tickets: Iterable[str]) -> None:
        """Take permits that the ResourceActor had granted before it lent the ledger."""
        for wish in filter(None, map(self._account.wish_of, tickets)):
            self._ledger.claim(wish.request)
            self._account.grant(wish)

    def enter(self, wish: Wish) -> None:
        self._ledger.add(wish.request)
        self._decide_soon()

    def withdraw(self, wish: Wish) -> None:
        super().withdraw(wish)
        self._decide_soon()

    def release(self, ticket: str) -> None:
        """Decide at once, so that the next job is on its way before the result of the last one is committed."""
        super().release(ticket)
        self._ledger.remove(ticket)
        self._decide()

    def next_waiter(self, ticket: str) -> str | None:
        now = self._now()
        return None if now > self._trusted_until else _key_of(self._account, self._ledger.next_waiter(ticket, now))

    def hand_over(self, wish: Wish) -> None:
        hit("waits in a lane")
        self._ledger.hand_over(wish.request)

    def count_lacking(self, place: str, then: Callable[[int], None]) -> None:
        now = self._now()
        then(0 if now > self._trusted_until else self._ledger.lacking_places(place, now))

    def charge(self, who: Who, amounts: Mapping[str, float]) -> None:
        self._ledger.charge(who, amounts, self._now())
        self._decide_soon()

    def set_places(self, places: Mapping[str, int]) -> None:
        super().set_places(places)
        self._decide_soon()

    def change_limits(self, changed: LimitsChanged) -> None:
        super().change_limits(changed)
        self._decide_soon()

    def trust_until(self, time: float) -> None:
        self._trusted_until = time
        self._decide_soon()

    def uses(self) -> dict[str, Any]:
        return self._ledger.uses(self._now())

    def meters(self) -> list[Any] | None:
        return self._ledger.meters(self._now())

    def leave(self) -> None:
        self._trusted_until = -math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _decide_soon(self) -> None:
        """Call `_decide` once for everything that happens in this turn of the event loop."""
        if not self._deciding:
            self._deciding = True
            self._account.world.call_later(0.0, self._decide_now)

    def _decide_now(self) -> None:
        self._deciding = False
        self._decide()

    def _decide(self) -> None:
        now = self._now()
        if now > self._trusted_until:
            return
        for request in self._ledger.decide(now):
            if (wish := self._account.wish_of(request.id)) is not None:
                self._account.grant(wish)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self._ledger.wake_at
        is_over = wake_at == math.inf
        self._timer = None if is_over else self._account.world.call_later(wake_at - now, self._decide_soon)


def _lacking(reply: Reply) -> int:
    return 0 if reply.error is not None else reply.read(PlacesLacking).requests


def _key_of(account: Account, request: Request | None) -> str | None:
    wish = None if request is None else account.wish_of(request.id)
    return None if wish is None else wish.key
