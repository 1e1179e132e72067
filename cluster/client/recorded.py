"""Rebuilds the events and past states of a task from its journal, for ended tasks, or without a cluster."""

from __future__ import annotations

from dataclasses import replace

from ...protocols.errors import InvalidInput
from ...protocols.outcomes import TERMINAL, TaskEvent
from ...supervisors.tasks.client_events import end_event, past_events, task_event
from ...supervisors.tasks.events import readable_events, unpack_events
from ...supervisors.tasks.history import record_then
from ..store.contract import StoredTask

WENT_WRONG = frozenset({"retrying", "failed", "lost", "timed_out"})
"""Kinds of events that say why an attempt of a step did not succeed."""


def recorded_events(stored: StoredTask, from_offset: int = 0) -> list[TaskEvent]:
    """Return the events of a task from an offset on. If the task has ended, its end is the last event."""
    record = stored.record
    told = past_events(record, readable_events(stored.bodies))
    if record.status in TERMINAL:
        told.append(end_event(record, len(told)))
    events = [task_event(record.task_id, event) for event in told]
    return [event for event in events if event.offset is None or event.offset >= from_offset]


def as_it_was(parts: list[StoredTask], entry: int) -> tuple[list[StoredTask], float]:
    """Return a task and its nested runs as they were after an entry of its journal, and the time of that entry.

    The runs of nested Hierarchies have journals of their own. Their entries count up to the time of the task's entry,
    by the clocks of their writers. The time is in UTC seconds.

    Args:
        parts: the task, then its nested runs.
        entry: the number of the entry; 0 is the acceptance.

    Raises:
        InvalidInput: there is no such entry, or an entry up to there cannot be read.
    """
    task = parts[0]
    if entry > len(task.bodies):
        raise InvalidInput(problem=f"there is no entry {entry}: the last one is {len(task.bodies)}", path="--at")
    at = task.record.accepted_at
    for n, body in enumerate(task.bodies[:entry], 1):
        try:
            at = max([at, *(event.at for event in unpack_events(body))])
        except Exception as error:
            problem = f"entry {n} cannot be read, so nothing from there on is known: {error}"
            raise InvalidInput(problem=problem, path="--at") from error
    if entry == len(task.bodies):
        return parts, at
    runs = [_by_then(run, at) for run in parts[1:] if run.record.accepted_at <= at]
    return [_after(task, entry), *runs], at


def _by_then(run: StoredTask, at: float) -> StoredTask:
    times = [max((event.at for event in readable_events([body])), default=at) for body in run.bodies]
    late = next((n for n, when in enumerate(times) if when > at), len(times))
    return run if late == len(times) else _after(run, late)


def _after(stored: StoredTask, entry: int) -> StoredTask:
    bodies = stored.bodies[:entry]
    record = record_then(stored.record, stored.definition, readable_events(bodies))
    return replace(stored, record=record, bodies=bodies, stalled="")
