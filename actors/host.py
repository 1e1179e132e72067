"""ProtocolHost: the actor in which one protocol's object lives.

It runs at most `concurrency` attempts at once and queues the rest in order. An async `run` is a task on this
actor's loop; a plain one is called in a thread. A time-out counts from the moment the attempt begins to run:
async work is cancelled, plain work is told by `ctx.cancelled`. Work that does not end within `grace_s` is
reported as stuck, and the supervisor replaces the whole host, because a running thread cannot be stopped.

What needs permits waits in a *lane* until one of the lane's permits is free: an attempt that ends passes its own on
to the next in its lane, or gives it back with the answer.

Messages:
    run [task id, path, attempt, user, input, [timeout_s, idle_timeout_s, deadline], origin, lane, permit]: origin is
    the first of the tasks that this one continues, or itself; without permits the last two are None, and an attempt
    with a lane may come with a permit or follow others. Answered by ["ok" | "fail", output or failure, seconds (None
    if it never began), whether it is stuck, permit that comes back, amounts really used by quota]; chunks are
    ["chunk", value] or ["log", level, text].
    permit [lane, permit]: for whoever waits in the lane; answered by the permit if nobody does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ..protocols.binding import Binding, InvalidOutput
from ..protocols.context import Context
from ..protocols.errors import InvalidInput, NotFound, PodiumError
from ..protocols.outcomes import Failure
from ..protocols.protocol import Protocol
from ..protocols.values import MAX_VALUE_BYTES, Value, pack, unpack
from ..supervisors.ports import Ask, Timer, World

MAX_TRACEBACK_CHARS = 8_000
UNSEEN = Context()
"""For code that takes none: making a real one is a tenth of the host's work."""


class ProtocolHost:
    def __init__(self, world: World) -> None:
        self.world = world
        self.binding: Binding
        self._live: Protocol | None = None
        """What has a `stop`, once it has been started."""
        self._concurrency = 1
        self.grace_s = 1.0
        self._max_bytes = MAX_VALUE_BYTES
        self.config: Mapping[str, Any] = {}
        self.log = logging.getLogger("podium.protocol")
        self._waiting: deque[_Attempt] = deque()
        self._lanes: defaultdict[int, deque[_Attempt]] = defaultdict(deque)
        """Who waits for permits."""
        self._active: set[_Attempt] = set()

    async def start(self, setup: Mapping[str, Any]) -> None:
        """setup: ref, name, concurrency, grace_s, max_value_bytes, config, code (pickle or None), search_path."""
        target = self.world.load_protocol(setup["ref"], setup.get("code"), setup.get("search_path") or [])
        self._concurrency = setup["concurrency"]
        self.grace_s, self._max_bytes = setup["grace_s"], setup["max_value_bytes"]
        self.config = setup["config"]
        self.log = logging.getLogger(f"podium.protocol.{setup['name']}")
        self.binding = Binding(target)
        if isinstance(self.binding.live, Protocol):
            self._live = self.binding.live
            await self._live.start()

    async def stop(self) -> None:
        if self._live is not None:
            await self._live.stop()

    def receive(self, ask: Ask) -> None:
        match ask.kind:
            case "run":
                self._take_in(_Attempt(self, ask), *ask.payload[7:])
            case "permit":
                ask.reply(self._pass_on(*ask.payload))
                self._next()
            case "ping":
                ask.reply()
            case _:
                raise NotFound(what="message kind", name=ask.kind)

    def _take_in(self, attempt: _Attempt, lane: int | None, permit: str | None) -> None:
        if lane is None:
            self._waiting.append(attempt)
        else:
            self._lanes[lane].append(attempt)
            if permit is not None:
                self._pass_on(lane, permit)
        self._next()

    def _pass_on(self, lane: int, permit: str) -> str | None:
        """Give a permit to the next of its lane; returns it if there is none."""
        queue = self._lanes[lane]
        while queue:
            attempt = queue.popleft()
            if not attempt.ended:
                attempt.permit = permit
                self._waiting.append(attempt)
                return None
        del self._lanes[lane]
        return permit

    def free_permit(self, attempt: _Attempt) -> str | None:
        """The permit of an attempt whose code has ended, if nobody here wants it."""
        permit, attempt.permit = attempt.permit, None
        return None if permit is None else self._pass_on(attempt.lane, permit)

    def _next(self) -> None:
        while self._waiting and len(self._active) < self._concurrency:
            attempt = self._waiting.popleft()
            if not attempt.ended:
                self._active.add(attempt)
                attempt.begin()

    def released(self, attempt: _Attempt) -> None:
        """The attempt's code has really ended: its place is free."""
        self._active.discard(attempt)
        self._next()

    def folder(self) -> str:
        return self.world.folder(self.binding.ref)

    def check_size(self, output: Value) -> None:
        """Raise InvalidOutput if `output` cannot travel."""
        try:
            size_bytes = len(pack(output))
        except InvalidInput as error:
            raise InvalidOutput(f"output{error}") from error
        if size_bytes > self._max_bytes:
            raise InvalidOutput(f"output: {size_bytes} bytes packed, the limit is {self._max_bytes}")


class _Attempt:
    """One run of the protocol on one input."""

    def __init__(self, host: ProtocolHost, ask: Ask) -> None:
        self._host, self._ask = host, ask
        self.task_id, self.path, self.number, self.user, self.input, times, self._origin, self.lane, _ = ask.payload
        self._timeout_s, self._idle_timeout_s, self._deadline = times
        self.permit: str | None = None
        ask.on_cancel = self.cancel
        self.ended = False
        """Whether the answer is out. The code may still be running: see ProtocolHost.released."""
        self._stopping: Failure | None = None
        self._work: asyncio.Task[Value] | None = None
        self._timer: Timer | None = None
        self._began_at = self._heard_at = 0.0
        self._used: dict[str, float] = {}

    def begin(self) -> None:
        world = self._host.world
        self._began_at = self._heard_at = world.monotonic()
        if self._timeout_s is not None or self._idle_timeout_s is not None:
            self._wind()
        self._work = asyncio.get_running_loop().create_task(self._run())
        self._work.add_done_callback(self._finished)

    def cancel(self) -> None:
        self._stop(Failure("cancelled", "the step was cancelled"))

    def _wind(self) -> None:
        """Look again when its time, or that of its silence, may be up."""
        end = math.inf if self._timeout_s is None else self._began_at + self._timeout_s
        if self._idle_timeout_s is not None:
            end = min(end, self._heard_at + self._idle_timeout_s)
        if end < math.inf:
            self._set_timer(max(0.0, end - self._host.world.monotonic()), self._look_at_times)

    def _look_at_times(self) -> None:
        now = self._host.world.monotonic()
        used_s, silent_s = now - self._began_at, now - self._heard_at
        what = f"step '{self.path}' of task {self.task_id}"
        if self._timeout_s is not None and used_s >= self._timeout_s:
            message = f"{what} ran out of time: {self._timeout_s:g} s allowed, {used_s:.1f} s used"
            self._stop(Failure("timeout", message))
        elif self._idle_timeout_s is not None and silent_s >= self._idle_timeout_s:
            message = f"{what} gave no sign of life for {silent_s:.1f} s (ctx.heartbeat, ctx.emit or ctx.log)"
            self._stop(Failure("timeout", message))
        else:
            self._wind()

    def heard(self) -> None:
        """The code gave a sign of life; from any thread."""
        self._heard_at = self._host.world.monotonic()

    def _stop(self, why: Failure) -> None:
        if self.ended or self._stopping is not None:
            return
        self._stopping = why
        if self._work is None:
            self._answer(["fail", why.to_wire(), None, False, self._host.free_permit(self)])
            return
        if self._host.binding.is_async:
            self._work.cancel()
        self._set_timer(self._host.grace_s, self._stuck)

    def _stuck(self) -> None:
        assert self._stopping is not None
        self._answer(["fail", self._stopping.to_wire(), self._seconds(), True, None])

    async def _run(self) -> Value:
        binding = self._host.binding
        input = binding.read_input(self.input)
        context = self._context() if binding.takes_ctx else UNSEEN
        if binding.is_async:
            output = await binding.call(context, input)
        else:
            output = await self._host.world.in_thread(lambda: binding.call(context, input))
        plain = binding.plain_output(output)
        self._host.check_size(plain)
        return plain

    def _finished(self, work: asyncio.Task[Value]) -> None:
        if self._timer is not None:
            self._set_timer(None, None)
        if not self.ended:
            self._answer([*self._result(work), self._seconds(), False, self._host.free_permit(self), self._used])
        elif not work.cancelled():
            work.exception()  # looked at, so that asyncio does not report it as never retrieved
        self._work = None  # or, with an error in it, it and this would hold each other
        self._host.released(self)

    def _result(self, work: asyncio.Task[Value]) -> list[Value]:
        if self._stopping is not None:
            return ["fail", self._stopping.to_wire()]
        if work.cancelled():
            return ["fail", Failure("cancelled", "the step cancelled itself", "CancelledError").to_wire()]
        error = work.exception()
        return ["ok", work.result()] if error is None else ["fail", _failure(error).to_wire()]

    def _answer(self, result: list[Value]) -> None:
        self.ended = True
        self._ask.reply(result)

    def _seconds(self) -> float:
        return self._host.world.monotonic() - self._began_at

    def _set_timer(self, delay_s: float | None, callback: Callable[[], None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if delay_s is not None and callback is not None:
            self._timer = self._host.world.call_later(delay_s, callback)

    def _context(self) -> Context:
        own = None if self._timeout_s is None else self._host.world.now() + self._timeout_s
        deadline = min((at for at in (own, self._deadline) if at is not None), default=None)
        log = _StepLog(self._host.log, {"task": self.task_id, "step": self.path})
        log.tell = lambda level, text: self._chunk(["log", level, text])
        return Context(
            task_id=self.task_id,
            step=self.path,
            attempt=self.number,
            user=self.user,
            deadline=deadline,
            log=log,
            origin=self._origin,
            config=self._host.config,
            _emit=lambda value: self._chunk(["chunk", value]),
            _heartbeat=self.heard,
            _cancelled=lambda: self._stopping is not None,
            _used=self._used,
            _folder=self._host.folder,
            _left=lambda: None if deadline is None else deadline - self._host.world.now(),
        )

    def _chunk(self, chunk: list[Value]) -> None:
        self.heard()
        chunk = unpack(pack(chunk))  # as it is now, and raising in the user's own call, not later on the wire
        if self._host.binding.is_async:
            self._ask.chunk(chunk)
        else:
            self._host.world.from_thread(lambda: self._ask.chunk(chunk))


class _StepLog(logging.LoggerAdapter[logging.Logger]):
    """Logs as usual, with task and step in the record, and tells the watchers of the task."""

    tell: Callable[[str, str], None]

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)
            self.tell(logging.getLevelName(level).lower(), str(msg) % args if args else str(msg))


def _failure(error: BaseException) -> Failure:
    kind = type(error).__name__
    if isinstance(error, InvalidInput):
        return Failure("invalid_input", error.problem, kind)
    if isinstance(error, InvalidOutput):
        return Failure("invalid_output", str(error), kind)
    code = error.code if isinstance(error, PodiumError) else "error"
    text = "".join(traceback.format_exception(type(error), error, _own_frames_dropped(error)))
    above = (base.__name__ for base in type(error).__mro__[1:] if issubclass(base, Exception))
    bases = tuple(name for name in above if name != "Exception")
    trace, retry_after_s = text[-MAX_TRACEBACK_CHARS:], _retry_after_s(error)
    return Failure(code, _text(error) or kind, kind, trace, bases=bases, retry_after_s=retry_after_s)


def _text(error: BaseException) -> str:
    """What it says; nothing if its own code for that fails, which the traceback then shows."""
    try:
        return str(error)
    except Exception:
        return ""


def _retry_after_s(error: BaseException) -> float | None:
    """When a service says to come back: in our own terms, or in those of the usual HTTP clients; a date is not read.

    None if nothing is said, or nothing that can be read: attributes of foreign errors may be code that fails.
    """
    try:
        said = getattr(error, "retry_after_s", getattr(error, "retry_after", None))
        if said is None:
            headers = getattr(getattr(error, "response", None), "headers", None)
            said = headers.get("retry-after") if isinstance(headers, Mapping) else None
        seconds = float(said or "")
    except Exception:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _own_frames_dropped(error: BaseException) -> Any:
    """The traceback from the first frame of user code on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(
        ("podium.actors", "podium.cluster", "podium.protocols.binding", "concurrent.futures", "asyncio")
    ):
        frames = frames.tb_next
    return frames or error.__traceback__
