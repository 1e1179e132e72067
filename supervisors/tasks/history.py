"""The history of a task, step by step, from the events that its shards recorded; for `show` and the live view. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...protocols.outcomes import OPEN, Failure, TaskRecord, TaskStatus
from ...protocols.tree import Step, Wait
from ...protocols.workflow import Workflow
from ..figures.lacking import lacking
from ..upkeep.blocked import CODE_CHARS
from .events import Event, Held, StepAsked, StepFailed, StepFinished, readable_events
from .fold import apply, begin
from .folding import CANCELLED
from .modes.parallel import sizes_around
from .modes.waiting import AT_TIMEOUT
from .state import Awaited, Awaits, Effect, NodeRun, TaskState

StepStatus = Literal["open", "waiting", "retrying", "running", "parked", "completed", "failed", "cancelled"]


@dataclass(slots=True)
class StepRow:
    """One run of one step. The status `open` means due or running: the store does not know which."""

    path: str
    status: StepStatus
    attempt: int
    opened_at: float
    """UTC seconds at which the step became due."""
    ended_at: float | None = None
    failure: Failure | None = None
    """Failure of the last failed attempt."""
    protocol: str = ""
    """Reference of the step's protocol; "" for a nested Hierarchy."""
    waits: str = ""
    """Reason why a due step does not run, if it is known; of a node that waits, what it waits for."""
    asks: str = ""
    """Name of the answer that a node waits for."""
    until: float | None = None
    """UTC seconds at which the time of a node that waits is over, if it has a bound."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the lists that the step is in an item of, by the path of the Parallel node over each list."""

    def to_json(self) -> dict[str, object]:
        return {
            "path": self.path,
            "status": self.status,
            "attempt": self.attempt,
            "opened_at": self.opened_at,
            "ended_at": self.ended_at,
            "error": self.failure.to_wire() if self.failure else None,
            "waits": self.waits or None,
            "asks": self.asks or None,
            "until": self.until,
        }


def step_rows(record: TaskRecord, definition: Mapping[str, object], bodies: Iterable[bytes]) -> list[StepRow]:
    """Return a row for every run of every step so far, in the order in which they ended; open runs come last.

    For a task that is set aside, only the events that can be read count.
    """
    root = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    task, effects = begin(record, root, record.task_id.partition("/")[2])
    rows: dict[str, StepRow] = {}
    _note_waits(rows, effects, record.accepted_at)
    for event in readable_events(bodies):
        _note(rows, task, event)
        if isinstance(event, Held):
            rows.clear()  # it has not begun
        before = {} if isinstance(event, Held) else {**task.parked, **task.running}
        _note_waits(rows, apply(task, event), event.at)
        _note_stopped(rows, before, task, event)
        _note_parked(rows, task)
    if record.status in OPEN:
        for place in task.running.values():
            row = rows.setdefault(place.path, _row(place, "open"))
            row.attempt = place.attempt
            if row.status in ("parked", "failed", "waiting"):
                row.status, row.ended_at = "open", None
    return list(rows.values())


def record_then(record: TaskRecord, definition: Mapping[str, object], events: Iterable[Event]) -> TaskRecord:
    """Return the record of a task as it was after these events, which are the first of all its events."""
    root = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    task, _ = begin(record, root, record.task_id.partition("/")[2])
    at = record.accepted_at
    for event in events:
        if task.outcome is None:
            at = event.at
        apply(task, event)
    if task.outcome is None:
        status: TaskStatus = task.status  # type: ignore[assignment]
        return replace(record, status=status, finished_at=None, result=None, failure=None, degraded={})
    ended: TaskStatus = task.status  # type: ignore[assignment]
    result, failure = task.outcome.output, task.outcome.failure
    return record.ended(ended, at, result, failure, {} if failure else lacking(task))


def note_blocked(rows: Iterable[StepRow], code: Mapping[str, str], blocked: Mapping[str, Mapping[str, str]]) -> None:
    """Set `waits` of the open steps for whose protocols no host can start.

    Args:
        code: fingerprints of the version that the task runs, by protocol.
        blocked: reasons by protocol, as `blocked_protocols` returns them.
    """
    for row in rows:
        whys = blocked.get(row.protocol, {})
        why = whys.get(code[row.protocol][:CODE_CHARS]) if row.protocol in code else next(iter(whys.values()), None)
        if row.status == "open" and why:
            row.waits = f"no host of '{row.protocol}' can start: {why}"


def _row(place: NodeRun, status: StepStatus) -> StepRow:
    ref = place.node.step if isinstance(place.node, Step) else ""
    return StepRow(place.path, status, place.attempt, place.opened_at, protocol=ref, sizes=sizes_around(place))


def _note(rows: dict[str, StepRow], task: TaskState, event: Event) -> None:
    if not isinstance(event, StepFinished | StepFailed | StepAsked) or event.path not in task.running:
        return
    place = task.running[event.path]
    row = rows.setdefault(event.path, _row(place, "completed"))
    row.attempt, row.ended_at = place.attempt, event.at
    row.status = "waiting" if isinstance(event, StepAsked) else "completed"
    if isinstance(event, StepFailed):
        row.failure = event.failure
        row.status = "failed" if event.retry_at is None else "retrying"


def _note_waits(rows: dict[str, StepRow], effects: Iterable[Effect], at: float) -> None:
    for effect in effects:
        if isinstance(effect, Awaits):
            row = rows[effect.place.path] = _row(effect.place, "waiting")
            row.waits, row.until = _awaited(effect.place), effect.place.time and effect.place.time.until
            row.asks = effect.place.node.wait if isinstance(effect.place.node, Wait) else ""
        elif isinstance(effect, Awaited):
            row, outcome = rows.setdefault(effect.place.path, _row(effect.place, "open")), effect.place.outcome
            row.waits, row.asks, row.until = "", "", None
            row.ended_at, row.failure = at, None if outcome is None else outcome.failure
            row.status = _status(effect.place)


def _awaited(place: NodeRun) -> str:
    """Return what a node run waits for."""
    node = place.node
    if not isinstance(node, Wait):
        return "its time"
    count = f"{node.need} answers" if node.need > 1 else "an answer"
    return f"{count}: {node.wait}" + (f", from {', '.join(node.who)}" if node.who else "")


def _status(place: NodeRun) -> StepStatus:
    """Return the status of a node run that waits no more."""
    if place.outcome is None or place.outcome.failure is CANCELLED.failure:
        return "failed" if place.failed or AT_TIMEOUT in place.children else "cancelled"
    return "completed" if place.outcome.failure is None else "failed"


def _note_parked(rows: dict[str, StepRow], task: TaskState) -> None:
    for path, place in task.parked.items():
        row = rows.setdefault(path, _row(place, "parked"))
        row.status, row.failure = "parked", place.parked


def _note_stopped(rows: dict[str, StepRow], before: dict[str, NodeRun], task: TaskState, event: Event) -> None:
    """Mark steps as cancelled that ran or were parked before the event, and neither do so now nor ended by it."""
    ended = event.path if isinstance(event, StepFinished | StepFailed | StepAsked) else None
    for path, place in before.items():
        if path not in task.running and path not in task.parked and path != ended:
            row = rows.setdefault(path, _row(place, "cancelled"))
            row.status, row.ended_at = "cancelled", event.at
