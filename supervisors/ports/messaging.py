"""How actors talk: messages, the connection to another actor, what comes in, and what an actor is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from ...protocols.errors import PodiumError
from ...protocols.values import Value

T = TypeVar("T")
Message: TypeAlias = tuple[Any, ...]
"""A NamedTuple of `supervisors/messages/`."""


@dataclass(slots=True)
class Reply:
    """The answer to one message: the fields of the class that the message names, or an error."""

    fields: Value = ()
    error: PodiumError | None = None

    def read(self, form: Callable[..., T]) -> T:
        """The reply as its class. Raises the error, if the answer is one."""
        if self.error is not None:
            raise self.error
        return form(*self.fields)


class Connection(Protocol):
    """The near side of an exchange with one other actor."""

    address: str

    def send(
        self,
        message: Message,
        on_reply: Callable[[Reply], None],
        on_chunk: Callable[[Value], None] | None = None,
    ) -> int:
        """Send a message that is answered once, after any number of chunks. Returns its number.

        The messages and what answers them are in `supervisors/messages/`.

        When the other side is lost, every open message is answered with PeerLost: the outcome is unknown.
        """

    def cancel(self, number: int) -> None:
        """Ask the other side to stop working on a message. It is still answered."""

    @overload
    def ask(self, message: Message) -> Awaitable[None]: ...
    @overload
    def ask(self, message: Message, form: Callable[..., T]) -> Awaitable[T]: ...
    def ask(self, message: Message, form: Callable[..., Any] | None = None) -> Awaitable[Any]:
        """`send`, to be awaited: gives the reply as its class `form`. Raises the error. Cancelling it cancels the
        message."""

    def watch(
        self,
        on_lost: Callable[[PodiumError], None],
        lease_s: float | None = None,
        may_compute: Callable[[float], bool] = lambda silent_s: False,
    ) -> None:
        """Keep a call out at all times, so that the death of the other side is known at once.

        With `lease_s` the other side also counts as lost when it has been silent for so long: it is stopped, or
        its event loop is blocked. But silence alone is no death: as long as its process uses the processor, and
        `may_compute` says that what it does may take so many seconds, it lives.
        """

    def lose(self, error: PodiumError) -> None:
        """The other side is known to be gone: every open message is answered with `error`."""

    @property
    def open_count(self) -> int:
        """Messages not answered yet."""

    def close(self) -> None:
        """Forget everything that is open, unanswered."""


class Incoming(Protocol):
    """One received message, to be answered exactly once. The receiver's `Door` reads kind and payload."""

    kind: str
    payload: Value
    cancelled: bool
    on_cancel: Callable[[], None] | None
    """Set by the actor that works on it, called at most once."""

    @property
    def backlog(self) -> int:
        """Answers and chunks, of all messages of the near side, that it has not fetched yet."""

    def reply(self, value: Message = ()) -> None: ...

    def refuse(self, error: PodiumError) -> None: ...

    def chunk(self, value: Value) -> None: ...


class Actor(Protocol):
    """What a cluster runs: it gets messages, one at a time, and answers them when it can."""

    async def start(self, setup: Mapping[str, Any]) -> Value:
        """Called once, before any message. Raising means that the actor did not start."""

    def receive(self, ask: Incoming) -> None: ...

    async def stop(self) -> None:
        """End in order. Not called when the actor is killed."""
