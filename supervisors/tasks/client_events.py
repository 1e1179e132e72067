"""Translates the events of a task into the events that watchers see (`ClientEvent`), recorded ones and live ones. Pure.

Offsets count the recorded client events of a task. Offset 0 is its acceptance. A live event, which is not recorded, has
no offset.
"""

from __future__ import annotations

from typing import assert_never

from ...protocols.outcomes import TaskEvent, TaskRecord
from ...protocols.tree import Wait
from ...protocols.values import Value
from ..messages.client import ClientEvent, TaskEnded
from ..messages.supervisor import RunEnded
from .attempts import Attempts
from .events import (
    OF_THE_TASK,
    Abandoned,
    Answered,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Event,
    Held,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    Skewed,
    StepAsked,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
    WaitBelow,
    WaitBelowOver,
    Woke,
)
from .modes.parallel import sizes_around
from .state import NodeRun, TaskState

_RELAYED = frozenset({"chunk", "cut", "retrying", "lost", "failed", "timed_out"})


WAITS = "waits"
"""Kind of the live event by which a nested run tells the task above all of its open waits. Watchers do not see it."""


def is_relayed(event: ClientEvent) -> bool:
    """Whether a recorded event of a nested run is recorded in the task above, too.

    These are the chunks, and the events that make chunks of an attempt void.
    """
    return event.kind in _RELAYED and event.step != "" and event.offset is not None


_UNTOLD = (Cancelled, Abandoned, Due, Held, StepBegan, Skewed, WaitBelow, WaitBelowOver)
"""Events that no watcher sees."""


def task_ended(record: TaskRecord) -> TaskEnded:
    """Return the message that tells the followers of a task how the task ended."""
    failure = record.failure.to_wire() if record.failure else None
    return TaskEnded(record.task_id, record.status, record.result, failure, record.finished_at, record.degraded)


def run_ended(record: TaskRecord) -> RunEnded:
    """Return the message that tells the supervisor above how a nested run ended."""
    failure = record.failure.to_wire() if record.failure else None
    return RunEnded(record.status, record.result, failure, record.degraded)


def told_events(events: list[tuple[Event, int]], first: int) -> list[ClientEvent]:
    """Translate (event, attempt) pairs into client events; `first` is the offset of the first client event."""
    told: list[ClientEvent] = []
    for event, attempt in events:
        told += _seen(event, attempt)
    return [event._replace(offset=first + n) for n, event in enumerate(told)]


def seen_attempt(task: TaskState, event: Event) -> int:
    """Return the attempt that an event belongs to. Call this before the event is folded in."""
    if isinstance(event, OF_THE_TASK):
        return 1
    place = task.running.get(event.path) or task.timed.get(event.path)
    return 1 if place is None else place.attempt


def started_value(place: NodeRun) -> Value:
    """Return the value of the `started` event: the sizes of the lists around the step, or None if there are none."""
    sizes = sizes_around(place)
    return {"of": sizes} if sizes else None


def put_started(past: list[ClientEvent], place: NodeRun, now: float) -> None:
    """Insert a `started` event for the running attempt of a node run into `past`.

    The event stands before the first chunk of that attempt; without a chunk it is the last, with time `now`.
    """
    run = (place.path, place.attempt)
    own = (n for n, event in enumerate(past) if event.kind == "chunk" and (event.step, event.attempt) == run)
    first = next(own, len(past))
    at = past[first].at if first < len(past) else now
    past.insert(first, ClientEvent("started", at, *run, started_value(place)))


def count_told(event: Event) -> int:
    """Count the client events that a recorded event is translated into."""
    if isinstance(event, Emitted):
        return len(event.chunks) + event.is_cut
    if isinstance(event, Relayed):
        return len(event.events)
    return not isinstance(event, _UNTOLD)


def _seen(event: Event, attempt: int) -> list[ClientEvent]:
    """Translate one recorded event into client events, without offsets."""
    match event:
        case Emitted():
            return _emitted(event)
        case Relayed():
            return [ClientEvent(*row) for row in event.events]
        case StepFinished():
            return [ClientEvent("finished", event.at, event.path, attempt, event.output)]
        case StepFailed(retry_at=None):
            return [ClientEvent("failed", event.at, event.path, attempt, event.failure.to_wire())]
        case StepFailed():
            value = {"failure": event.failure.to_wire(), "retry_at": event.retry_at}
            return [ClientEvent("retrying", event.at, event.path, attempt, value)]
        case StepLost() | Restarted():
            return [ClientEvent("lost", event.at, event.path, attempt)]
        case TimedOut():
            return [ClientEvent("timed_out", event.at, event.path, attempt)]
        case Overdue():
            return [ClientEvent("timed_out", event.at, "", 1)]
        case Redriven():
            return [ClientEvent("redriven", event.at, "", 1, event.of)]
        case Dropped():
            return [ClientEvent("dropped", event.at, "", 1)]
        case Answered():
            answer = {"name": event.name, "value": event.value, "by": event.by, "via": event.via}
            return [ClientEvent("answered", event.at, event.path, 1, answer)]
        case StepAsked():
            asked = {"name": event.ask["wait"]["wait"], "shown": event.ask["show"]}
            return [ClientEvent("asked", event.at, event.path, attempt, asked)]
        case Woke():
            return [ClientEvent("woke", event.at, event.path, 1)]
        case Cancelled() | Abandoned() | Due() | Held() | StepBegan() | Skewed() | WaitBelow() | WaitBelowOver():
            return []
        case _:
            assert_never(event)


def _emitted(event: Emitted) -> list[ClientEvent]:
    told = [ClientEvent("chunk", event.at, event.path, event.attempt, chunk) for chunk in event.chunks]
    return [*told, ClientEvent("cut", event.at, event.path, event.attempt)] if event.is_cut else told


def parked_event(at: float) -> ClientEvent:
    """Make the event that tells watchers that the task is parked: a step waits for somebody's decision."""
    return ClientEvent("parked", at, "", 1)


def waiting_value(place: NodeRun) -> Value:
    """Return the value of the `waiting` event: what a Wait asks, and until when it or a Sleep waits."""
    until = None if place.time is None else place.time.until
    if not isinstance(place.node, Wait):
        return {"until": until}
    return {"name": place.node.wait, "shown": place.memory.shown, "digest": place.memory.digest, "until": until}


def waits_of(task: TaskState) -> list[Value]:
    """Return the open waits of a nested run, for the task above: rows of path and question."""
    rows: list[Value] = []
    for path, place in task.waiting.items():
        if isinstance(place.node, Wait):
            plain = place.node.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            plain = {key: value for key, value in plain.items() if key not in _OF_THE_NODE}
            rows.append([path, {"wait": plain, "show": place.memory.shown, "since": place.opened_at}])
    return rows


_OF_THE_NODE = ("on_timeout", "fallback", "otherwise", "undo", "with", "show", "name")
"""Settings of a wait that concern only the run that it is in."""


def past_events(record: TaskRecord, events: list[Event]) -> list[ClientEvent]:
    """Translate all events recorded so far into client events, with attempts counted from the events."""
    attempts = Attempts()
    counted = [(event, attempts.of(event) or 1) for event in events]
    return [ClientEvent("accepted", record.accepted_at, "", 1, None, 0), *told_events(counted, 1)]


def end_event(record: TaskRecord, offset: int) -> ClientEvent:
    """Make the last client event of a task that has ended."""
    value = record.failure.to_wire() if record.failure else record.result
    return ClientEvent(record.status, record.finished_at or 0.0, "", 1, value, offset)


def task_event(task_id: str, event: ClientEvent) -> TaskEvent:
    """Convert a client event to the form that users get."""
    return TaskEvent(event.kind, task_id, event.at, event.step, event.attempt, event.value, event.offset)
