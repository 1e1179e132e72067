"""The contract of messaging between actors: messages and replies, connections, incoming messages, and actors."""

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
        """Return the reply as an object of its class. Raises the error, if the answer is an error."""
        if self.error is not None:
            raise self.error
        return form(*self.fields)


class Connection(Protocol):
    """The client side of an exchange with one other actor."""

    address: str

    @property
    def heard_at(self) -> float:
        """Time of the event loop at which the other actor last answered a call; 0.0 if it never did."""

    def send(
        self,
        message: Message,
        on_reply: Callable[[Reply], None],
        on_chunk: Callable[[Value], None] | None = None,
    ) -> int:
        """Send a message that is answered once, after any number of chunks. Returns the number of the message.

        The messages and their replies are in `supervisors/messages/`.

        When the other actor is lost, every open message is answered with PeerLost: its outcome is unknown.
        """

    def cancel(self, number: int) -> None:
        """Ask the other actor to stop working on a message. The message is still answered."""

    @overload
    def ask(self, message: Message) -> Awaitable[None]: ...
    @overload
    def ask(self, message: Message, form: Callable[..., T]) -> Awaitable[T]: ...
    def ask(self, message: Message, form: Callable[..., Any] | None = None) -> Awaitable[Any]:
        """Send a message and await the reply, as an object of the class `form`.

        Raises the error of the answer. Cancelling the await cancels the message.
        """

    def watch(
        self,
        on_lost: Callable[[PodiumError], None],
        lease_s: float | None = None,
        may_compute: Callable[[float], bool] = lambda silent_s: False,
    ) -> None:
        """Keep a call open at all times, so that the death of the other actor is known at once.

        With `lease_s` the other actor also counts as lost after so many seconds of silence: it is stopped, or its event
        loop is blocked. But silence alone is not death. The actor counts as alive as long as its process uses the
        processor, and `may_compute(silent_s)` says that its work may take so many seconds.
        """

    def lose(self, error: PodiumError) -> None:
        """End the connection because the other actor is gone: every open message is answered with `error`."""

    @property
    def open_count(self) -> int:
        """Number of messages that are not answered yet."""

    def close(self) -> None:
        """End the connection; open messages are dropped and not answered."""


class Incoming(Protocol):
    """One received message, to be answered exactly once. The receiver's `Door` reads kind and payload."""

    kind: str
    payload: Value
    cancelled: bool
    on_cancel: Callable[[], None] | None
    """Set by the actor that works on it, called at most once."""

    @property
    def backlog(self) -> int:
        """Number of answers and chunks, of all messages of the client side, that it has not fetched yet."""

    def reply(self, value: Message = ()) -> None: ...

    def refuse(self, error: PodiumError) -> None: ...

    def chunk(self, value: Value) -> None: ...


class Actor(Protocol):
    """An actor of a cluster: it gets messages, one at a time, and answers them when it can."""

    async def start(self, setup: Mapping[str, Any]) -> Value:
        """Start the actor. It is called once, before any message. If it raises, the actor did not start."""

    def receive(self, ask: Incoming) -> None: ...

    async def stop(self) -> None:
        """End the actor in order. It is not called when the actor is killed."""
