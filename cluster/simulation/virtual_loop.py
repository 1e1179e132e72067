"""An event loop with virtual time, on which a simulated process can die without any cleanup.

When nothing is ready, time jumps to the next timer. Every callback belongs to the process in whose context it was
scheduled. When that process is dead, the callback is dropped. So no code of a dead process runs any more, not even
`finally` blocks and done-callbacks.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

START = 1_000_000.0
"""Time of the loop at which every simulation begins, in seconds."""


class Process:
    """A simulated process, which runs on the loop, and can be frozen or die."""

    def __init__(self, name: str) -> None:
        self.name, self.dead = name, False
        self._held: list[Callable[[], object]] | None = None
        self._left = 0
        self._at_zero: Callable[[], None] | None = None

    @property
    def is_frozen(self) -> bool:
        return self._held is not None

    def freeze(self) -> None:
        """Stop the process, as SIGSTOP does. Its callbacks are kept, and run when it thaws."""
        self._held = self._held or []

    def after(self, callbacks: int, call: Callable[[], None]) -> None:
        """Call `call` right before this process runs a callback: the first from now on if `callbacks` is 1."""
        self._left, self._at_zero = callbacks, call

    def enter(self) -> None:
        """Count a callback of this process that is about to run."""
        if self._at_zero is not None:
            self._left -= 1
            if self._left <= 0:
                call, self._at_zero = self._at_zero, None
                call()

    def hold(self, call: Callable[[], object]) -> None:
        assert self._held is not None
        self._held.append(call)

    def thaw(self) -> None:
        """Run what was kept, unless the process was killed meanwhile."""
        held, self._held = self._held or [], None
        for call in () if self.dead else held:
            asyncio.get_running_loop().call_soon(call)


PROCESS: ContextVar[Process | None] = ContextVar("podium_process", default=None)


class Deadlock(RuntimeError):
    """Raised when nothing is ready and no timer is set, but the simulation has not ended."""


class _Selector(selectors.SelectSelector):
    """A selector that never waits, but moves the virtual clock by the time that it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is ready, no timer is set, and the simulation has not ended")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._tasks: list[asyncio.Task[object]] = []
        self.uncaught: list[BaseException] = []
        self.set_task_factory(self._new_task)  # type: ignore[arg-type]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Collect uncaught errors, except errors of tasks whose result nobody asked for: a dead process cannot ask."""
        if "never retrieved" not in str(context.get("message")):
            self.uncaught.append(context.get("exception") or RuntimeError(context.get("message")))

    def time(self) -> float:
        return self._virtual.now

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        call = _Call(context.get(PROCESS), callback, args)
        call.handle = handle = super().call_soon(call, context=context)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        call = _Call(context.get(PROCESS), callback, args)
        call.handle = handle = super().call_at(when, call, context=context)
        return handle

    def _new_task(
        self, _loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, object], **kwargs: Any
    ) -> asyncio.Task[object]:
        task = asyncio.Task(work, loop=self, **kwargs)
        # A task that nobody refers to would be collected, and its `finally` blocks would run.
        self._tasks.append(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if len(self._tasks) > 4096:
            self._tasks = [each for each in self._tasks if not each.done()]
        return task


class _Call:
    """A callback that belongs to a process, or to none."""

    __slots__ = ("_args", "_callback", "_process", "handle")

    def __init__(self, process: Process | None, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self._process, self._callback, self._args = process, callback, args
        self.handle: asyncio.Handle

    def __call__(self) -> None:
        process = self._process
        if process is None:
            self._callback(*self._args)
            return
        if not (process.dead or process.is_frozen):
            process.enter()
        if process.is_frozen and not process.dead:
            process.hold(partial(copy_context().run, self._late))
        elif not process.dead:
            self._callback(*self._args)

    def _late(self) -> None:
        """Run the callback after a thaw, unless an earlier callback has cancelled it."""
        if not self.handle.cancelled():
            self._callback(*self._args)


def in_process(process: Process | None, call: Callable[[], object]) -> object:
    """Run `call` in the context of a process. Callbacks that it schedules belong to the process and die with it."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return context.run(call)
