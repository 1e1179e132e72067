"""The permits that one supervisor wants and holds, and its connection to the ResourceActor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..figures.counters import Histogram
from ..ports.messaging import Connection, Message, Reply
from ..ports.world import World
from ..settings import Governance
from .permit_queue import Request


@dataclass(slots=True, eq=False)
class Wish:
    """A wish for permits. The id of the request is the ticket at the ResourceActor, which is never used twice."""

    key: str
    """The caller's key of the wish."""
    request: Request
    then: Callable[[str], None]
    """Called with the ticket when all permits are held."""
    since: float
    number: int | None = None
    """Number of the message to the ResourceActor, if one was sent."""

    @property
    def ticket(self) -> str:
        return self.request.id


class Account:
    """The part of a PermitClient that its regimes share. Wishes go by the caller's key, held permits by ticket."""

    def __init__(self, world: World, settings: Governance) -> None:
        self.world, self.settings = world, settings
        self.line: Connection | None = None
        self.wishes: dict[str, Wish] = {}
        self.held: dict[str, Request] = {}
        self.waits = Histogram()
        """Seconds from the wish to the permits."""
        self._by_ticket: dict[str, Wish] = {}

    def add(self, key: str, request: Request, then: Callable[[str], None]) -> Wish:
        """Enter a wish."""
        wish = Wish(key, request, then, self.world.monotonic())
        self.wishes[key] = self._by_ticket[request.id] = wish
        return wish

    def take(self, key: str) -> Wish:
        """Take a wish out: it is withdrawn, or served."""
        wish = self.wishes.pop(key)
        del self._by_ticket[wish.ticket]
        return wish

    def wish_of(self, ticket: str) -> Wish | None:
        return self._by_ticket.get(ticket)

    def is_open(self, wish: Wish) -> bool:
        return self.wishes.get(wish.key) is wish

    def grant(self, wish: Wish) -> None:
        """End a wish: its permits are held, and the caller goes on."""
        self.take(wish.key)
        self.held[wish.ticket] = wish.request
        self.served(wish)
        wish.then(wish.ticket)

    def served(self, wish: Wish) -> None:
        """Count the time that a wish has waited."""
        self.waits.observe(self.world.monotonic() - wish.since)

    def tell(self, message: Message) -> None:
        """Send a message whose reply carries nothing. It is lost with the ResourceActor, which asks anew at a join."""
        if self.line is not None:
            self.line.send(message, _ignore)


def _ignore(_reply: Reply) -> None:
    """Ignore a reply that carries nothing. If the ResourceActor is lost, the connection says so."""
