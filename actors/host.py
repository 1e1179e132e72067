"""The ProtocolHost is the actor in which the object of one protocol lives.

It runs at most `concurrency` attempts at once and queues the rest in order. An async `run` is a task on this actor's
event loop; a plain `run` is called in a thread. A timeout counts from the moment at which the attempt begins to run.
Async work is cancelled then; plain work is told by `ctx.cancelled`. Work that does not end within `grace_s` is reported
as stuck, and the supervisor replaces the whole host, because a running thread cannot be stopped.

An attempt that needs permits waits in a *lane* until a permit of the lane is free. An attempt that ends passes its
permit on to the next attempt of its lane, or sends it back with the answer.

The messages of the ProtocolHost are in supervisors/messages/host.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Literal, assert_never

from ..protocols.asking import Answer, Ask
from ..protocols.binding import Binding, InvalidOutput
from ..protocols.blame import failure_of, sayable, trace_of
from ..protocols.codecs.registry import decoded
from ..protocols.context import Context
from ..protocols.errors import InvalidDefinition, InvalidInput, PodiumError
from ..protocols.file import NewFile
from ..protocols.large import INLINE_BYTES, MAX_BLOB_BYTES, LargeParts
from ..protocols.lazy import needed_parts
from ..protocols.outcomes import Failure
from ..protocols.probes import hit
from ..protocols.protocol import Protocol
from ..protocols.questions import answers_of, plain_question
from ..protocols.secret import RESOLVER, resolve_in_threads
from ..protocols.stored import MET, keys_in, stored_in
from ..protocols.values import MAX_VALUE_BYTES, Value, check_value
from ..supervisors.messages.door import with_kind
from ..supervisors.messages.host import (
    HOST,
    Permit,
    PermitLeft,
    Ping,
    Run,
    StepChunk,
    StepLog,
    StepResult,
    StepSaid,
    failed,
)
from ..supervisors.ports.messaging import Incoming
from ..supervisors.ports.world import Timer, World
from .large_values import LargeValues, Outgoing
from .secrecy import Secrecy


class Question(Outgoing):
    """A question of a step, in place of its output."""


UNSEEN = Context()
"""The context for code that takes no context: making a real one is a tenth of the host's work."""


class ProtocolHost:
    def __init__(self, world: World) -> None:
        self.world = world
        self.binding: Binding
        self._live: Protocol | None = None
        """The protocol's object, once it is started, if it has `start` and `stop`."""
        self._concurrency = 1
        self.grace_s = 1.0
        self._max_bytes = MAX_VALUE_BYTES
        self._inline_bytes, self.max_blob_bytes = INLINE_BYTES, MAX_BLOB_BYTES
        self.large: LargeValues
        self.config: Mapping[str, object] = {}
        self.secrecy: Secrecy
        self.log = logging.getLogger("podium.protocol")
        self.keep_line: Callable[[str], None] = lambda _line: None
        """Writes a line that a step logs to the log file of the protocol."""
        self._waiting: deque[_Attempt] = deque()
        self._lanes: defaultdict[int, deque[_Attempt]] = defaultdict(deque)
        """Attempts that wait for permits, by number of the lane."""
        self._active: set[_Attempt] = set()

    async def start(self, setup: Mapping[str, Any]) -> None:
        """Load the protocol, and start its object.

        Args:
            setup: ref, name, concurrency, grace_s, max_value_bytes, inline_bytes, max_blob_bytes, blobs_timeout_s,
                config, secrets, log_bytes, log_files, search_path, code (pickle or None).
        """
        target = self.world.load_protocol(setup["ref"], setup.get("code"), setup.get("search_path") or [])
        self._concurrency = setup["concurrency"]
        self.grace_s, self._max_bytes = setup["grace_s"], setup["max_value_bytes"]
        self._inline_bytes, self.max_blob_bytes = setup["inline_bytes"], setup["max_blob_bytes"]
        self.large = LargeValues(self.world, setup["blobs_timeout_s"], setup["max_blob_bytes"])
        self.config = setup["config"]
        self.secrecy = Secrecy(setup["secrets"], self.world.read_secret)
        RESOLVER.set(self.secrecy)
        resolve_in_threads(self.secrecy)
        if setup["log_bytes"]:
            self.keep_line = self.world.open_log(setup["name"], setup["log_bytes"], setup["log_files"])
        self.log = logging.getLogger(f"podium.protocol.{setup['name']}")
        try:
            self.binding = Binding(target)
            if isinstance(self.binding.live, Protocol):
                self._live = self.binding.live
                await self._live.start()
        except Exception as error:
            cleaned = self.secrecy.cleaned(error)
            if cleaned is error:
                raise
            raise cleaned from None

    async def stop(self) -> None:
        if self._live is not None:
            await self._live.stop()

    def receive(self, ask: Incoming) -> None:
        message = HOST.read(ask.kind, ask.payload)
        match message:
            case Run():
                self._take_in(_Attempt(self, ask, message), message.lane, message.permit)
            case Permit():
                ask.reply(PermitLeft(self._pass_on(message.lane, message.permit)))
                self._next()
            case Ping():
                ask.reply()
            case _:
                assert_never(message)

    def _take_in(self, attempt: _Attempt, lane: int | None, permit: str | None) -> None:
        if lane is None:
            self._waiting.append(attempt)
        else:
            self._lanes[lane].append(attempt)
            if permit is not None:
                self._pass_on(lane, permit)
        self._next()

    def _pass_on(self, lane: int, permit: str) -> str | None:
        """Give a permit to the next attempt of its lane; returns the permit if no attempt waits."""
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
        """Pass on the permit of an attempt whose code has ended; returns the permit if no attempt waits for it."""
        permit, attempt.permit = attempt.permit, None
        if permit is None or attempt.lane is None:
            return None
        left = self._pass_on(attempt.lane, permit)
        hit("permit passed on" if left is None else "permit goes back")
        return left

    def _next(self) -> None:
        while self._waiting and len(self._active) < self._concurrency:
            attempt = self._waiting.popleft()
            if not attempt.ended:
                self._active.add(attempt)
                attempt.begin()

    def released(self, attempt: _Attempt) -> None:
        """Free the place of an attempt whose code has really ended."""
        self._active.discard(attempt)
        self._next()

    def folder(self) -> str:
        return self.world.folder(self.binding.ref)

    async def read_input(self, input: Value) -> object:
        """Return the input of a run as `run` takes it. Large parts of it that are needed are read first."""
        if not MET[0] or not self.large.give_source(input):
            return self.binding.read_input(input)
        needed = list(needed_parts(self.binding.input, input))
        await self.large.fetch(needed)
        read = partial(copy_context().run, self.binding.read_input, input)
        value: object = await self.world.in_thread(read)  # to make objects of large contents may take long
        for part in needed:
            part.content = None  # the objects have what they need of it
        return value

    def plain(self, output: object) -> Outgoing:
        """Convert the value that `run` returned to plain data, or its question. Raises InvalidOutput."""
        return self._question(output) if isinstance(output, Ask) else self._plain_output(output)

    def _question(self, ask: Ask) -> Question:
        try:
            with LargeParts(self._inline_bytes, self.max_blob_bytes) as large:
                plain = check_value(plain_question(ask), "ask", self._max_bytes)
                value = large.lifted(plain, "ask", self._max_bytes)
                asked = self._checked(Outgoing(value, large), "ask")
            return Question(*asked)
        except (InvalidInput, InvalidDefinition) as error:
            raise InvalidOutput(str(error)) from error

    async def read_told(self, told: Value) -> tuple[tuple[Answer, ...], object]:
        """Return the answers that a step has asked for, and its `resume`, with their large parts."""
        if told is None:
            return (), None
        self.large.give_source(told)
        value: Any = await self.world.in_thread(partial(decoded, told)) if any(stored_in(told)) else decoded(told)
        return answers_of(value["answers"]), value["resume"]

    def _plain_output(self, output: object) -> Outgoing:
        """Convert the value that `run` returned to plain data. Raises InvalidOutput."""
        try:
            with LargeParts(self._inline_bytes, self.max_blob_bytes) as large:
                plain = self.binding.plain_output(output, self._max_bytes)
                return self._checked(Outgoing(large.lifted(plain, "output", self._max_bytes), large), "output")
        except InvalidInput as error:
            raise InvalidOutput(str(error)) from error

    def check_chunk(self, chunk: Value) -> Outgoing:
        """Return a copy of a chunk as plain data. Raises InvalidInput, in the user's call of `ctx.emit`."""
        with LargeParts(self._inline_bytes, self.max_blob_bytes) as large:
            plain = check_value(chunk, "chunk", self._max_bytes)
            outgoing = self._checked(Outgoing(large.lifted(plain, "chunk", self._max_bytes), large), "chunk")
            large.keep_copies()  # the code goes on, and may write into its arrays
        return outgoing

    def _checked(self, outgoing: Outgoing, name: str) -> Outgoing:
        """Raise InvalidInput if there is a secret in a value or in its large parts. Files are not looked through."""
        self.secrecy.check(outgoing.value, name)
        if self.secrecy.is_needed:
            for content in outgoing.large.contents():
                self.secrecy.check(content, name)
        return outgoing

    def failed(self, error: BaseException) -> StepResult:
        """Return the result of a run that raised, without any secret in it."""
        return failed(self.secrecy.black_out_all(failure_of(error, self.world.now()).to_wire()))


class _Attempt:
    """One run of the protocol on one input."""

    def __init__(self, host: ProtocolHost, ask: Incoming, run: Run) -> None:
        self._host, self._ask = host, ask
        self._run, self.lane = run, run.lane
        self._due_at = math.inf if run.left_s is None else host.world.monotonic() + run.left_s
        self.permit: str | None = None
        ask.on_cancel = self.cancel
        self.ended = False
        """Whether the answer was sent. The code may still be running: see ProtocolHost.released."""
        self._stopping: Failure | None = None
        self._work: asyncio.Task[StepResult] | None = None
        self._timer: Timer | None = None
        self._began_at = self._heard_at = 0.0
        self._used: dict[str, float] = {}
        self._in_code = False
        """Whether plain code of the user runs, which cannot be cancelled."""
        self._held: deque[StepSaid | Outgoing] = deque()
        """Chunks that wait for the first of them, which is being stored."""
        self._telling: asyncio.Task[None] | None = None

    def begin(self) -> None:
        world = self._host.world
        RESOLVER.set(self._host.secrecy)
        self._began_at = self._heard_at = world.monotonic()
        if self._run.timeout_s is not None or self._run.idle_timeout_s is not None:
            self._wind()
        self._work = asyncio.get_running_loop().create_task(self._work_off())
        self._work.add_done_callback(self._finished)

    def cancel(self) -> None:
        self._stop(Failure("cancelled", "the step was cancelled"))

    def _wind(self) -> None:
        """Set the timer for the first of the two time limits: of the run, and of its silence."""
        end = math.inf if self._run.timeout_s is None else self._began_at + self._run.timeout_s
        if self._run.idle_timeout_s is not None:
            end = min(end, self._heard_at + self._run.idle_timeout_s)
        if end < math.inf:
            self._set_timer(max(0.0, end - self._host.world.monotonic()), self._look_at_times)

    def _look_at_times(self) -> None:
        now = self._host.world.monotonic()
        used_s, silent_s = now - self._began_at, now - self._heard_at
        what = f"step '{self._run.path}' of task {self._run.task_id}"
        if self._run.timeout_s is not None and used_s >= self._run.timeout_s:
            message = f"{what} ran out of time: {self._run.timeout_s:g} s allowed, {used_s:.1f} s used"
            self._stop(Failure("timeout", message))
        elif self._run.idle_timeout_s is not None and silent_s >= self._run.idle_timeout_s:
            message = f"{what} gave no sign of life for {silent_s:.1f} s (ctx.heartbeat, ctx.emit or ctx.log)"
            self._stop(Failure("timeout", message))
        else:
            self._wind()

    def heard(self) -> None:
        """Note a sign of life of the code. This may be called in any thread."""
        self._heard_at = self._host.world.monotonic()

    def _stop(self, why: Failure) -> None:
        if self.ended or self._stopping is not None:
            return
        self._stopping = why
        if self._work is None:
            self._answer(failed(why.to_wire(), permit=self._host.free_permit(self)))
            return
        if self._host.binding.is_async or not self._in_code:
            self._work.cancel()
        self._set_timer(self._host.grace_s, self._stuck)

    def _stuck(self) -> None:
        assert self._stopping is not None
        self._answer(StepResult("fail", self._stopping.to_wire(), self._seconds(), stuck=True))

    async def _work_off(self) -> StepResult:
        """Run the code. Every exception becomes a result, even SystemExit, which would end the event loop otherwise."""
        try:
            return await self._outcome()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            failure = self._failed(error)
            with suppress(PodiumError):
                await self._chunks_told()
            return failure

    async def _outcome(self) -> StepResult:
        binding = self._host.binding
        input = await self._host.read_input(self._run.input)
        context = await self._context() if binding.takes_ctx else UNSEEN
        if binding.is_async:
            return await self._stored(self._host.plain(await binding.call(context, input)))
        work = partial(copy_context().run, self._outcome_of_plain_code, context, input)
        self._in_code = True
        outcome: StepResult | Outgoing = await self._host.world.in_thread(work)
        self._in_code = False
        return await self._stored(outcome) if isinstance(outcome, Outgoing) else outcome

    async def _stored(self, output: Outgoing) -> StepResult:
        """Return the result of a run when the large parts of its output and chunks are durable."""
        await self._chunks_told()
        status: Literal["ok", "ask"] = "ask" if isinstance(output, Question) else "ok"
        if not MET[0]:
            return StepResult(status, output.value)
        return StepResult(status, await self._host.large.stow(output, known=keys_in(self._run.input)))

    def _outcome_of_plain_code(self, context: Context, input: object) -> StepResult | Outgoing:
        """Run plain code, in a thread; an iterator that the code returns is used up here, too.

        No exception may leave this function, because a future cannot hold every kind of exception.
        """
        try:
            return self._host.plain(self._host.binding.call(context, input))
        except BaseException as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> StepResult:
        return self._host.failed(error)

    def _finished(self, work: asyncio.Task[StepResult]) -> None:
        if self._timer is not None:
            self._set_timer(None, None)
        if not self.ended:
            status, value, *_ = self._result(work)
            self._answer(StepResult(status, value, self._seconds(), False, self._host.free_permit(self), self._used))
        elif not work.cancelled():
            work.exception()  # read it, so that asyncio does not report it as never retrieved
        self._work = None  # else a task with an error and this attempt would refer to each other
        self._host.released(self)

    def _result(self, work: asyncio.Task[StepResult]) -> StepResult:
        if self._stopping is not None:
            return failed(self._stopping.to_wire())
        if work.cancelled():
            return failed(Failure("cancelled", "the step cancelled itself", "CancelledError").to_wire())
        error = work.exception()
        return work.result() if error is None else self._failed(error)

    def _answer(self, result: StepResult) -> None:
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

    async def _context(self) -> Context:
        world, run = self._host.world, self._run
        answers, resume = await self._host.read_told(run.told)
        due_at = min(self._due_at, math.inf if self._run.timeout_s is None else world.monotonic() + self._run.timeout_s)
        left = (lambda: None) if due_at == math.inf else (lambda: due_at - world.monotonic())
        log = _StepLog(self._host.log, {"task": run.task_id, "step": run.path})
        log.secrecy = self._host.secrecy
        log.tell = lambda level, text: self._chunk(StepLog(level, text))
        log.keep = self._host.keep_line
        return Context(
            task_id=run.task_id,
            step=run.path,
            attempt=run.attempt,
            user=run.user,
            deadline=None if due_at == math.inf else world.now() + due_at - world.monotonic(),
            log=log,
            origin=run.origin,
            config=self._host.config,
            answers=answers,
            resume=resume,
            _emit=self._emit,
            _heartbeat=self.heard,
            _cancelled=lambda: self._stopping is not None,
            _used=self._used,
            _folder=self._host.folder,
            _new_file=self._new_file,
            _left=left,
        )

    def _new_file(self, name: str) -> NewFile:
        return NewFile(self._host.large.for_code, name, self._host.max_blob_bytes)

    def _emit(self, value: Value) -> None:
        chunk = self._host.check_chunk(value)
        self._chunk(chunk if chunk.has_parts else StepChunk(chunk.value))

    def _chunk(self, chunk: StepSaid | Outgoing) -> None:
        self.heard()
        if self._host.binding.is_async:
            self._tell(chunk)
        else:
            self._host.world.from_thread(lambda: self._tell(chunk))

    def _tell(self, chunk: StepSaid | Outgoing) -> None:
        """Send a chunk, after those before it. One with large parts waits until these are durable."""
        if not self._held and not isinstance(chunk, Outgoing):
            self._ask.chunk(with_kind(chunk))
            return
        self._held.append(chunk)
        if len(self._held) == 1:
            self._telling = asyncio.get_running_loop().create_task(self._tell_held())

    async def _tell_held(self) -> None:
        while self._held:
            chunk = self._held[0]
            if isinstance(chunk, Outgoing):
                chunk = StepChunk(await self._host.large.stow(chunk))
            self._ask.chunk(with_kind(chunk))
            self._held.popleft()

    async def _chunks_told(self) -> None:
        """Wait until all chunks are sent. Raises BlobsAway if the large parts of one cannot be stored."""
        if self._telling is not None:
            await self._telling


class _StepLog(logging.LoggerAdapter[logging.Logger]):
    """Logs as usual, with task and step in the record, and also tells the watchers of the task, at every level.

    Logging never fails the work: a line that cannot be formatted is logged as message and arguments.
    """

    tell: Callable[[str, str], None]
    keep: Callable[[str], None]
    secrecy: Secrecy

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, object]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        name, line = logging.getLevelName(level).lower(), self.secrecy.black_out(_line(msg, args))
        self.tell(name, line)
        place = self.extra or {}
        trace = self.secrecy.black_out(_traced(kwargs.get("exc_info")))
        self.keep(f"{name} {place.get('task')} {place.get('step')}: {line}{trace}")
        if self.isEnabledFor(level) and self.secrecy.is_needed:
            kwargs |= {"exc_info": None, "extra": self.secrecy.black_out_all(dict(kwargs.get("extra") or {}))}
            super().log(level, "%s", line + trace, **kwargs)
        elif self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)


def _traced(exc_info: Any) -> str:
    """Return the traceback for a log line, to be appended to it; "" without an exception."""
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1] if exc_info else None
    return f"\n{trace_of(error)}" if error is not None else ""


def _line(msg: object, args: tuple[object, ...]) -> str:
    try:
        text = logging.LogRecord("", 0, "", 0, msg, args, None).getMessage()
    except Exception:
        text = _shown(msg, args)
    return sayable(text)


def _shown(msg: object, args: tuple[object, ...]) -> str:
    try:
        return f"{msg!r} {args!r}"
    except Exception as error:  # of the user's `__repr__`
        return f"a line that cannot be formatted: {type(error).__name__}"
