"""Takes over the open tasks of a shard: folds them again, and runs their unfinished steps.

A task that cannot be folded is set aside (`quarantine.py`), and the other tasks go on.
"""

from __future__ import annotations

from functools import partial

from ...protocols.errors import FixTheCall
from ...protocols.outcomes import Failure
from ...protocols.probes import hit
from ..admission.task_permits import TaskPermits
from ..messages.host import failed
from ..open_tasks import OpenTasks
from ..ports.journal import Journal, OpenTask
from ..ports.world import Clocks
from ..running.timers import Timers
from ..tasks.client_events import count_told
from ..tasks.events import Cancelled, Restarted, unpack_events
from ..tasks.fold import apply
from ..tasks.state import TaskState
from .quarantine import Quarantine


class Takeover:
    def __init__(
        self,
        world: Clocks,
        journal: Journal,
        open_tasks: OpenTasks,
        admission: TaskPermits,
        alarms: Timers,
        quarantine: Quarantine,
    ) -> None:
        self._world, self._journal, self._open_tasks = world, journal, open_tasks
        self._admission, self._alarms, self._quarantine = admission, alarms, quarantine

    def fold(self, found: list[OpenTask]) -> list[TaskState]:
        """Fold tasks and add them to the open tasks; returns the states of those that can be folded."""
        tasks = [self._folded_or_set_aside(each) for each in found]
        return [task for task in tasks if task is not None]

    def _folded_or_set_aside(self, found: OpenTask) -> TaskState | None:
        id = found.record.task_id
        if self._quarantine.reason(id) is not None:
            self._quarantine.keep(found)
            return None
        self._journal.doing.begin(id, len(found.bodies))
        try:
            task = self._folded(found)
        except Exception as error:
            self._quarantine.cannot_fold(found, error)
            return None
        finally:
            self._journal.doing.end()
        self._open_tasks.keep(task)
        return task

    def _folded(self, found: OpenTask) -> TaskState:
        """Fold a task. Raises any error of the fold, even if the fold would only fail the task.

        The predecessor did not meet that error, so the task is set aside and does not fail.
        """
        record = found.record
        task, _ = self._open_tasks.plans[record.hash].begin(record)
        for body in found.bodies:
            task.entries += 1
            for event in unpack_events(body):
                apply(task, event)
                task.told += count_told(event)
        if task.faults and task.outcome is not None:
            raise task.faults[-1]
        if task.hash not in self._open_tasks.plans:
            raise LookupError(f"task {record.task_id} went on with a version that is not there")
        task.faults.clear()
        return task

    def resume(self, tasks: list[TaskState], keep: list[str] | None) -> None:
        """Run the unfinished steps of tasks. In a nested supervisor, runs that are not in `keep` are cancelled."""
        if tasks:
            hit("open tasks taken over")
        unwanted = [] if keep is None else [id for id in self._quarantine.aside if id not in keep]
        for id in unwanted:
            self._quarantine.cancel(id, lambda: None)
        for task in tasks:
            is_dropped = keep is not None and task.record.task_id not in keep
            if is_dropped:
                hit("tier drops a task")
            if is_dropped and task.outcome is None and task.ending is None:
                undo = self._open_tasks.plans[task.hash].undo_on_cancel
                self._open_tasks.take(task, Cancelled(self._world.now(), undo))
            else:
                self._go_on(task)

    def _go_on(self, task: TaskState) -> None:
        stands = self._open_tasks.standing(task)
        if stands is not None:
            self._journal.write([stands])
        if task.outcome is not None:
            self._journal.write([self._open_tasks.entry(task, [])], partial(self._open_tasks.carry_out, task, []))
        for place in list(task.running.values()):
            if place.began:
                message = "its supervisor died while it ran, and it is to run at most once"
                self._open_tasks.step_ended(task, place, failed(Failure("uncertain", message).to_wire()))
            else:
                if place.emitted:
                    self._open_tasks.take(task, Restarted(place.path, self._world.now()))
                self._journal.doing.begin(task.record.task_id, task.entries)
                self._admission.run(task, place, recovered=True)
        self._journal.doing.end()
        self._alarms.resume(task)

    def redrive(self, id: str) -> None:
        """Fold a task again that was set aside, and go on with it. Raises FixTheCall if it still cannot be folded."""
        task = self._folded_or_set_aside(self._quarantine.release(id))
        if task is None:
            raise FixTheCall(f"task {id} is still stalled: {self._quarantine.reason(id)}")
        self._go_on(task)
