"""Lists the recorded events of a task, one row for each event, for `podium show --events`. Pure.

Each row has the number of the journal entry with which the event was committed. Watchers see the events in another form
(client_events.py): events that change nothing for them are left out, and each chunk is an event of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from ...protocols.outcomes import TaskRecord
from ...protocols.values import Value
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
    unpack_events,
)

UNREADABLE = "unreadable"
"""Kind of the row for a journal entry that cannot be read."""


@dataclass(frozen=True, slots=True)
class Journalled:
    """One recorded event. Entry 0 is the acceptance, which is in the record of the task."""

    entry: int
    at: float | None
    """UTC seconds; None for an entry that cannot be read."""
    kind: str
    step: str
    """Path of the node run; "" for an event of the whole task."""
    attempt: int | None
    """The attempt that the event belongs to; None for an event of the whole task."""
    says: dict[str, Value]
    """The other recorded values of the event, by name."""

    def to_json(self) -> dict[str, object]:
        told: dict[str, object] = {"entry": self.entry, "at": self.at, "kind": self.kind}
        return told | {"step": self.step or None, "attempt": self.attempt, "says": self.says}


def journalled_events(record: TaskRecord, bodies: Iterable[bytes]) -> list[Journalled]:
    """Return all recorded events of a task, the acceptance first.

    Nothing is folded, so an entry that cannot be read has a row of its own and hides no other entry.
    """
    accepted: dict[str, Value] = {"input": record.input, "version": record.version, "hash": record.hash}
    rows = [Journalled(0, record.accepted_at, "accepted", "", None, accepted)]
    attempts = Attempts()
    for entry, body in enumerate(bodies, 1):
        try:
            events = unpack_events(body)
        except Exception as error:  # written by a later Podium, or damaged
            problem = f"{type(error).__name__}: {error}"
            rows.append(Journalled(entry, None, UNREADABLE, "", None, {"problem": problem, "bytes": len(body)}))
            continue
        rows += [_row(entry, event, attempts.of(event)) for event in events]
    return rows


def _row(entry: int, event: Event, attempt: int | None) -> Journalled:
    kind, says = _said(event)
    path = "" if isinstance(event, OF_THE_TASK) else event.path
    return Journalled(entry, event.at, kind, path, attempt, says)


def _said(event: Event) -> tuple[str, dict[str, Value]]:
    """Return the kind of an event and its other recorded values. The kind is that of the client event, if any."""
    match event:
        case StepFinished():
            return "finished", {"output": event.output} | ({"degraded": event.degraded} if event.degraded else {})
        case StepFailed(retry_at=None):
            return "failed", {"failure": event.failure.to_wire(), "actions": list(event.actions)}
        case StepFailed():
            return "retrying", {"failure": event.failure.to_wire(), "retry_at": event.retry_at}
        case StepBegan():
            return "began", {}
        case StepLost():
            return "lost", {}
        case Restarted():
            return "restarted", {}
        case TimedOut():
            return "timed_out", {"code": event.code, "actions": list(event.actions)}
        case Overdue():
            return "timed_out", {"limit_s": event.limit_s}
        case Due():
            return "time_limit", {"timeout_s": event.timeout_s}
        case Held():
            return "held", {"until": event.until}
        case Emitted():
            return "emitted", {"chunks": event.chunks, "is_cut": event.is_cut}
        case Relayed():
            return "relayed", {"events": event.events, "next": event.next}
        case Cancelled():
            return "cancelled", {"undo": event.undo}
        case Abandoned():
            return "workflow_down", {"reason": event.reason}
        case Redriven():
            return "redriven", {"of": event.of, "by": event.by, "hash": event.hash or None}
        case Dropped():
            return "dropped", {"by": event.by}
        case Skewed():
            return "clock_set", {"by_s": event.by_s}
        case Answered():
            who = {"by": event.by, "via": event.via, "id": event.id, "for": event.path or None}
            return "answered", {"name": event.name, "value": event.value, **who}
        case StepAsked():
            return "asked", {
                "name": event.ask["wait"]["wait"],
                "show": event.ask["show"],
                "resume": event.ask["resume"],
            }
        case WaitBelow():
            return "wait_below", {"for": event.wait, "name": event.ask["wait"]["wait"], "show": event.ask["show"]}
        case WaitBelowOver():
            return "wait_over", {"for": event.wait}
        case Woke():
            return "woke", {}
        case _:
            assert_never(event)
