"""How a task ended, as a client is told, and what that means for whoever waits for its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..protocols.errors import TaskCancelled, TaskFailed
from ..protocols.values import Value


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task ended, as it was told."""

    status: str
    result: Value
    failure: dict[str, Any] | None


def result_of(ended: Ended, task_id: str, workflow: str) -> Value:
    """The result, or the error that says how the task ended."""
    if ended.status == "completed":
        return ended.result
    if ended.status == "cancelled" or ended.failure is None:
        raise TaskCancelled(task_id=task_id, workflow=workflow)
    raise TaskFailed(task_id=task_id, workflow=workflow, failure=ended.failure)
