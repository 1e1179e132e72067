"""The exchange is the one way in which actors talk to each other, and clients to actors. This is its client side.

A remote call costs about a millisecond, whatever it carries. So all messages that wait when a call leaves go in that
one call. While it is under way, the next frame collects. There are no timers and no batch size, and at low load a
message goes at once. The server side answers a call when results are ready and the next turns of its loop bring no
more. The client side keeps at least one call open while a message is open. So a slow message never holds up a fast one,
and the death of the server side is known at once, because the open call fails. A server side that is stopped, or whose
loop is blocked, does not die. It is given up when it was silent for a lease, which is several times as long as it may
keep a call waiting.

Frames can be lost, repeated and overtaken on the way, and so can answers. Frames and results are numbered. Each frame
says which earlier frames are still unanswered. So the server side knows which answers never arrived, and sends their
results again. Within the life of both sides every message is handled once and answered once, and chunks come in order.
When the server side is gone for good, every open message is answered with PeerLost: it is unknown whether the message
was handled.

On the wire (msgpack, never pickle):
    client → server   [session, frame number, other frames unanswered, results received up to, messages]
                      a message is [number, kind, fields]; see supervisors/messages/
    server → client   [incarnation, results]
                      a result is [result number, message number, type, value]
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..protocols.errors import InvalidInput, Overloaded, PeerLost, PeerUnreachable, PodiumError, Unknown, from_wire
from ..protocols.probes import hit
from ..protocols.values import Value, is_readable, pack, unpack, unpack_marked
from ..supervisors.faults import report, shielded
from ..supervisors.messages.door import KINDS
from ..supervisors.ports.messaging import Message, Reply

RESULT, CHUNK, ERROR = 0, 1, 2
CANCEL = "!cancel"
"""Kind of the message that cancels another message; its payload is the number of that message."""


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """Bounds of one exchange."""

    calls: int = 2
    """Calls under way at once: one waits for results while the other carries new messages."""
    credit: int = 20_000
    """Most messages that are open at the server side; further messages wait on the client side."""
    queue: int = 1_000_000
    """Most messages that wait on the client side; one more is refused as Overloaded."""
    frame_items: int = 4_000
    frame_bytes: int = 64 * 1024 * 1024
    poll_s: float = 30.0
    """Seconds after which the server side answers a waiting call even if no result is ready."""
    resends: int = 8
    """Times that a frame is sent, with doubling delays from `resend_delay_s`, before the server side counts as lost."""
    resend_delay_s: float = 0.05
    max_resend_delay_s: float = 5.0


WATCH = "!watch"
"""Kind of `_Watch`."""

Transport: TypeAlias = Callable[[bytes, Callable[[bytes | Unknown], None]], None]
"""Carries one frame and calls back, on the event loop, with the answer or an error.

The error is PeerUnreachable if trying again may help, else PeerLost."""

POLLS_PER_LEASE = 3
"""Number of calls that an idle server side answers within one lease."""
IDLE_S = 0.01
"""Seconds before a call that only serves to detect the death of the server side; the next message often saves it."""
DEFAULT_LIMITS = ExchangeLimits()
_sessions = itertools.count(1)


class _Watch(NamedTuple):
    """A message that is never answered. Its failure tells the sender that the peer died."""

    poll_s: float | None
    """Longest time in seconds that a call may wait at the server side; None for that of the limits."""


KINDS[_Watch] = WATCH


def _nothing() -> None:
    """Do nothing: the default `hang_up`, for a transport without a connection to close."""


def _ignored(*_fields: Value) -> None:
    """Drop the fields of a reply; only its arrival matters."""


def _read_marked(answer: bytes, error: InvalidInput) -> list[Value]:
    """Read an answer with results that cannot be unpacked: they become errors, the other results are kept."""
    incarnation, results = unpack_marked(answer, max_bytes=len(answer))
    told = InvalidInput(problem=f"the answer cannot be read: {error.problem}").to_wire()
    return [incarnation, [r if is_readable(r) else [r[0], r[1], ERROR, told] for r in results]]


_Open: TypeAlias = tuple[Callable[[Reply], None], Callable[[Value], None] | None]
"""The callbacks of a message: for its reply, and for its chunks."""


@dataclass(slots=True)
class ExchangeCounts:
    """The counters of one client side, for metrics and tests."""

    frames: int = 0
    messages: int = 0
    resent: int = 0


class ExchangeClient:
    """The client side of an exchange with one actor; implements `Connection`. It lives on one event loop."""

    def __init__(
        self,
        address: str,
        call: Transport,
        session: str,
        limits: ExchangeLimits = DEFAULT_LIMITS,
        hang_up: Callable[[], None] = _nothing,
        is_working: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make an exchange with one actor.

        Args:
            session: name of this side; a number is added, so that each exchange has a session of its own.
            hang_up: called when no more calls will follow.
            is_working: tells whether the process of the server side has used the processor since the last call of it.
        """
        self._is_working = is_working
        self.address, self.counts = address, ExchangeCounts()
        self._call, self._limits, self._hang_up = call, limits, hang_up
        self._session = f"{session}/{next(_sessions)}"
        self._loop = asyncio.get_running_loop()
        self._numbers, self._frame_number = itertools.count(1), 0
        self._open: dict[int, _Open] = {}
        self._queue: deque[list[Value]] = deque()
        self._calls: set[int] = set()
        """Numbers of the frames that are under way, or wait to be sent again."""
        self._scheduled = False
        self._watches = 0
        """Number of open messages that only serve to detect the loss of the server side."""
        self._heard_at = self._answered_at = 0.0
        self._lease: asyncio.TimerHandle | None = None
        self._received = 0
        self._early: dict[int, list[Value]] = {}
        self._incarnation: str | None = None
        self._lost: PodiumError | None = None

    @property
    def open_count(self) -> int:
        return len(self._open)

    @property
    def is_over(self) -> bool:
        """Whether the exchange is closed or lost: no more answers will come."""
        return self._lost is not None

    @property
    def heard_at(self) -> float:
        return self._answered_at

    def send(
        self, message: Message, on_reply: Callable[[Reply], None], on_chunk: Callable[[Value], None] | None = None
    ) -> int:
        number = next(self._numbers)
        if self._lost is not None:
            self._loop.call_soon(on_reply, Reply(error=self._lost))
            return number
        if len(self._queue) >= self._limits.queue:
            raise Overloaded(reason=f"{len(self._queue)} messages wait for {self.address}", retry_after_s=1.0)
        self._queue.append([number, KINDS[type(message)], message])
        self._open[number] = (on_reply, on_chunk)
        self._schedule()
        return number

    def cancel(self, number: int) -> None:
        if number in self._open and self._lost is None:
            self._queue.append([next(self._numbers), CANCEL, number])
            self._schedule()

    async def ask(self, message: Message, form: Callable[..., object] = _ignored) -> Any:
        future: asyncio.Future[Reply] = self._loop.create_future()
        number = self.send(message, lambda reply: None if future.done() else future.set_result(reply))
        try:
            return (await future).read(form)
        except asyncio.CancelledError:
            self.cancel(number)
            raise

    def watch(
        self,
        on_lost: Callable[[PodiumError], None],
        lease_s: float | None = None,
        may_compute: Callable[[float], bool] = lambda silent_s: False,
    ) -> None:
        self._watches += 1
        self._may_compute = may_compute
        poll_s = None if lease_s is None else lease_s / POLLS_PER_LEASE
        self.send(_Watch(poll_s), lambda reply: on_lost(reply.error) if reply.error else None)
        if lease_s is not None and self._lease is None:
            self._heard_at = self._loop.time()
            self._check_lease(lease_s, self._heard_at)

    def _check_lease(self, lease_s: float, due_at: float) -> None:
        """Give up the server side if it was silent for a lease during which this side was awake."""
        if self._lost is not None:
            return
        now, every_s = self._loop.time(), lease_s / POLLS_PER_LEASE
        if now - due_at > every_s:
            self._heard_at = now  # this side was stopped itself: answers may still be unread
        silent_s = now - self._heard_at
        works = silent_s > every_s and self._is_working()
        if silent_s > lease_s and not (works and self._may_compute(silent_s)):
            hit("lost by silence")
            reason = f"it has not answered for {silent_s:.1f} s, the lease is {lease_s:g} s"
            self.lose(PeerLost(address=self.address, reason=reason))
            return
        self._lease = self._loop.call_later(every_s, self._check_lease, lease_s, now + every_s)

    def close(self) -> None:
        self._lost = self._lost or PeerLost(address=self.address, reason="this side closed the exchange")
        self._open.clear()
        self._queue.clear()
        self._forget_lease()
        self._hang_up()

    def _forget_lease(self) -> None:
        if self._lease is not None:
            self._lease.cancel()

    def _schedule(self) -> None:
        if not self._scheduled and len(self._calls) < self._limits.calls:
            self._scheduled = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        self._scheduled = False
        if self._lost is not None or not (self._queue or (self._open and not self._calls)):
            return
        for number, frame in self._frames(self._next_items()):
            self._send(number, frame, self._limits.resends)

    def _next_items(self) -> list[list[Value]]:
        in_flight = len(self._open) - len(self._queue)
        room = max(1, self._limits.credit - in_flight)
        count = min(len(self._queue), self._limits.frame_items, room)
        return [self._queue.popleft() for _ in range(count)]

    def _frames(self, items: list[list[Value]]) -> list[tuple[int, bytes]]:
        """Pack messages into one frame, or into several if one would be too large.

        A message that fits no frame, or cannot be packed, is answered with InvalidInput; the others are sent.
        """
        number = self._frame_number + 1
        try:
            frame = pack([self._session, number, list(self._calls), self._received, items])
            if len(frame) > self._limits.frame_bytes:
                raise InvalidInput(problem=f"a message of {len(frame)} bytes, the limit is {self._limits.frame_bytes}")
        except InvalidInput as error:
            if len(items) == 1:
                self._answer(items[0][0], Reply(error=error))
                return self._frames([])
            middle = len(items) // 2
            return self._frames(items[:middle]) + self._frames(items[middle:])
        self._frame_number = number
        self.counts.frames += 1
        self.counts.messages += len(items)
        return [(number, frame)]

    def _send(self, number: int, frame: bytes, resends: int) -> None:
        if self._lost is None:
            self._calls.add(number)
            self._call(frame, partial(self._called, number, frame, resends))

    def _called(self, number: int, frame: bytes, resends: int, answer: bytes | Unknown) -> None:
        if self._lost is not None:
            return
        if isinstance(answer, bytes):
            self._heard_at = self._answered_at = self._loop.time()
            self._calls.discard(number)
            try:
                read = unpack(answer, len(answer))
            except InvalidInput as error:
                read = _read_marked(answer, error)
            self._take_in(read)
            if self._queue or (len(self._open) > self._watches and not self._calls):
                self._schedule()
            elif self._open and not self._calls:
                self._loop.call_later(IDLE_S, self._schedule)
        elif isinstance(answer, PeerUnreachable) and resends > 1:
            self.counts.resent += 1
            hit("frame sent again")
            tried = self._limits.resends - resends
            delay_s = min(self._limits.max_resend_delay_s, self._limits.resend_delay_s * 2**tried)
            self._loop.call_later(delay_s, self._send, number, frame, resends - 1)
        else:
            lost = answer if isinstance(answer, PeerLost) else PeerLost(address=self.address, reason=str(answer))
            self.lose(lost)

    def _take_in(self, answer: list[Value]) -> None:
        incarnation, results = answer
        if self._incarnation is None:
            self._incarnation = incarnation
        elif self._incarnation != incarnation:
            self.lose(PeerLost(address=self.address, reason="another incarnation answered"))
            return
        for result in results:
            number = result[0]
            if number == self._received + 1:
                self._received = number
                self._deliver(result[1], result[2], result[3])
                while self._early and (early := self._early.pop(self._received + 1, None)):
                    self._received += 1
                    self._deliver(early[1], early[2], early[3])
            elif number > self._received:
                self._early[number] = result
                hit("results came early")

    def _deliver(self, number: int, kind: int, value: Value) -> None:
        if kind == CHUNK:
            message = self._open.get(number)
            if message is not None and message[1] is not None:
                try:
                    message[1](value)
                except Exception as error:
                    self._fault(error)
        else:
            self._answer(number, Reply(value) if kind == RESULT else Reply(error=from_wire(value)))

    def _answer(self, number: int, reply: Reply) -> None:
        message = self._open.pop(number, None)
        if message is not None:
            try:
                message[0](reply)
            except Exception as error:
                self._fault(error)

    def _fault(self, error: Exception) -> None:
        """Report an internal fault in a callback; the other results of the frame are delivered all the same."""
        report(f"a result from {self.address}", error)

    def lose(self, error: PodiumError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        self._forget_lease()
        self._hang_up()
        self._queue.clear()
        still_open, self._open = self._open, {}
        for on_reply, _ in still_open.values():
            shielded(f"the loss of {self.address}", on_reply, Reply(error=error))
