"""What has happened to a task, as an entry of its journal; with the last one the task ends."""

from __future__ import annotations

from dataclasses import replace

from ..protocols.outcomes import TaskStatus
from ..protocols.values import pack
from .events import Event, pack_events
from .lacking import lacking
from .ports import Closing, Entry, Standing
from .state import TaskState
from .watchers import count_told


def entry_of(task: TaskState, events: list[Event], now: float) -> Entry:
    """The next entry of a task that these events have been folded into. If it has ended, its record says so then."""
    task.entries += 1
    for event in events:
        task.told += count_told(event)
    closing = _closed(task, now) if task.outcome is not None else None
    return Entry(task.record.task_id, task.entries, pack_events(events), closing)


def is_parked_or_was(task: TaskState) -> bool:
    """Whether an open task is parked now and its record does not say so, or the other way round."""
    return task.outcome is None and (task.record.status == "parked") != bool(task.parked)


def standing(task: TaskState, status: str) -> Standing:
    """What makes the record of an open task say how it stands."""
    task.record = replace(task.record, status=status)  # type: ignore[arg-type]
    return Standing(task.record.task_id, status)


def _closed(task: TaskState, now: float) -> Closing:
    assert task.outcome is not None
    failure = task.outcome.failure
    status: TaskStatus = task.status  # type: ignore[assignment]
    lacks = {} if failure else lacking(task)
    task.record = task.record.ended(status, now, task.outcome.output, failure, lacks)
    trouble = failure.to_wire() if failure else lacks
    return Closing(status, now, None if failure else pack(task.outcome.output), pack(trouble) if trouble else None)
