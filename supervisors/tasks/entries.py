"""Makes the journal entries of a task from its events. The last entry also holds the outcome of the task."""

from __future__ import annotations

from dataclasses import replace

from ...protocols.errors import InvalidInput
from ...protocols.outcomes import Failure, Outcome, TaskStatus
from ...protocols.stored import MET, NO_BLOBS
from ...protocols.values import MAX_VALUE_BYTES, pack
from ..figures.lacking import lacking
from ..ports.journal import Closing, Entry, StatusChange
from .client_events import count_told
from .events import Event, blobs_in, pack_events
from .state import TaskState


def entry_of(task: TaskState, events: list[Event], now: float, max_value_bytes: int = MAX_VALUE_BYTES) -> Entry:
    """Make the next journal entry of a task, after these events were folded in.

    If the task has ended, its record is updated and the entry has the outcome. A result that is larger than
    `max_value_bytes` when packed (it may be joined of many outputs) is refused: the task fails as `invalid_output`.
    """
    body = pack_events(events)
    closing = _closed(task, now, max_value_bytes) if task.outcome is not None else None
    task.entries += 1
    for event in events:
        task.told += count_told(event)
    return Entry(task.record.task_id, task.entries, body, closing, blobs_in(events) if MET[0] else NO_BLOBS)


def is_parked_or_was(task: TaskState) -> bool:
    """Whether the stored status of an open task is wrong: it became parked, or it is parked no longer."""
    return task.outcome is None and (task.record.status == "parked") != bool(task.parked)


def standing(task: TaskState, status: str) -> StatusChange:
    """Change the status in the record of an open task; returns the change to be stored."""
    task.record = replace(task.record, status=status)  # type: ignore[arg-type]
    return StatusChange(task.record.task_id, status)


def _closed(task: TaskState, now: float, max_value_bytes: int) -> Closing:
    assert task.outcome is not None
    result = None if task.outcome.failure else _packed_result(task, max_value_bytes)
    failure = task.outcome.failure
    status: TaskStatus = task.status  # type: ignore[assignment]
    lacks = {} if failure else lacking(task)
    task.record = task.record.ended(status, now, task.outcome.output, failure, lacks)
    trouble = failure.to_wire() if failure else lacks
    return Closing(status, now, result, pack(trouble) if trouble else None)


def _packed_result(task: TaskState, max_value_bytes: int) -> bytes | None:
    assert task.outcome is not None
    try:
        packed = pack(task.outcome.output)
        if len(packed) <= max_value_bytes:
            return packed
        problem = f"the result has {len(packed)} bytes packed, the limit is {max_value_bytes}"
    except InvalidInput as error:
        problem = f"the result: {error.problem}"
    task.outcome = Outcome(failure=Failure("invalid_output", problem, step=task.root.path or task.root.name))
    return None
