"""The events that can happen to a task after it was accepted, and their form in the journal.

Events are the only inputs of the fold. The whole state of a task follows from its input, its workflow tree and its list
of events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from ...protocols.outcomes import Failure, Missing
from ...protocols.recovery import USUAL, Actions
from ...protocols.stored import BlobKey, keys_in
from ...protocols.values import Value, pack, unpack


@dataclass(slots=True)
class StepFinished:
    """A step, or a nested run, has an output. `degraded` names what is missing from the result of a nested run."""

    path: str
    output: Value
    at: float
    degraded: Missing = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed. The next attempt follows at `retry_at` (UTC seconds); without `retry_at` the step has failed.

    `actions` are the actions for the failure's category. They have no effect as long as the step is retried.
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
    """Retry the parked steps from attempt 1; in a task that continues another (`of`), retry what failed there."""

    of: str | None
    by: str
    """Id of the redrive request: a request that is repeated has no effect."""
    at: float
    hash: str = ""
    """Hash of the version that the task goes on with, if it changes; the new version has the same tree."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Somebody dropped the parked steps: they have failed."""

    by: str
    """Id of the drop request, as for Redriven."""
    at: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody cancelled the task. The on_cancel steps of its finished nodes run.

    With `undo`, finished nodes without an on_cancel step run their undo step.
    """

    at: float
    undo: bool = False


@dataclass(frozen=True, slots=True)
class StepLost:
    """The host of the running attempt died, perhaps because of the step. The attempt runs again and is not counted."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Emitted:
    """A running attempt has emitted chunks with `ctx.emit`. They are for readers and do not change what runs next."""

    path: str
    attempt: int
    chunks: list[Value]
    at: float
    is_cut: bool = False
    """Whether the task has reached `max_emitted_bytes`: later chunks are told live only."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A nested run has recorded events (not outputs). They are for readers and do not change what runs next."""

    path: str
    """Path of the nested Hierarchy."""
    events: list[list[Value]]
    """Client events: [kind, at, step, attempt, value] each."""
    next: int
    """Offset, in the record of the nested run, of the first event that was not relayed yet."""
    at: float


CHUNK_COST_BYTES = 64
"""Bytes that one chunk counts in addition to its packed size."""


def cost_of(chunks: list[Value]) -> int:
    """Count the bytes of these chunks against `max_emitted_bytes`."""
    return sum(len(pack(chunk)) + CHUNK_COST_BYTES for chunk in chunks)


@dataclass(frozen=True, slots=True)
class Restarted:
    """A successor of the supervisor runs the attempt again. The chunks that the attempt emitted before are void."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The workflow is down: its open tasks fail as `workflow_down` and do not wait for it."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A node had no outcome within its time limit. `code` is that of the failure; `actions` are those of a step."""

    path: str
    at: float
    code: str = "timeout"
    actions: Actions = USUAL


@dataclass(frozen=True, slots=True)
class Due:
    """The task has a time limit of its own: it has to end within `timeout_s` of `at`."""

    timeout_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Held:
    """The task was accepted for later: it starts at `until` (UTC seconds)."""

    until: float
    at: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """The task did not end within its time limit of `limit_s` seconds."""

    limit_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Skewed:
    """The system clock was set forward by `by_s` seconds (back, if negative). Time limits keep the time left."""

    by_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer has come to the mailbox `name`, perhaps before any node waits for it."""

    name: str
    id: str
    """The sender's id of the answer: an answer that is repeated has no effect."""
    value: Value
    by: str
    """The user who has answered."""
    via: str
    """The way by which it came: driver, cli, mcp."""
    path: str
    """Path of the wait that it is for; "" for whichever wait of the name comes first."""
    at: float


@dataclass(frozen=True, slots=True)
class StepAsked:
    """An attempt ended with a question. The step runs again when the answer is there."""

    path: str
    ask: dict[str, Value]
    """{"wait": settings of the wait, "show", "resume"}."""
    at: float


@dataclass(frozen=True, slots=True)
class WaitBelow:
    """A node of a nested run has begun to wait for answers. The task decides about them, the nested run is told."""

    path: str
    """Path of the nested Hierarchy."""
    wait: str
    """Path of the node that waits."""
    ask: dict[str, Value]
    """{"wait": settings of the wait, "show", "since": UTC seconds}."""
    at: float


@dataclass(frozen=True, slots=True)
class WaitBelowOver:
    """A node of a nested run does not wait any more, because it was told, or was stopped."""

    path: str
    wait: str
    at: float


@dataclass(frozen=True, slots=True)
class Woke:
    """The time of a Sleep is over, or that until which the task was held."""

    path: str
    at: float


Event: TypeAlias = (
    StepFinished
    | StepFailed
    | StepBegan
    | StepLost
    | TimedOut
    | Due
    | Held
    | Overdue
    | Cancelled
    | Abandoned
    | Redriven
    | Dropped
    | Emitted
    | Relayed
    | Restarted
    | Skewed
    | Answered
    | StepAsked
    | WaitBelow
    | WaitBelowOver
    | Woke
)
OF_THE_TASK = (Due, Held, Overdue, Cancelled, Abandoned, Redriven, Dropped, Skewed, Answered)
"""Events of the task as a whole, which have no path."""


def pack_events(events: list[Event]) -> bytes:
    return pack(list(map(_to_wire, events)))


def blobs_in(events: list[Event]) -> frozenset[BlobKey]:
    """Return the keys of the blobs that events name."""
    return keys_in(list(map(_to_wire, events)))


def unpack_events(body: bytes) -> list[Event]:
    return [_from_wire(wire) for wire in unpack(body, max_bytes=len(body))]


def readable_events(bodies: Iterable[bytes]) -> list[Event]:
    """Return the events of a task up to the first entry that cannot be read.

    This is for display only. A supervisor that goes on with the task uses `unpack_events`, which raises.
    """
    events: list[Event] = []
    for body in bodies:
        try:
            events += unpack_events(body)
        except Exception:  # written by a later Podium, or damaged: then the task is set aside, with the reason
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
        case Held():
            return ["h", event.until, event.at]
        case Overdue():
            return ["o", event.limit_s, event.at]
        case Skewed():
            return ["k", event.by_s, event.at]
        case Answered():
            return ["m", event.name, event.id, event.value, event.by, event.via, event.path, event.at]
        case StepAsked():
            return ["q", event.path, event.ask, event.at]
        case WaitBelow():
            return ["n", event.path, event.wait, event.ask, event.at]
        case WaitBelowOver():
            return ["v", event.path, event.wait, event.at]
        case Woke():
            return ["w", event.path, event.at]
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
        case ["h", until, at]:
            return Held(until, at)
        case ["o", limit_s, at]:
            return Overdue(limit_s, at)
        case ["k", by_s, at]:
            return Skewed(by_s, at)
        case ["m", name, id, value, by, via, path, at]:
            return Answered(name, id, value, by, via, path, at)
        case ["q", path, ask, at]:
            return StepAsked(path, ask, at)
        case ["n", path, wait, ask, at]:
            return WaitBelow(path, wait, ask, at)
        case ["v", path, wait, at]:
            return WaitBelowOver(path, wait, at)
        case ["w", path, at]:
            return Woke(path, at)
    raise ValueError(f"unknown event {str(wire)[:80]}")
