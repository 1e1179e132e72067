"""A supervisor's side of the ResourceActor: wishes, held permits, and both again after it restarted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..protocols.errors import NotFound, PodiumError, Unknown
from ..protocols.values import Value
from .ports import Line, Reply, World
from .waiting import Holder, Request, Who

_RECONNECT_S = 0.2


@dataclass(slots=True)
class _Wish:
    """Permits wished for or held. The request's id is their ticket at the ResourceActor, never used twice."""

    request: Request
    then: Callable[[PodiumError | None], None]
    number: int | None = None


class Permits:
    """Permits of one incarnation of one supervisor, by the key of the job that holds them."""

    def __init__(self, world: World, address: str, shard: str, epoch: int, lease_s: float) -> None:
        self._world, self._address = world, address
        self._shard, self._epoch, self._lease_s = shard, epoch, lease_s
        self._line: Line | None = None
        self._joined = False
        self._wishes: dict[str, _Wish] = {}
        self._held: dict[str, _Wish] = {}
        self._places: dict[str, int] = {}
        self._changes = 0
        self._tickets = itertools.count(1)

    def acquire(self, wish: Request, then: Callable[[PodiumError | None], None]) -> None:
        """Ask for all that `wish` needs, and a place at its protocol's hosts.

        `wish.id` is the caller's key for it; `then` gets None when all is held, or why it never can be.
        """
        ticket = f"{self._shard}@{self._epoch}/{next(self._tickets)}"
        protocol = wish.who.protocol
        who = Who(self._shard.partition(".")[0], protocol, wish.who.user, self._place(protocol))
        request = replace(wish, id=ticket, holder=Holder(self._shard, self._epoch), who=who)
        self._wishes[wish.id] = _Wish(request, then)
        if self._joined:
            self._send(wish.id)
        else:
            self.connect()

    def release(self, id: str) -> None:
        """Give back what `id` holds, or withdraw its wish."""
        wish = self._wishes.pop(id, None)
        if wish is not None and wish.number is not None and self._line is not None:
            self._line.cancel(wish.number)
        held = self._held.pop(id, None)
        if held is not None and self._joined and self._line is not None:
            self._line.send("release", [held.request.id], _ignore)

    def set_places(self, protocol: str, count: int) -> None:
        """How many runs of a protocol its hosts can have at once."""
        place = self._place(protocol)
        if self._places.get(place, 0) != count:
            self._places[place] = count
            self._changes += 1
            if self._line is not None:
                self._line.send("places", self._all_places(), _ignore)

    def _all_places(self) -> list[Value]:
        """With a version, because messages may overtake each other."""
        return [self._shard, [self._epoch, self._changes], dict(self._places)]

    def _place(self, protocol: str) -> str:
        return f"{self._shard}/{protocol}"

    def connect(self) -> None:
        """Join with what is held, voiding what earlier incarnations of this shard held."""
        if self._line is not None:
            return
        self._line = self._world.line(self._address)
        claims: list[list[Value]] = [held.request.to_wire() for held in self._held.values()]
        joining = {"shard": self._shard, "epoch": self._epoch, "claims": claims, "places": self._all_places()}
        self._line.watch(self._lost, self._lease_s)
        self._line.send("join", joining, lambda reply: self._on_joined([claim[0] for claim in claims], reply))

    def _on_joined(self, claimed: list[str], reply: Reply) -> None:
        if reply.error is not None:
            self._lapsed(reply)
            return
        if self._line is None:
            return
        self._joined = True
        held = {wish.request.id for wish in self._held.values()}
        self._line.send("release", [ticket for ticket in claimed if ticket not in held], _ignore)
        for id in list(self._wishes):
            self._send(id)
        self._renew()

    def _send(self, id: str) -> None:
        assert self._line is not None
        wish = self._wishes[id]
        wish.number = self._line.send("acquire", wish.request.to_wire(), lambda reply: self._granted(id, wish, reply))

    def _granted(self, id: str, wish: _Wish, reply: Reply) -> None:
        if isinstance(reply.error, Unknown) or self._wishes.get(id) is not wish:
            if reply.error is None and self._line is not None:
                self._line.send("release", [wish.request.id], _ignore)  # granted as it was withdrawn
            return
        if isinstance(reply.error, NotFound) and reply.error.what == "permit holder":
            self._lapsed(reply)
            return
        del self._wishes[id]
        if reply.error is None:
            self._held[id] = wish
        wish.then(reply.error)

    def _lapsed(self, reply: Reply) -> None:
        """This supervisor was silent for so long that its permits went to others: it ends, and its hosts with it."""
        if reply.error is not None and not isinstance(reply.error, Unknown):
            self._world.crash(reply.error)

    def _renew(self) -> None:
        if self._line is not None and self._joined:
            self._line.send("renew", self._shard, self._lapsed)
            self._world.call_later(self._lease_s / 3, self._renew)

    def _lost(self, _error: PodiumError) -> None:
        self._line, self._joined = None, False
        self._world.call_later(_RECONNECT_S, self.connect)


def _ignore(_reply: Reply) -> None:
    """The answer carries nothing; if the other side is lost, `_lost` hears of it."""
