"""Turns the end of a task into its result or an error."""

from __future__ import annotations

from typing import Any

from ...protocols.errors import InvalidInput, TaskCancelled, TaskFailed
from ...protocols.results import Reader
from ...supervisors.messages.client import TaskEnded


def result_of(ended: TaskEnded, task_id: str, workflow: str, read: Reader) -> Any:
    """Return the result of a completed task, as `read` makes it of plain data. Raises TaskCancelled or TaskFailed."""
    if ended.status == "completed":
        try:
            return read(ended.result)
        except InvalidInput as error:
            raise InvalidInput(problem=f"the result of {task_id} does not fit: {error}", workflow=workflow) from error
    if ended.status == "cancelled" or ended.failure is None:
        raise TaskCancelled(task_id=task_id, workflow=workflow)
    raise TaskFailed(task_id=task_id, workflow=workflow, failure=ended.failure)
