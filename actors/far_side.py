"""The far side of the exchange; exchange.py has the mechanism and its promises."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from ..protocols.errors import InvalidInput, PodiumError
from ..protocols.values import Value, pack, unpack
from ..supervisors.ports import Ask
from .exchange import CANCEL, CHUNK, DEFAULT_LIMITS, ERROR, RESULT, WATCH, ExchangeLimits


class Far:
    """The far side: takes frames from any number of near sides and hands messages to one actor."""

    def __init__(
        self, receive: Callable[[Ask], None], incarnation: str, limits: ExchangeLimits = DEFAULT_LIMITS
    ) -> None:
        self._receive, self._incarnation, self._limits = receive, incarnation, limits
        self._sessions: dict[str, _Session] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, frame: bytes) -> bytes:
        """Carry one frame in, and wait until there is something to carry back."""
        name, number, acknowledged, items = unpack(frame, max_bytes=self._limits.frame_bytes)
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(asyncio.get_running_loop())
        self._watch()
        session.touched = session.loop.time()
        session.acknowledge(acknowledged)
        if session.is_new(number):
            for item in items:
                self._accept(session, *item)
        else:
            session.repeat()
        await session.something()
        first, results = session.take(self._limits.frame_items)
        return self._pack(first, results)

    def _accept(self, session: _Session, number: int, kind: str, payload: Value) -> None:
        if kind == CANCEL:
            session.cancel(payload)
            return
        if kind == WATCH:
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
            message.refuse(PodiumError(f"{kind}: {type(error).__name__}: {error}"))

    def _pack(self, first: int, results: list[list[Value]]) -> bytes:
        try:
            return pack([self._incarnation, first, results])
        except InvalidInput:
            return pack([self._incarnation, first, [_sendable(result) for result in results]])

    def _watch(self) -> None:
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._limits.poll_s, self._sweep_sessions)

    def _sweep_sessions(self) -> None:
        """Answer calls that waited long, and forget near sides that have not called for long."""
        self._sweep = None
        for name, session in list(self._sessions.items()):
            silent_s = session.loop.time() - session.touched
            session.wake_all()
            if silent_s > 10 * self._limits.poll_s:
                session.drop()
                del self._sessions[name]
        if self._sessions:
            self._watch()


def _sendable(result: list[Value]) -> list[Value]:
    """A result that can be packed: the same, or the error that says why it cannot."""
    try:
        pack(result)
    except InvalidInput as error:
        return [result[0], ERROR, error.to_wire()]
    return result


class _Session:
    """What the far side keeps for one near side."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.touched = loop, loop.time()
        self.asks: dict[int, _Incoming] = {}
        self.cancelled_early: set[int] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._results: deque[list[Value]] = deque()
        """Everything not acknowledged yet, oldest first."""
        self._oldest = 1
        """Number of the first of `_results`."""
        self._sent = 0
        """Number of the last result that was put into an answer."""
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

    def push(self, result: list[Value]) -> None:
        self._results.append(result)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def acknowledge(self, number: int) -> None:
        while self._oldest <= number and self._results:
            self._results.popleft()
            self._oldest += 1
        self._sent = max(self._sent, self._oldest - 1)

    def repeat(self) -> None:
        """An answer may have been lost: send everything unacknowledged again."""
        self._sent = self._oldest - 1

    async def something(self) -> None:
        if self._oldest + len(self._results) - 1 > self._sent:
            return
        waiter = self.loop.create_future()
        self._waiting.append(waiter)
        await waiter
        await asyncio.sleep(0)  # more results of the same turn of the loop go along

    def take(self, most: int) -> tuple[int, list[list[Value]]]:
        first = self._sent + 1
        start = first - self._oldest
        count = min(most, len(self._results) - start)
        taken = list(itertools.islice(self._results, start, start + count))
        self._sent += count
        return first, taken

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
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def drop(self) -> None:
        for number in list(self.asks):
            self.cancel(number)


class _Incoming:
    """One message at the far side; implements `Ask`."""

    __slots__ = ("_number", "_session", "cancelled", "kind", "on_cancel", "payload")

    def __init__(self, session: _Session, number: int, kind: str, payload: Value) -> None:
        self._session, self._number = session, number
        self.kind, self.payload = kind, payload
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None

    def reply(self, value: Value = None) -> None:
        self._end([self._number, RESULT, value])

    def refuse(self, error: PodiumError) -> None:
        self._end([self._number, ERROR, error.to_wire()])

    def chunk(self, value: Value) -> None:
        if self._number in self._session.asks:
            self._session.push([self._number, CHUNK, value])

    def _end(self, result: list[Value]) -> None:
        if self._session.asks.pop(self._number, None) is not None:
            self._session.push(result)


