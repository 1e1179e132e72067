"""Follows one task on standard error: a live tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.live import Live

from ....protocols.errors import PodiumError
from ....protocols.outcomes import TaskEvent
from ....protocols.printable import one_line
from ...client.engine import Task
from . import interrupts
from .step_tree import MAX_SIBLINGS, StepTree, sizes_of
from .terminal import error_console, styled
from .view import clock_time, event_line

REFRESH_HZ = 4
TELL_S = 1.0
"""Seconds between two lines on the progress of a long list."""


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
        lines = Lines(console.print)
        listener = Listener(task, from_offset, lines.take)
        listener.start()
        listener.wait(timeout_s, lambda: None)
        return
    listener = Listener(task, from_offset, tree.take)
    listener.start()
    with Live(console=console, refresh_per_second=REFRESH_HZ, transient=False, auto_refresh=False) as live:
        listener.wait(timeout_s, lambda: live.update(tree.render(time.time(), console.height), refresh=True))


class Lines:
    """Tells events as plain lines, for when standard error is not a terminal. In a long list only items that went
    wrong have a line of their own. The number of ended items is told now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lists: dict[str, _List] = {}

    def take(self, event: TaskEvent) -> None:
        for path, size in sizes_of(event).items():
            if size > MAX_SIBLINGS and path not in self._lists:
                self._lists[path] = _List(size, event.at)
        among = next((path for path in self._lists if event.step.startswith(f"{path}[")), None)
        if among is None or event.kind not in ("started", "finished", "failed"):
            self._tell(event_line(event))
            return
        if event.kind == "failed":
            self._tell(event_line(event))
        if self._lists[among].counts(event, among):
            self._tell(f"{clock_time(event.at)} {one_line(among) or 'items'}: {self._lists[among].line()}")


class _List:
    """The progress of the items of one list."""

    def __init__(self, size: int, at: float) -> None:
        self.size, self._told_at = size, at
        self._begun: set[str] = set()
        self._ended = {"finished": 0, "failed": 0}
        self._has_plain_items = False

    def counts(self, event: TaskEvent, path: str) -> bool:
        """Take an event of a step in the list. Return whether it is time to tell the progress."""
        item, _, inside = event.step[len(path) + 1 :].partition("]")
        self._begun.add(item)
        self._has_plain_items = self._has_plain_items or not inside
        if event.kind in self._ended:
            self._ended[event.kind] += 1
        is_due = event.at - self._told_at >= TELL_S or (not inside and sum(self._ended.values()) == self.size)
        self._told_at = event.at if is_due else self._told_at
        return is_due

    def line(self) -> str:
        """Return the line on the progress. If an item is more than a step, no event tells that it has ended."""
        done = self._ended["finished"]
        failed = f", {self._ended['failed']} failed" if self._ended["failed"] else ""
        if self._has_plain_items:
            return f"{done} of {self.size} done{failed}"
        return f"{len(self._begun)} of {self.size} begun, {done} steps done{failed}"


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
