"""The server side of the exchange; exchange.py describes the mechanism and its guarantees."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from ..protocols.blame import fault_of
from ..protocols.errors import InvalidInput, PodiumError
from ..protocols.probes import hit
from ..protocols.values import Unreadable, Value, is_readable, pack, unpack, unpack_marked
from ..supervisors.faults import report
from ..supervisors.ports.messaging import Incoming, Message
from .exchange import CANCEL, CHUNK, DEFAULT_LIMITS, ERROR, RESULT, WATCH, ExchangeLimits

SPARE_CALL_S = 0.005
"""Seconds for which a second call may wait beside the first; it saves a call if a result comes sooner."""
CALM_TURNS = 2
"""Turns of the event loop without a new result after which an answer is sent."""
COLLECT_S = 0.001
"""Longest time in seconds for which an answer waits for further results."""


class ExchangeServer:
    """The server side: takes frames from any number of client sides, and hands their messages to one actor."""

    def __init__(
        self, receive: Callable[[Incoming], None], incarnation: str, limits: ExchangeLimits = DEFAULT_LIMITS
    ) -> None:
        self._receive, self._incarnation, self._limits = receive, incarnation, limits
        self._sessions: dict[str, _Session] = {}
        self._poll_s = limits.poll_s
        self._sweep: asyncio.TimerHandle | None = None

    def take_in(self, frame: bytes, answer: Callable[[bytes], None]) -> None:
        """Take in one frame; `answer` is called with the packed answer to it, perhaps later."""
        accept = self._accept
        try:
            name, number, unanswered, received, items = unpack(frame, self._limits.frame_bytes)
        except InvalidInput:
            accept = self._accept_if_readable
            name, number, unanswered, received, items = _read_marked(frame, self._limits.frame_bytes)
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(self._pack, self._limits)
        self._watch()
        session.touched = session.loop.time()
        session.settle(number, unanswered, received)
        if not session.is_new(number):
            session.answer_again(number, answer)
            return
        session.wait(number, answer)
        for item in items:
            accept(session, *item)

    async def exchange(self, frame: bytes) -> bytes:
        """Take in one frame and await the packed answer."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.take_in(frame, lambda packed: None if future.done() else future.set_result(packed))
        return await future

    def _accept(self, session: _Session, number: int, kind: str, payload: Value) -> None:
        if kind == CANCEL:
            session.cancel(payload)
            return
        if kind == WATCH:
            self._watched(session, *payload)
            return
        message = _Incoming(session, number, kind, payload)
        session.asks[number] = message
        if number in session.cancelled_early:
            session.cancel(number)
        try:
            self._receive(message)
        except PodiumError as error:
            message.refuse(error)
        except Exception as error:
            report(f"the message '{kind}'", error)
            message.refuse(PodiumError(f"{kind}: {fault_of(error).message}"))

    def _accept_if_readable(self, session: _Session, number: int, kind: str, payload: Value) -> None:
        if not isinstance(payload, Unreadable):
            self._accept(session, number, kind, payload)
            return
        session.asks[number] = message = _Incoming(session, number, kind, None)
        message.refuse(InvalidInput(problem="a key of a mapping is a list or mapping; keys are texts", path=kind))

    def _pack(self, results: list[list[Value]]) -> bytes:
        try:
            return pack([self._incarnation, results])
        except InvalidInput:
            return pack([self._incarnation, [_sendable(result) for result in results]])

    def _watched(self, session: _Session, poll_s: float | None) -> None:
        """Answer waiting calls at least every `poll_s` seconds, so that a client side knows that this loop turns."""
        if poll_s is not None and poll_s < self._poll_s:
            self._poll_s = poll_s
            if self._sweep is not None:
                self._sweep.cancel()
                self._sweep = None
            self._watch()

    def _watch(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._poll_s, self._sweep_sessions)

    def close(self) -> None:
        """Drop all sessions, because the actor is gone."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._sessions.clear()

    def _sweep_sessions(self) -> None:
        """Answer all waiting calls, and drop the sessions of client sides that have not called for long."""
        self._sweep = None
        for name, session in list(self._sessions.items()):
            silent_s = session.loop.time() - session.touched
            session.wake_all()
            if silent_s > 10 * self._limits.poll_s:
                session.drop()
                del self._sessions[name]
        if self._sessions:
            self._watch()


def _read_marked(frame: bytes, max_bytes: int) -> list[Value]:
    """Read a frame with a message that cannot be unpacked: its payload becomes Unreadable, the others are kept.

    Raises InvalidInput if the bytes are no frame at all.
    """
    *head, items = unpack_marked(frame, max_bytes)
    return [*head, [item if is_readable(item) else [*item[:2], Unreadable()] for item in items]]


def _sendable(result: list[Value]) -> list[Value]:
    """Return the result if it can be packed and unpacked, else an error result that says why it cannot."""
    try:
        packed = pack(result)
        unpack(packed, len(packed))
    except InvalidInput as error:
        return [result[0], result[1], ERROR, error.to_wire()]
    return result


class _Session:
    """The state that the server side keeps for one client side."""

    def __init__(self, pack_results: Callable[[list[list[Value]]], bytes], limits: ExchangeLimits) -> None:
        self.loop = asyncio.get_running_loop()
        self.touched = self.loop.time()
        self.asks: dict[int, _Incoming] = {}
        self.cancelled_early: set[int] = set()
        self._pack, self._most, self._most_bytes = pack_results, limits.frame_items, limits.frame_bytes
        self._waiting: dict[int, Callable[[bytes], None]] = {}
        """Calls that wait for results, by frame number, the longest waiting first."""
        self._flushing = False
        self._collects_since = 0.0
        self._seen = self._calm_turns = 0
        """While results collect for the next answer: their number, and turns of the loop since the last new one."""
        self._results = itertools.count(1)
        self._unsent: deque[list[Value]] = deque()
        self._sent: dict[int, list[list[Value]]] = {}
        """Results by the number of the frame that they answered, until the client side is known to have them."""
        self._frames_to = 0
        self._frames_beyond: set[int] = set()

    def is_new(self, number: int) -> bool:
        if number <= self._frames_to or number in self._frames_beyond:
            return False
        self._frames_beyond.add(number)
        while self._frames_to + 1 in self._frames_beyond:
            self._frames_to += 1
            self._frames_beyond.discard(self._frames_to)
        return True

    @property
    def backlog(self) -> int:
        return len(self._unsent)

    def push(self, result: list[Value]) -> None:
        self._unsent.append([next(self._results), *result])
        self._flush_soon()

    def settle(self, number: int, unanswered: list[int], received: int) -> None:
        """Queue the results of answers that did not arrive again, and drop the results that arrived.

        If a frame comes again, its answer did not arrive.

        Args:
            number: number of the frame that has come.
            unanswered: numbers of the other frames that have no answer yet.
            received: number up to which the client side has all results.
        """
        for frame in [frame for frame in self._sent if frame not in unanswered or frame == number]:
            lost = [result for result in self._sent.pop(frame) if result[0] > received]
            self._unsent.extendleft(reversed(lost))
        if self._unsent:
            self._flush_soon()

    def wait(self, number: int, answer: Callable[[bytes], None]) -> None:
        """Keep a call until there is a result for it."""
        self._waiting[number] = answer
        if self._unsent:
            self._flush_soon()
        if len(self._waiting) > 1:
            self.loop.call_later(SPARE_CALL_S, self._let_go)

    def answer_again(self, number: int, answer: Callable[[bytes], None]) -> None:
        """Answer a frame that came again; its first call is answered, too, because nobody may listen to it any more."""
        hit("frame came again")
        self._release(number)
        answer(self._take(number))

    def _flush_soon(self) -> None:
        """Answer one call as soon as the event loop brings no more results."""
        if self._waiting and not self._flushing:
            self._flushing = True
            self._collects_since, self._seen, self._calm_turns = self.loop.time(), 0, 0
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._calm_turns = 0 if len(self._unsent) > self._seen else self._calm_turns + 1
        self._seen = len(self._unsent)
        is_young = self.loop.time() - self._collects_since < COLLECT_S
        if self.asks and self._calm_turns < CALM_TURNS and is_young:
            self.loop.call_soon(self._flush)  # as long as results of open messages keep coming in, they collect
            return
        self._flushing = False
        if self._waiting and self._unsent:
            number = next(iter(self._waiting))
            self._waiting.pop(number)(self._take(number))
            if self._unsent:
                self._flush_soon()

    def _let_go(self) -> None:
        """Answer the oldest call if more than one waits: the client side needs a free call for its next messages."""
        if len(self._waiting) > 1:
            self._release(next(iter(self._waiting)))

    def _release(self, number: int) -> None:
        answer = self._waiting.pop(number, None)
        if answer is not None:
            answer(self._take(number))

    def _take(self, number: int) -> bytes:
        """Pack an answer with as many unsent results as fit one frame, one at least if there are any."""
        taken = [self._unsent.popleft() for _ in range(min(self._most, len(self._unsent)))]
        packed = self._pack(taken)
        while len(packed) > self._most_bytes and len(taken) > 1:
            rest = len(taken) // 2
            self._unsent.extendleft(reversed(taken[rest:]))
            del taken[rest:]
            packed = self._pack(taken)
        if taken:
            self._sent.setdefault(number, []).extend(taken)
        return packed

    def cancel(self, number: int) -> None:
        message = self.asks.get(number)
        if message is None:
            if self._frames_beyond:  # a frame is missing, perhaps the one with the message
                self.cancelled_early.add(number)
        elif not message.cancelled:
            message.cancelled = True
            if message.on_cancel is not None:
                message.on_cancel()

    def wake_all(self) -> None:
        for number in list(self._waiting):
            self._release(number)

    def drop(self) -> None:
        for number in list(self.asks):
            self.cancel(number)


class _Incoming:
    """One message at the server side; implements `Incoming`."""

    __slots__ = ("_number", "_session", "cancelled", "kind", "on_cancel", "payload")

    def __init__(self, session: _Session, number: int, kind: str, payload: Value) -> None:
        self._session, self._number = session, number
        self.kind, self.payload = kind, payload
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None

    @property
    def backlog(self) -> int:
        return self._session.backlog

    def reply(self, value: Message = ()) -> None:
        self._end([self._number, RESULT, value])

    def refuse(self, error: PodiumError) -> None:
        self._end([self._number, ERROR, error.to_wire()])

    def chunk(self, value: Value) -> None:
        if self._number in self._session.asks:
            self._session.push([self._number, CHUNK, value])

    def _end(self, result: list[Value]) -> None:
        self.on_cancel = None  # else message and callback would refer to each other until garbage collection
        if self._session.asks.pop(self._number, None) is not None:
            self._session.push(result)
