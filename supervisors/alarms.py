"""Timers for the times that nodes and tasks have. What they ring for is decided by the fold, from the journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial

from .events import Event, Overdue, TimedOut
from .ports import Timer, World
from .state import Place, TaskState


class Alarms:
    def __init__(self, world: World, take: Callable[[TaskState, Event], None]) -> None:
        self._world, self._take = world, take
        self._timers: defaultdict[str, dict[str | None, Timer]] = defaultdict(dict)
        """By task and path; None is the task itself."""

    def set(self, task: TaskState, place: Place | None) -> None:
        """Have the time of a node, or without one of the task, ring if it is still running then."""
        time = task.time if place is None else place.time
        if task.outcome is not None or time is None or (place is not None and not _is_timed(task, place)):
            return
        left_s = time.left_s(self._world.now())
        path = None if place is None else place.path
        self._timers[task.record.task_id][path] = self._world.call_later(left_s, partial(self._ring, task, place))

    def resume(self, task: TaskState) -> None:
        """Set all alarms of a task that was folded again."""
        for place in [None, *task.timed.values()]:
            self.set(task, place)

    def calm(self, task: TaskState, place: Place) -> None:
        timer = self._timers.get(task.record.task_id, {}).pop(place.path, None)
        if timer is not None:
            timer.cancel()

    def clear(self, task: TaskState) -> None:
        for timer in self._timers.pop(task.record.task_id, {}).values():
            timer.cancel()

    def _ring(self, task: TaskState, place: Place | None) -> None:
        if place is None and task.outcome is None:
            self._take(task, Overdue(self._world.now()))
        elif place is not None and _is_timed(task, place):
            self._take(task, TimedOut(place.path, self._world.now()))


def _is_timed(task: TaskState, place: Place) -> bool:
    return task.timed.get(place.path) is place
