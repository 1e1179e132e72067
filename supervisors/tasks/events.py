"""What can happen to a task after it was accepted, and its form in the journal.

These are the only inputs of the fold: everything else about a task follows from its input, its workflow tree
and this list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from ...protocols.outcomes import Failure, Missing
from ...protocols.recovery import USUAL, Actions
from ...protocols.values import Value, pack, unpack


@dataclass(slots=True)
class StepFinished:
    """`degraded` is what a nested Hierarchy said of its result."""

    path: str
    output: Value
    at: float
    degraded: Missing = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed. With `retry_at` (UTC seconds) another follows then; without, the step has failed.

    `actions` are those that its category has; of no interest as long as it is tried again.
    """

    path: str
    failure: Failure
    retry_at: float | None
    at: float
    actions: Actions = USUAL


@dataclass(frozen=True, slots=True)
class StepBegan:
    """An attempt of an at-most-once step is about to be sent to its host."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Redriven:
    """What is parked, or failed the task that this one continues (`of`), is to be tried again from the beginning."""

    of: str | None
    by: str
    """The request that asked for it: the same one that comes again is not to do it again."""
    at: float
    hash: str = ""
    """Of the version that it goes on with, if another than before: one with the same tree."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Somebody gave up what is parked: its failures stand."""

    by: str
    """As of Redriven."""
    at: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody cancelled the task; with `undo`, what it has done is taken back."""

    at: float
    undo: bool = False


@dataclass(frozen=True, slots=True)
class StepLost:
    """The host of the running attempt died, and the step may be why. It runs again, its attempts uncharged."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a running attempt has said with `ctx.emit`. Changes nothing; it is there for readers."""

    path: str
    attempt: int
    chunks: list[Value]
    at: float
    is_cut: bool = False
    """Whether the task has said as much as is kept: what follows is told live only."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a run of a nested Hierarchy has recorded, but no outputs. Changes nothing; it is there for readers."""

    path: str
    """Of the Hierarchy."""
    events: list[list[Value]]
    """[kind, at, step, attempt, value] each, as watchers see them."""
    next: int
    """Offset in the record of that run of what it has not told yet."""
    at: float


CHUNK_COST_BYTES = 64
"""What keeping one chunk costs beside its own bytes."""


def cost_of(chunks: list[Value]) -> int:
    """Bytes that count against `max_emitted_bytes`."""
    return sum(len(pack(chunk)) + CHUNK_COST_BYTES for chunk in chunks)


@dataclass(frozen=True, slots=True)
class Restarted:
    """A successor of the supervisor runs the attempt again, which had emitted something: that counts no more."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The workflow is down, and its tasks are not to wait: this one fails."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A node did not have its outcome in time: a failure with that code, and of a step with the actions that it has."""

    path: str
    at: float
    code: str = "timeout"
    actions: Actions = USUAL


@dataclass(frozen=True, slots=True)
class Due:
    """The task has to end within `timeout_s` of `at`, whatever its workflow says."""

    timeout_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """The task did not end within `limit_s`."""

    limit_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Skewed:
    """The clock was set forward by `by_s`, or back if that is below 0: what has a time keeps what is left of it."""

    by_s: float
    at: float


Event: TypeAlias = (
    StepFinished
    | StepFailed
    | StepBegan
    | StepLost
    | TimedOut
    | Due
    | Overdue
    | Cancelled
    | Abandoned
    | Redriven
    | Dropped
    | Emitted
    | Relayed
    | Restarted
    | Skewed
)
OF_THE_TASK = (Due, Overdue, Cancelled, Abandoned, Redriven, Dropped, Skewed)
"""Those that have no path."""


def pack_events(events: list[Event]) -> bytes:
    return pack(list(map(_to_wire, events)))


def unpack_events(body: bytes) -> list[Event]:
    return [_from_wire(wire) for wire in unpack(body, max_bytes=len(body))]


def readable_events(bodies: Iterable[bytes]) -> list[Event]:
    """The events of a task as far as they can be read: for those who look. Whoever goes on with it raises instead."""
    events: list[Event] = []
    for body in bodies:
        try:
            events += unpack_events(body)
        except Exception:  # of a later Podium, or of whatever the task is set aside for: its reason is told elsewhere
            break
    return events


def _to_wire(event: Event) -> list[Value]:
    match event:
        case StepFinished():
            ended = ["f", event.path, event.output, event.at]
            return [*ended, event.degraded] if event.degraded else ended
        case StepFailed():
            told = ["x", event.path, event.failure.to_wire(), event.retry_at, event.at]
            return told if event.actions == USUAL else [*told, list(event.actions)]
        case StepBegan():
            return ["b", event.path, event.at]
        case Redriven():
            redriven = ["r", event.of, event.by, event.at]
            return [*redriven, event.hash] if event.hash else redriven
        case Dropped():
            return ["g", event.by, event.at]
        case Cancelled():
            return ["c", event.at, event.undo]
        case StepLost():
            return ["l", event.path, event.at]
        case Emitted():
            return ["e", event.path, event.attempt, event.chunks, event.at, event.is_cut]
        case Relayed():
            return ["y", event.path, event.events, event.next, event.at]
        case Restarted():
            return ["s", event.path, event.at]
        case Abandoned():
            return ["a", event.reason, event.at]
        case TimedOut():
            return ["t", event.path, event.at, event.code, list(event.actions)]
        case Due():
            return ["d", event.timeout_s, event.at]
        case Overdue():
            return ["o", event.limit_s, event.at]
        case Skewed():
            return ["k", event.by_s, event.at]
        case _:
            assert_never(event)


def _from_wire(wire: list[Value]) -> Event:
    match wire:
        case ["f", path, output, at, *degraded]:
            return StepFinished(path, output, at, *degraded)
        case ["x", path, failure, retry_at, at, *actions]:
            return StepFailed(path, Failure.from_wire(failure), retry_at, at, tuple(actions[0]) if actions else USUAL)
        case ["b", path, at]:
            return StepBegan(path, at)
        case ["r", of, by, at, *hash]:
            return Redriven(of, by, at, *hash)
        case ["g", by, at]:
            return Dropped(by, at)
        case ["c", at, undo]:
            return Cancelled(at, undo)
        case ["l", path, at]:
            return StepLost(path, at)
        case ["e", path, attempt, chunks, at, is_cut]:
            return Emitted(path, attempt, chunks, at, is_cut)
        case ["y", path, events, next, at]:
            return Relayed(path, events, next, at)
        case ["s", path, at]:
            return Restarted(path, at)
        case ["a", reason, at]:
            return Abandoned(reason, at)
        case ["t", path, at, code, actions]:
            return TimedOut(path, at, code, tuple(actions))
        case ["d", timeout_s, at]:
            return Due(timeout_s, at)
        case ["o", limit_s, at]:
            return Overdue(limit_s, at)
        case ["k", by_s, at]:
            return Skewed(by_s, at)
    raise ValueError(f"unknown event {str(wire)[:80]}")
