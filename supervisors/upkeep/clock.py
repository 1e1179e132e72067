"""Keeps time limits right when the system clock is set.

Records have UTC. But the time that a task or node has left must not depend on UTC: somebody may set the clock forward
or back, even while the supervisor is dead. So each supervisor compares UTC with the machine's monotonic clock. When
their difference has changed by more than `MOST_S`, each open task with time limits gets the event `Skewed`, and its
times move with the clock. The difference is noted in the shard, so that a successor on the same boot of the machine
notices a change, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..open_tasks import OpenTasks
from ..ports.journal import Journal, Note
from ..ports.world import World
from ..tasks.events import Skewed

MOST_S = 0.5
"""Seconds up to which a change is ignored: the clock is being corrected, or the two clocks were not read at once."""
_NOTE, _SET = "clock", "clock set"


class Clock:
    def __init__(
        self,
        world: World,
        journal: Journal,
        notes: Mapping[str, Any],
        open_tasks: OpenTasks,
    ) -> None:
        self._world, self._journal, self._open_tasks = world, journal, open_tasks
        boot, offset_s = world.clock()
        stored = notes.get(_NOTE)
        self.on_set: Callable[[], None] = lambda: None
        """Called when the clock was set, after all tasks in memory were told."""
        self.set_by_s = float(notes.get(_SET) or 0.0)
        self._offset_s = float(stored[1]) if stored and stored[0] == boot else offset_s
        if not stored or stored[0] != boot:
            self._note(boot, offset_s)

    def check(self) -> None:
        """Move the times of all tasks if the system clock was set since the last check."""
        boot, offset_s = self._world.clock()
        by_s = offset_s - self._offset_s
        if abs(by_s) <= MOST_S:
            return
        self._offset_s = offset_s
        self.set_by_s += by_s
        self._journal.write([Note(_SET, self.set_by_s)])
        self._note(boot, offset_s)
        self._world.log("warning", "clock was set", by_s=by_s)
        for task in list(self._open_tasks.tasks.values()):
            if task.outcome is None and (task.time or task.timed or any(p.wait_s for p in task.running.values())):
                self._open_tasks.take(task, Skewed(by_s, self._world.now()))
        self.on_set()

    def _note(self, boot: str, offset_s: float) -> None:
        self._journal.write([Note(_NOTE, [boot, offset_s])])
