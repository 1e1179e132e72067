"""Reads the state of a request, and the time since it is in that state, from the journal of its task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...protocols.outcomes import TERMINAL, TaskRecord
from ...protocols.requests.machine import State, has_stages
from ...protocols.requests.pipelines import NAME
from ...protocols.workflow import Workflow
from ...supervisors.figures.lifecycle import transitions
from ..store.contract import Reader, StoredTask


@dataclass(frozen=True, slots=True)
class RequestState:
    """The state of one request."""

    state: State
    """The state's name ("The states of a request" in docs/requests.md)."""
    updated_at: float
    """The time at which the request entered the state, in UTC seconds."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"state": self.state, "updated_at": self.updated_at}


def request_state(stored: StoredTask) -> RequestState | None:
    """Return the state of a task that answers a request; None for a task of another workflow."""
    if not has_stages(Workflow.from_trusted({"name": "w", "root": stored.definition["root"]}).root):
        return None
    state, at = "received", stored.record.accepted_at
    for move in transitions(stored.record, stored.definition, stored.bodies):
        state, at = move.after, move.at
    if stored.record.status in TERMINAL:  # whatever ended it, the record has the last word
        return RequestState(stored.record.status, stored.record.finished_at or at)  # type: ignore[arg-type]
    return RequestState(state, at)  # type: ignore[arg-type]


def request_states(reader: Reader, records: Iterable[TaskRecord]) -> dict[str, RequestState]:
    """Return the states of the tasks that answer requests, by task id.

    The journal is read for open tasks only. Ended tasks are recognized by the name of their workflow: `ask`, or with
    hooks of their own `ask_…`.
    """
    found: dict[str, RequestState] = {}
    for record in records:
        if record.status in TERMINAL:
            if record.workflow == NAME or record.workflow.startswith(f"{NAME}_"):
                found[record.task_id] = RequestState(record.status, record.finished_at or record.accepted_at)  # type: ignore[arg-type]
        elif (stored := reader.find_task(record.task_id)) is not None and (state := request_state(stored)) is not None:
            found[record.task_id] = state
    return found
