"""Opening tasks that were let in: in memory at once, with the changes that make them durable."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..protocols.outcomes import TaskRecord
from ..protocols.tree import Step
from .events import Due
from .fold import apply
from .plan import Plan
from .ports import Change, Journal, NewTask
from .services import Engine
from .state import Place, Run

if TYPE_CHECKING:
    from .intake import Candidate


class Accepting:
    def __init__(self, journal: Journal, engine: Engine) -> None:
        self._journal, self._engine = journal, engine

    def accept(self, plan: Plan, candidates: list[Candidate]) -> list[Change]:
        """Open tasks in memory; returns what makes them durable. Their effects follow when that is done."""
        self._engine.check_clock()
        changes: list[Change] = []
        for candidate in candidates:
            self._journal.doing.begin(candidate.record.task_id, 0)
            changes += self._opened(plan, candidate)
        self._journal.doing.end()
        return changes

    def _opened(self, plan: Plan, candidate: Candidate) -> list[Change]:
        record = candidate.record
        task, effects = plan.begin(record)
        self._engine.report_faults(task)
        if any(isinstance(effect, Run) and _needs_permits(plan, record, effect.place) for effect in effects):
            task.record = record = replace(record, status="pending")
        if task.parked and task.outcome is None:
            task.record = record = replace(record, status="parked")
        self._engine.keep(task)
        changes: list[Change] = [NewTask(record, candidate.payload_digest)]
        if candidate.timeout_s is not None:
            due = Due(candidate.timeout_s, record.accepted_at)
            effects += apply(task, due)
            changes.append(self._engine.entry(task, [due]))
        elif task.outcome is not None:
            changes.append(self._engine.entry(task, []))
        candidate.effects = effects
        return changes


def _needs_permits(plan: Plan, record: TaskRecord, place: Place) -> bool:
    if plan.needs_of(record):
        return True
    return isinstance(place.node, Step) and bool(plan.settings_in(place.node, record).quotas)
