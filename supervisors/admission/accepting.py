"""Opens the tasks that were admitted: in memory at once, and on record with the changes that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...protocols.errors import PodiumError
from ...protocols.outcomes import Criticality, TaskRecord
from ...protocols.tree import Step
from ..open_tasks import OpenTasks
from ..ports.journal import Change, Found, Journal, NewTask
from ..tasks.events import Due, Event, Held
from ..tasks.fold import apply
from ..tasks.plan import Plan
from ..tasks.state import Effect, NodeRun, Run


@dataclass(slots=True)
class Candidate:
    """A submission that is not decided about yet."""

    record: TaskRecord
    payload_digest: str
    again: bool
    """Whether the sender may have sent the submission before."""
    source: str | None
    """Where the submission comes from: driver, cli, mcp; None for a nested run, which belongs to an accepted task."""
    criticality: Criticality
    timeout_s: float | None
    """Time limit of the task in seconds, if it has one of its own; else that of its workflow holds."""
    delay_s: float | None = None
    not_before: float | None = None
    """When the task may start; see `Submission`."""
    error: PodiumError | None = None
    known: Found | None = None
    effects: list[Effect] = field(default_factory=list)

    @property
    def starts_at(self) -> float:
        """UTC seconds at which the task may start: now, or later."""
        accepted_at = self.record.accepted_at
        if self.not_before is not None:
            return max(accepted_at, self.not_before)
        return accepted_at + (self.delay_s or 0.0)


class Accepting:
    def __init__(self, journal: Journal, open_tasks: OpenTasks) -> None:
        self._journal, self._open_tasks = journal, open_tasks

    def accept(self, plan: Plan, candidates: list[Candidate]) -> list[Change]:
        """Open tasks in memory; returns the changes that make them durable. Their effects follow after the commit."""
        self._open_tasks.clock.check()
        changes: list[Change] = []
        for candidate in candidates:
            self._journal.doing.begin(candidate.record.task_id, 0)
            changes += self._opened(plan, candidate)
        self._journal.doing.end()
        return changes

    def _opened(self, plan: Plan, candidate: Candidate) -> list[Change]:
        record = candidate.record
        task, effects = plan.begin(record)
        events: list[Event] = []
        if candidate.timeout_s is not None:
            events.append(Due(candidate.timeout_s, record.accepted_at))
        if candidate.starts_at > record.accepted_at:
            events.append(Held(candidate.starts_at, record.accepted_at))
            effects = []
        for event in events:
            effects += apply(task, event)
        self._open_tasks.faults.of(task)
        if any(isinstance(effect, Run) and _needs_permits(plan, record, effect.place) for effect in effects):
            task.record = record = replace(record, status="pending")
        self._open_tasks.keep(task)
        changes: list[Change] = [NewTask(record, candidate.payload_digest)]
        if events or task.outcome is not None:
            changes.append(self._open_tasks.entry(task, events))
        stands = self._open_tasks.standing(task)
        if stands is not None:
            changes.append(stands)
        candidate.effects = effects
        return changes


def _needs_permits(plan: Plan, record: TaskRecord, place: NodeRun) -> bool:
    if plan.needs_of(record):
        return True
    return isinstance(place.node, Step) and bool(plan.settings_in(place.node, record).quotas)
