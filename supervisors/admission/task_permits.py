"""What a task holds as a whole: its steps wait until it has all of that, and it is given back when the task has ended.

The permits are the workflow's `quotas`, and one of `background` for a task of a priority below 0. A task holds them as
long as something of it runs or waits to run, so one that is parked holds none until it goes on. They are not on record:
a supervisor that takes over asks for them again before it lets the steps go on, for those that had begun first, and the
runs of nested Hierarchies wait with them.

Nobody waits in a ring: a task gets all of its own in one decision and holds nothing until then, its steps need no more
of the same quotas, and what tasks hold and steps need may not go round (`supervisors/limits/holding.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from ...protocols.outcomes import TaskRecord
from ..limits.permit_client import PermitClient
from ..limits.permit_queue import Holder, Request, Who
from ..open_tasks import OpenTasks
from ..ports.messaging import Incoming
from ..running.dispatch import Dispatcher
from ..tasks.plan import Plan
from ..tasks.state import NodeRun, TaskState
from .admission import Slots

_NOBODY = Holder("", 0)
BEGUN_AT = 0.0
"""Of a task that had begun before its supervisor died, as if it had waited longest."""


class TaskPermits:
    def __init__(
        self,
        permits: PermitClient,
        open_tasks: OpenTasks,
        dispatcher: Dispatcher,
        later: Iterable[str],
    ) -> None:
        """`later` are the tasks of a tier that go on when the supervisor above says so."""
        self._permits, self._plans, self._tasks = permits, open_tasks.plans, open_tasks.tasks
        self._dispatcher = dispatcher
        self._waiting: dict[str, dict[NodeRun, bool]] = {}
        """By task: its steps that are due, and whether each was taken over."""
        self._later = set(later)
        self._tickets: dict[str, str] = {}
        """By task: what it holds."""
        self._wants = False
        self._asks: list[Incoming] = []

    def promise(self, ask: Incoming) -> None:
        """Answered when a task holds something for the first time."""
        self._asks.append(ask)
        self._tell()

    def run(self, task: TaskState, place: NodeRun, recovered: bool = False) -> None:
        """Have the step at `place` run as soon as its task holds all it needs."""
        plan, id = self._plans[task.hash], task.record.task_id
        needs = plan.needs_of(task.record)
        is_first = id not in self._waiting
        if id not in self._later and (not needs or id in self._tickets):
            self._dispatcher.run(plan, task, place, recovered)
            return
        self._waiting.setdefault(id, {})[place] = recovered
        if recovered:
            self._dispatcher.expect(plan, task, place)
        if is_first and id not in self._later:
            self._ask(task, needs, recovered and task.record.status != "pending")

    def _ask(self, task: TaskState, needs: Mapping[str, int], has_begun: bool) -> None:
        self._wants = True
        self._tell()
        record = task.record
        since, who = BEGUN_AT if has_begun else record.accepted_at, Who(user=record.user)
        wish = Request(_key(task), _NOBODY, needs, record.priority, since, task.order, who)
        self._permits.acquire(wish, partial(self._begin, task))

    def _tell(self) -> None:
        while self._wants and self._asks:
            self._asks.pop().reply()

    def _begin(self, task: TaskState, ticket: str) -> None:
        self._tickets[task.record.task_id] = ticket
        self._go_on(task)

    def proceed(self, id: str, task: TaskState | None) -> None:
        """The supervisor above says that a task may go on, if it is open here."""
        if id in self._later:
            self._later.discard(id)
            if task is not None:
                self._go_on(task)

    def _go_on(self, task: TaskState) -> None:
        for place, recovered in self._waiting.pop(task.record.task_id, {}).items():
            if task.running.get(place.path) is place:
                self._dispatcher.run(self._plans[task.hash], task, place, recovered)

    def settle(self, task: TaskState) -> None:
        """If the task has ended, or nothing of it runs, it holds nothing and waits for nothing."""
        id = task.record.task_id
        if task.running and task.outcome is None:
            return
        if self._waiting.pop(id, None) is not None and id not in self._later:
            self._permits.withdraw(_key(task))
        self._later.discard(id)
        if (ticket := self._tickets.pop(id, None)) is not None:
            self._permits.release(ticket)

    def slots(self, plan: Plan, record: TaskRecord) -> list[Slots]:
        """How much of each quota that such a task holds is taken by the tasks here, as far as limits are known."""
        needs = plan.needs_of(record)
        limits = {quota: limit for quota in needs if (limit := self._permits.limit(quota)) is not None}
        return [Slots(quota, self._taken(quota), needs[quota], limit) for quota, limit in limits.items()]

    def _taken(self, quota: str) -> int:
        holders = [task for task in self._tasks.values() if task.running]
        return sum(self._plans[task.hash].needs_of(task.record).get(quota, 0) for task in holders)

    def has(self, task: TaskState, place: NodeRun) -> bool:
        """Whether the step is under way, or waits for what its task needs."""
        return place in self._waiting.get(task.record.task_id, ()) or self._dispatcher.has(task, place)


def _key(task: TaskState) -> str:
    return f"task {task.record.task_id}"
