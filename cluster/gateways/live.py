"""Following one task on standard error: a live tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.live import Live

from ...protocols.errors import PodiumError
from ...protocols.outcomes import TaskEvent
from ..client import Task
from . import interrupts
from .terminal import error_console, styled
from .view import StepTree, event_line

REFRESH_HZ = 4


def follow(task: Task, title: str, timeout_s: float | None, quiet: bool, from_offset: int = 0) -> None:
    """Show what happens from an offset on, until the task ends.

    Raises:
        WaitTimedOut: not ended within `timeout_s`.
        KeyboardInterrupt: the person stopped watching.
    """
    interrupts.heed()
    if quiet:
        return
    console = error_console()
    tree = StepTree(styled((title, "bold"), " ", (task.id, "dim")))
    if not console.is_terminal:
        listener = Listener(task, from_offset, lambda event: console.print(event_line(event)))
        listener.start()
        listener.wait(timeout_s, lambda: None)
        return
    listener = Listener(task, from_offset, tree.take)
    listener.start()
    with Live(console=console, refresh_per_second=REFRESH_HZ, transient=False, auto_refresh=False) as live:
        listener.wait(timeout_s, lambda: live.update(tree.render(time.time()), refresh=True))


class Listener(threading.Thread):
    """Takes the task's events in a thread, so that the clock of the display ticks between them."""

    def __init__(self, task: Task, from_offset: int, on_event: Callable[[TaskEvent], None]) -> None:
        super().__init__(daemon=True, name="podium-watch")
        self._task, self._from_offset, self._on_event = task, from_offset, on_event
        self._ended = threading.Event()
        self._failure: PodiumError | None = None

    def run(self) -> None:
        try:
            for event in self._task.events(self._from_offset):
                self._on_event(event)
        except PodiumError as error:
            self._failure = error
        finally:
            self._ended.set()

    def wait(self, timeout_s: float | None, refresh: Callable[[], None]) -> None:
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.wait(1 / REFRESH_HZ):
            interrupts.check()
            refresh()
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise self._task.timed_out(timeout_s)
        refresh()
        if self._failure is not None:
            raise self._failure
