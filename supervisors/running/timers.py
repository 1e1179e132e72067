"""The time limits of open nodes and tasks, and one timer for the next of them.

The fold decides what follows when a time limit is over. Most nodes end long before their limit. So a limit that does
not end soon costs next to nothing: it is put aside, and checked every second whether its node still runs. Entries have
the ids of tasks and the paths of node runs, no references, so that ended tasks can be freed from memory at once.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol

from ...protocols.tree import Wait
from ..open_tasks import OpenTasks
from ..ports.world import Timer, Timing
from ..tasks.events import Event
from ..tasks.state import NodeRun, TaskState, Time

SOON_S = 2.0
LOOK_S = 1.0


class Late(Protocol):
    def late(self, task: TaskState, place: NodeRun | None) -> Event:
        """Return the event for a time limit that is over: of this node run, or of the task if `place` is None."""


class Timers:
    def __init__(self, world: Timing, open_tasks: OpenTasks, retries: Late) -> None:
        self._world, self._open_tasks, self._retries = world, open_tasks, retries
        self._soon: list[tuple[float, int, str, str | None, Time]] = []
        """Heap of (monotonic time, number, task id, path or None for the task itself, time limit)."""
        self._later: list[tuple[float, str, str | None, Time]] = []
        self._numbers = itertools.count()
        self._timer: Timer | None = None
        self._rings_at = 0.0
        self._looking = False

    def set(self, task: TaskState, place: NodeRun | None) -> None:
        """Set the timer for the time limit of a node run, or of the task if `place` is None."""
        self._open_tasks.clock.check()
        path, time = (None, task.time) if place is None else (place.path, place.time)
        if place is not None and isinstance(place.node, Wait) and "/" in task.record.task_id:
            return  # the task above decides about the waits of a nested run
        if time is None or not _counts(task, path, time):
            return
        left_s = time.left_s(self._world.now())
        at = self._world.monotonic() + left_s
        if left_s > SOON_S:
            self._later.append((at, task.record.task_id, path, time))
            self._look_later()
        else:
            heapq.heappush(self._soon, (at, next(self._numbers), task.record.task_id, path, time))
            self._wind()

    def resume(self, task: TaskState) -> None:
        """Set the timers for all time limits of a task that was taken over."""
        for place in [None, *task.timed.values()]:
            self.set(task, place)

    def catch_up(self, task: TaskState) -> None:
        """Take in the ends of all time limits of a task that are over by now."""
        self._open_tasks.clock.check()
        now = self._world.now()
        ends = [(None, task.time), *((place, place.time) for place in task.timed.values())]
        for place, time in ends:
            path = None if place is None else place.path
            if time is not None and time.left_s(now) <= 0 and _counts(task, path, time):
                self._open_tasks.take(task, self._retries.late(task, place))

    def __len__(self) -> int:
        return len(self._soon) + len(self._later)

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._world.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Drop the time limits that do not count any more, and move those that end soon to `_soon`."""
        self._looking = False
        soon = self._world.monotonic() + SOON_S
        later, self._later = self._later, []
        for entry in later:
            at, id, path, time = entry
            if self._running(id, path, time) is None:
                continue
            if at > soon:
                self._later.append(entry)
            else:
                heapq.heappush(self._soon, (at, next(self._numbers), id, path, time))
        self._wind()
        if self._later:
            self._look_later()

    def _wind(self) -> None:
        if not self._soon or (self._timer is not None and self._rings_at <= self._soon[0][0]):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._soon[0][0]
        self._timer = self._world.call_later(max(0.0, self._rings_at - self._world.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._world.monotonic()
        while self._soon and self._soon[0][0] <= now:
            _, _, id, path, time = heapq.heappop(self._soon)
            task = self._running(id, path, time)
            if task is not None and time.is_moment and time.left_s(self._world.now()) > 0:
                self.set(task, None if path is None else task.timed[path])  # the two clocks differ by a little
            elif task is not None:
                self._open_tasks.take(task, self._retries.late(task, None if path is None else task.timed[path]))
        self._wind()

    def _running(self, id: str, path: str | None, time: Time) -> TaskState | None:
        """Return the task if this time limit still counts, else None."""
        task = self._open_tasks.tasks.get(id)
        return task if task is not None and _counts(task, path, time) else None


def _counts(task: TaskState, path: str | None, time: Time) -> bool:
    """Whether this time limit still counts: its node or task is open, and has not begun a new time limit."""
    if path is None:
        return task.outcome is None and task.ending is None and task.time is time
    place = task.timed.get(path)
    return place is not None and place.time is time
