"""A supervisor's side of the ResourceActor: wishes, held permits, and both again after it restarted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..protocols.errors import NotFound, PodiumError, Unknown
from .ports import Line, Reply, World

_RECONNECT_S = 0.2


@dataclass(slots=True)
class _Wish:
    """Permits wished for or held. The ticket is their name at the ResourceActor, never used twice."""

    ticket: str
    needs: Mapping[str, int]
    who: tuple[str, str, str]
    """Workflow, protocol and user for whom."""
    priority: int
    then: Callable[[PodiumError | None], None]
    number: int | None = None


class Permits:
    """Permits of one incarnation of one supervisor, by the `id()` of the job that holds them."""

    def __init__(self, world: World, address: str, shard: str, epoch: int, lease_s: float) -> None:
        self._world, self._address = world, address
        self._shard, self._epoch, self._lease_s = shard, epoch, lease_s
        self._line: Line | None = None
        self._joined = False
        self._wishes: dict[int, _Wish] = {}
        self._held: dict[int, _Wish] = {}
        self._tickets = itertools.count(1)

    def acquire(
        self,
        id: int,
        needs: Mapping[str, int],
        who: tuple[str, str],
        priority: int,
        then: Callable[[PodiumError | None], None],
    ) -> None:
        """Ask for all of `needs`; `then` gets None when they are held, or why they never can be.

        Args:
            who: the protocol and the user for whom.
        """
        ticket = f"{self._shard}@{self._epoch}/{next(self._tickets)}"
        workflow = self._shard.partition(".")[0]
        self._wishes[id] = _Wish(ticket, needs, (workflow, *who), priority, then)
        if self._joined:
            self._send(id)
        else:
            self.connect()

    def release(self, id: int) -> None:
        """Give back what `id` holds, or withdraw its wish."""
        wish = self._wishes.pop(id, None)
        if wish is not None and wish.number is not None and self._line is not None:
            self._line.cancel(wish.number)
        held = self._held.pop(id, None)
        if held is not None and self._joined and self._line is not None:
            self._line.send("release", [held.ticket], _ignore)

    def connect(self) -> None:
        """Join with what is held, voiding what earlier incarnations of this shard held."""
        if self._line is not None:
            return
        self._line = self._world.line(self._address)
        claims: list[list[Any]] = [[held.ticket, dict(held.needs), list(held.who)] for held in self._held.values()]
        joining = {"shard": self._shard, "epoch": self._epoch, "claims": claims}
        self._line.watch(self._lost, self._lease_s)
        self._line.send("join", joining, lambda reply: self._on_joined([claim[0] for claim in claims], reply))

    def _on_joined(self, claimed: list[str], reply: Reply) -> None:
        if reply.error is not None:
            self._lapsed(reply)
            return
        if self._line is None:
            return
        self._joined = True
        held = {wish.ticket for wish in self._held.values()}
        self._line.send("release", [ticket for ticket in claimed if ticket not in held], _ignore)
        for id in list(self._wishes):
            self._send(id)
        self._renew()

    def _send(self, id: int) -> None:
        assert self._line is not None
        wish = self._wishes[id]
        message = {
            "id": wish.ticket,
            "shard": self._shard,
            "epoch": self._epoch,
            "needs": dict(wish.needs),
            "who": list(wish.who),
            "priority": wish.priority,
        }
        wish.number = self._line.send("acquire", message, lambda reply: self._granted(id, wish, reply))

    def _granted(self, id: int, wish: _Wish, reply: Reply) -> None:
        if isinstance(reply.error, Unknown) or self._wishes.get(id) is not wish:
            if reply.error is None and self._line is not None:
                self._line.send("release", [wish.ticket], _ignore)  # granted as it was withdrawn
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
