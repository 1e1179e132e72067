"""What is recorded of a task, as those saw it who watched: for a task that has ended, or of which no cluster tells."""

from __future__ import annotations

from dataclasses import replace

from ...protocols.errors import InvalidInput
from ...protocols.outcomes import TERMINAL, TaskEvent
from ...supervisors.tasks.client_events import end_event, past_events, task_event
from ...supervisors.tasks.events import readable_events, unpack_events
from ...supervisors.tasks.history import record_then
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


def as_it_was(parts: list[StoredTask], entry: int) -> tuple[list[StoredTask], float]:
    """A task, and the runs of its nested Hierarchies, as they were after an entry of its journal, and when that was.

    The runs have journals of their own: of these stands what is not later than the entry, by the clocks of those who
    wrote it.

    Args:
        parts: the task, then the runs.
        entry: 0 is the acceptance.

    Raises:
        InvalidInput: there is no such entry, or one up to there cannot be read, so nobody knows what it changed.
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
