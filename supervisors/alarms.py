"""The times that nodes and tasks have, and one timer for the next of them.

What a time means when it is up is decided by the fold, from the journal. Most nodes end long before that, so a time
that is not up soon costs next to nothing: it is put aside, and looked at again every second, if its node still runs.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from .events import Event
from .ports import Timer, World
from .state import Place, TaskState, Time

SOON_S = 2.0
LOOK_S = 1.0


class Alarms:
    def __init__(
        self,
        world: World,
        take: Callable[[TaskState, Event], None],
        late: Callable[[TaskState, Place | None], Event],
    ) -> None:
        """`late` makes the event of a time that is up, `take` takes it in."""
        self._world, self._take, self._late = world, take, late
        self._soon: list[tuple[float, int, TaskState, Place | None, Time]] = []
        """A heap by monotonic time; without a place, of the task itself."""
        self._later: list[tuple[float, TaskState, Place | None, Time]] = []
        self._numbers = itertools.count()
        self._timer: Timer | None = None
        self._rings_at = 0.0
        self._looking = False

    def set(self, task: TaskState, place: Place | None) -> None:
        """Have the time of a node, or without one of the task, ring if it is still running then."""
        time = task.time if place is None else place.time
        if time is None or not _is_running(task, place, time):
            return
        left_s = time.left_s(self._world.now())
        at = self._world.monotonic() + left_s
        if left_s > SOON_S:
            self._later.append((at, task, place, time))
            self._look_later()
        else:
            heapq.heappush(self._soon, (at, next(self._numbers), task, place, time))
            self._wind()

    def resume(self, task: TaskState) -> None:
        """Set all alarms of a task that was folded again."""
        for place in [None, *task.timed.values()]:
            self.set(task, place)

    def __len__(self) -> int:
        return len(self._soon) + len(self._later)

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._world.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Forget what has ended, and have what is up soon ring."""
        self._looking = False
        soon = self._world.monotonic() + SOON_S
        later, self._later = self._later, []
        for at, task, place, time in later:
            if not _is_running(task, place, time):
                continue
            if at > soon:
                self._later.append((at, task, place, time))
            else:
                heapq.heappush(self._soon, (at, next(self._numbers), task, place, time))
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
            _, _, task, place, time = heapq.heappop(self._soon)
            if _is_running(task, place, time):
                self._take(task, self._late(task, place))
        self._wind()


def _is_running(task: TaskState, place: Place | None, time: Time) -> bool:
    """Whether this time still counts: a node that began anew has another."""
    if place is None:
        return task.outcome is None and task.ending is None and task.time is time
    return task.timed.get(place.path) is place and place.time is time
