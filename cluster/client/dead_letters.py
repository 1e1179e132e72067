"""Dead letters as clients see them: tasks that failed or are set aside, and steps that are parked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...protocols.outcomes import Failure, TaskRecord
from ...protocols.recovery import Category, category_of
from ...supervisors.tasks.history import step_rows
from ..store.contract import Reader, StoredTask


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that needs a decision: it failed, stalled or has parked steps, and nobody redrove or dropped it."""

    record: TaskRecord
    """Everything stored about the task."""
    failure: Failure
    """The reason. If several steps are parked, it is the reason of the first."""

    @property
    def id(self) -> str:
        """The id for `redrive` and `drop`: the task's id, or `<task>/<path>` for a parked run of a nested Hierarchy."""
        return self.record.task_id

    @property
    def category(self) -> Category:
        """The category of the failure (docs/workflows.md)."""
        return category_of(self.failure)

    def to_json(self) -> dict[str, Any]:
        """The letter as plain data."""
        return {"id": self.id, "category": self.category, "error": self.failure.to_wire(), **self.record.to_json()}


def dead_letters(
    reader: Reader,
    workflow: str | None = None,
    user: str | None = None,
    category: Category | None = None,
    limit: int | None = 50,
) -> list[DeadLetter]:
    """Return the dead letters that fit all that is given, the newest first. A `limit` of None is no bound."""
    found = reader.dead_letters(workflow, user, limit if category is None else None)
    letters = [DeadLetter(stored.record, _failure_of(stored)) for stored in found]
    return [letter for letter in letters if category in (None, letter.category)][:limit]


def _failure_of(stored: StoredTask) -> Failure:
    if stored.record.failure is not None:
        return stored.record.failure
    if stored.stalled:
        return Failure("stalled", stored.stalled)
    rows = step_rows(stored.record, stored.definition, stored.bodies)
    parked = (row.failure for row in rows if row.status == "parked" and row.failure is not None)
    return next(parked, Failure("uncertain", "what was parked goes on by now"))
