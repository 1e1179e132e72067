"""What is recorded of a task, as those saw it who watched: for a task that has ended, or of which no cluster tells."""

from __future__ import annotations

from ...protocols.outcomes import TERMINAL, TaskEvent
from ...supervisors.tasks.client_events import end_event, past_events, task_event
from ...supervisors.tasks.events import readable_events
from ..store.contract import StoredTask

WENT_WRONG = frozenset({"retrying", "failed", "lost", "timed_out"})
"""Kinds of events that say why an attempt of a step did not do."""


def recorded_events(stored: StoredTask, from_offset: int = 0) -> list[TaskEvent]:
    """The events of a task from an offset on, its end included if it has ended."""
    record = stored.record
    told = past_events(record, readable_events(stored.bodies))
    if record.status in TERMINAL:
        told.append(end_event(record, len(told)))
    events = [task_event(record.task_id, event) for event in told]
    return [event for event in events if event.offset is None or event.offset >= from_offset]
