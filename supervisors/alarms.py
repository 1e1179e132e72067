"""The times that nodes and tasks have, and one timer for the next of them.

What a time means when it is up is decided by the fold, from the journal. Most end long before that, so their entries
are left where they are, and thrown out together when there are too many.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from .events import Event, Overdue, TimedOut
from .ports import Timer, World
from .state import Place, TaskState

FEW = 10_000
"""Entries that are not worth throwing out."""


class Alarms:
    def __init__(self, world: World, take: Callable[[TaskState, Event], None]) -> None:
        self._world, self._take = world, take
        self._heap: list[tuple[float, int, TaskState, Place | None]] = []
        """By monotonic time; without a place, of the task itself."""
        self._numbers = itertools.count()
        self._most = FEW
        self._timer: Timer | None = None
        self._rings_at = 0.0

    def set(self, task: TaskState, place: Place | None) -> None:
        """Have the time of a node, or without one of the task, ring if it is still running then."""
        time = task.time if place is None else place.time
        if time is None or not _is_running(task, place):
            return
        at = self._world.monotonic() + time.left_s(self._world.now())
        heapq.heappush(self._heap, (at, next(self._numbers), task, place))
        if len(self._heap) > self._most:
            self._tidy()
        self._wind()

    def resume(self, task: TaskState) -> None:
        """Set all alarms of a task that was folded again."""
        for place in [None, *task.timed.values()]:
            self.set(task, place)

    def __len__(self) -> int:
        return len(self._heap)

    def _tidy(self) -> None:
        self._heap = [entry for entry in self._heap if _is_running(entry[2], entry[3])]
        heapq.heapify(self._heap)
        self._most = 2 * len(self._heap) + FEW

    def _wind(self) -> None:
        if not self._heap or (self._timer is not None and self._rings_at <= self._heap[0][0]):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._heap[0][0]
        self._timer = self._world.call_later(max(0.0, self._rings_at - self._world.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._world.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, _, task, place = heapq.heappop(self._heap)
            if _is_running(task, place):
                at = self._world.now()
                self._take(task, Overdue(at) if place is None else TimedOut(place.path, at))
        self._wind()


def _is_running(task: TaskState, place: Place | None) -> bool:
    return task.outcome is None if place is None else task.timed.get(place.path) is place
