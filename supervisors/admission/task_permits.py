"""The permits that a task holds as a whole. Its steps wait until it has all of them; they are released at its end.

These permits are the workflow's `quotas`, and one of `background` for a task with a priority below 0. A task holds them
as long as a step of it runs or waits to run; a parked task holds none until it goes on. The permits are not on record:
after a takeover the supervisor asks for them again before the steps go on. Tasks that had begun get theirs first, and
their nested runs wait with them.

There is no deadlock. A task gets all its permits in one decision and holds none before. Its steps need no more of the
same quotas. And held and needed quotas may not form a ring (`supervisors/limits/holding.py`).
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
"""Acceptance time in the request of a task that had begun before a takeover: as if it had waited longest."""


class TaskPermits:
    def __init__(
        self,
        permits: PermitClient,
        open_tasks: OpenTasks,
        dispatcher: Dispatcher,
        later: Iterable[str],
    ) -> None:
        """`later` are the ids of nested runs that go on only when the supervisor above submits them again."""
        self._permits, self._plans, self._tasks = permits, open_tasks.plans, open_tasks.tasks
        self._dispatcher = dispatcher
        self._waiting: dict[str, dict[NodeRun, bool]] = {}
        """By task: the due steps that wait, each with whether it was taken over from a predecessor."""
        self._later = set(later)
        self._tickets: dict[str, str] = {}
        """By task: the ticket of the permits that it holds."""
        self._wants = False
        self._asks: list[Incoming] = []

    def promise(self, ask: Incoming) -> None:
        """Keep the message `AwaitPermits`; it is answered when a task asks for permits for the first time."""
        self._asks.append(ask)
        self._tell()

    def run(self, task: TaskState, place: NodeRun, recovered: bool = False) -> None:
        """Run a step as soon as its task holds all its permits."""
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
        since, who = BEGUN_AT if has_begun else task.started_at, Who(user=record.user)
        wish = Request(_key(task), _NOBODY, needs, record.priority, since, task.order, who)
        self._permits.acquire(wish, partial(self._begin, task))

    def _tell(self) -> None:
        while self._wants and self._asks:
            self._asks.pop().reply()

    def _begin(self, task: TaskState, ticket: str) -> None:
        self._tickets[task.record.task_id] = ticket
        self._go_on(task)

    def proceed(self, id: str, task: TaskState | None) -> None:
        """Let a nested run of `later` go on, now that the supervisor above has submitted it again."""
        if id in self._later:
            self._later.discard(id)
            if task is not None:
                self._go_on(task)

    def _go_on(self, task: TaskState) -> None:
        for place, recovered in self._waiting.pop(task.record.task_id, {}).items():
            if task.running.get(place.path) is place:
                self._dispatcher.run(self._plans[task.hash], task, place, recovered)

    def settle(self, task: TaskState) -> None:
        """Release or withdraw the permits of a task that has ended, or of which no step is due or running."""
        id = task.record.task_id
        if task.running and task.outcome is None:
            return
        if self._waiting.pop(id, None) is not None and id not in self._later:
            self._permits.withdraw(_key(task))
        self._later.discard(id)
        if (ticket := self._tickets.pop(id, None)) is not None:
            self._permits.release(ticket)

    def slots(self, plan: Plan, record: TaskRecord) -> list[Slots]:
        """Describe the use of each quota that such a task would hold; quotas with an unknown limit are left out."""
        needs = plan.needs_of(record)
        limits = {quota: limit for quota in needs if (limit := self._permits.limit(quota)) is not None}
        return [Slots(quota, self._taken(quota), needs[quota], limit) for quota, limit in limits.items()]

    def _taken(self, quota: str) -> int:
        holders = [task for task in self._tasks.values() if task.running]
        return sum(self._plans[task.hash].needs_of(task.record).get(quota, 0) for task in holders)

    def has(self, task: TaskState, place: NodeRun) -> bool:
        """Whether the step is with the dispatcher, or waits for the permits of its task."""
        return place in self._waiting.get(task.record.task_id, ()) or self._dispatcher.has(task, place)


def _key(task: TaskState) -> str:
    return f"task {task.record.task_id}"
