"""Turns the end of a task into its result or an error."""

from __future__ import annotations

from ...protocols.errors import TaskCancelled, TaskFailed
from ...protocols.values import Value
from ...supervisors.messages.client import TaskEnded


def result_of(ended: TaskEnded, task_id: str, workflow: str) -> Value:
    """Return the result of a completed task. Raises TaskCancelled or TaskFailed otherwise."""
    if ended.status == "completed":
        return ended.result
    if ended.status == "cancelled" or ended.failure is None:
        raise TaskCancelled(task_id=task_id, workflow=workflow)
    raise TaskFailed(task_id=task_id, workflow=workflow, failure=ended.failure)
