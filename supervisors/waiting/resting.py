"""Leaves tasks that only wait on disk, and wakes them when their time has come or somebody asks for them.

A task of which nothing runs rests. Its row says until when. At most `max_waiting_in_memory` of them stay in memory; for
the others there is one timer, for the first whose rest ends. So a million tasks that sleep cost disk, and nothing when
a supervisor starts.

Clocks: `Rests.clock_s` tells how often the clock had been set when the rest began. If it has been set since, the task
gets the event `Skewed` when it is woken. A rest that ends by time that passes ends sooner by the clock if that was set
back; so all that could have ended by then are woken and looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from ...protocols.probes import hit
from ...protocols.values import Value
from ..open_tasks import OpenTasks
from ..ports.journal import FIRST, Journal, Note, RestingTask, durable
from ..ports.world import Timer, World
from ..running.timers import Timers
from ..tasks.entries import take_for_listed
from ..tasks.events import Skewed
from ..tasks.state import TaskState
from ..upkeep.clock import Clock
from ..upkeep.takeover import Takeover

AHEAD_S = 5.0
"""Seconds before the end of its rest at which a task is taken back into memory."""
AT_ONCE = 1_000
"""Most tasks that are taken back at the same time."""
_HIGHEST = "clock set most"
Then: TypeAlias = Callable[[TaskState | None], None]


class Resting:
    def __init__(
        self,
        world: World,
        journal: Journal,
        open_tasks: OpenTasks,
        timers: Timers,
        takeover: Takeover,
        clock: Clock,
        notes: Mapping[str, Value],
        most_in_memory: int,
    ) -> None:
        self._world, self._journal, self._open_tasks, self._timers = world, journal, open_tasks, timers
        self._takeover, self._clock, self._most = takeover, clock, most_in_memory
        self._highest_s = max(float(notes.get(_HIGHEST) or 0.0), clock.set_by_s)
        """The highest that `set_by_s` of the clock has ever been."""
        self._in_memory: dict[str, None] = {}
        """Ids of tasks that rest and are in memory, the one that has rested longest first."""
        self._loading: dict[str, list[Then]] = {}
        self.on_disk: Counter[str] = Counter()
        """Number of tasks that rest and are not in memory, by the hash of their version."""
        self._cursor = FIRST
        """End and id of the last task that was taken back into memory because its time comes."""
        self._timer: Timer | None = None
        self._looks_at = math.inf
        """UTC seconds of the end of a rest for which the timer is set."""
        self._is_looking = False

    async def begin(self) -> None:
        """Count the tasks that rest, and look for the first whose rest ends."""
        self.on_disk = Counter(await self._journal.resting_counts())
        clock = self._clock
        clock.on_set = self._clock_was_set
        self._look_again()

    @property
    def count(self) -> int:
        """Number of open tasks that are not in memory."""
        return self.on_disk.total()

    @property
    def waiting(self) -> int:
        """Number of tasks that rest, in memory and on disk."""
        return self.count + len(self._in_memory)

    async def each(self, work: Callable[[TaskState], None]) -> None:
        """Do something with every task that rests, some at a time."""

        def do(task: TaskState | None) -> None:
            if task is not None and task.outcome is None:
                work(task)

        cursor = FIRST
        while found := await self._journal.resting(math.inf, AT_ONCE, cursor):
            for each in found:
                cursor = (each.rests.until, each.task_id)
                self.awaken(each.task_id, do)
            await durable(self._journal)

    @property
    def next_end(self) -> float:
        """UTC seconds of the first end of a rest, as far as known; `math.inf` without one."""
        tasks = (self._open_tasks.tasks[id] for id in self._in_memory)
        return min([self._looks_at, *(task.rests.until for task in tasks if task.rests is not None)])

    # falling asleep

    def settle(self, task: TaskState) -> None:
        """Note whether a task rests, after its effects were carried out."""
        id = task.record.task_id
        self._in_memory.pop(id, None)
        if task.rests is None or self._open_tasks.tasks.get(id) is not task:
            return
        self._in_memory[id] = None
        if len(self._in_memory) > self._most:
            oldest = next(iter(self._in_memory))
            del self._in_memory[oldest]
            task = self._open_tasks.tasks[oldest]
            self._journal.write([], partial(self._let_go, task, task.entries))

    def _let_go(self, task: TaskState, entries: int) -> None:
        """Let a task go from memory, now that all that was written of it is durable, unless it has moved since."""
        id, rests = task.record.task_id, task.rests
        if self._open_tasks.tasks.get(id) is not task or task.entries != entries or rests is None:
            return
        if (rests.until, id) <= self._cursor or rests.until <= self._world.now() + AHEAD_S:
            self._in_memory[id] = None  # it wakes soon
            return
        hit("resting task let go")
        self._in_memory.pop(id, None)
        self._open_tasks.let_go(task)
        self.on_disk[task.record.hash] += 1
        self._wind(rests.until)

    # waking

    def awaken(self, id: str, then: Then) -> None:
        """Call `then` with the open task of that id, which is taken back into memory if it rests; None without one."""
        task = self._open_tasks.tasks.get(id)
        if task is not None:
            then(task)
        elif id in self._loading:
            self._loading[id].append(then)
        else:
            self._loading[id] = [then]
            self._journal.resting_task(id, partial(self._load, id))

    def _load(self, id: str, found: RestingTask | None) -> None:
        task = self._open_tasks.tasks.get(id)
        if task is None and found is not None:
            task = self._loaded(found)
        for then in self._loading.pop(id, ()):
            then(task)
        if task is not None and task.outcome is None:
            self.settle(task)

    def _loaded(self, found: RestingTask) -> TaskState | None:
        """Fold a task that rests, and set its timers; None if it is set aside."""
        self.on_disk[found.task.record.hash] -= 1
        self.on_disk += Counter()  # without those at zero
        self._clock.check()
        tasks = self._takeover.fold([found.task])
        if not tasks:
            return None
        hit("resting task taken back")
        (task,) = tasks
        take_for_listed(task)
        task.rests = found.rests
        set_by_s = self._clock.set_by_s - found.rests.clock_s
        if set_by_s:
            self._open_tasks.take(task, Skewed(set_by_s, self._world.now()))
        else:
            self._timers.resume(task)
        return task

    # times

    @property
    def _set_back_s(self) -> float:
        """Seconds by which a rest may end sooner than it says, because the clock was set back since."""
        return self._highest_s - self._clock.set_by_s

    def _clock_was_set(self) -> None:
        if self._clock.set_by_s > self._highest_s:
            self._highest_s = self._clock.set_by_s
            self._journal.write([Note(_HIGHEST, self._highest_s)])
        self._look_again()

    def _wind(self, end: float) -> None:
        """Set the timer for the end of a rest, unless it rings before."""
        if end >= self._looks_at:
            return
        self._looks_at = end
        if self._timer is not None:
            self._timer.cancel()
        left_s = end - AHEAD_S - self._world.now()
        self._timer = self._world.call_later(max(0.0, left_s), self._look_again)

    def _look_again(self) -> None:
        self._looks_at = math.inf
        if not self._is_looking:
            self._is_looking = True
            self._world.background(self._look(), "resting")

    async def _look(self) -> None:
        """Take all tasks back whose rest ends soon, some at a time, and set the timer for the next."""
        while True:
            self._is_looking = True
            until = self._world.now() + AHEAD_S + self._set_back_s
            found = await self._journal.resting(until, AT_ONCE, self._cursor)
            for each in found:
                self._cursor = (each.rests.until, each.task_id)
                self.awaken(each.task_id, lambda _task: None)
            if len(found) == AT_ONCE:
                await durable(self._journal)
                continue
            self._is_looking = False
            for first in await self._journal.resting(_LATEST, 1, self._cursor):
                self._wind(first.rests.until - self._set_back_s)
            return


_LATEST = 1e300
"""Later than every end of a rest that is not for ever."""
