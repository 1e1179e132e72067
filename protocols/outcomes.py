"""How a step or a whole task can end, and the records of both that people see."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .values import Value

TaskStatus = Literal["pending", "running", "parked", "stalled", "completed", "failed", "cancelled"]
Criticality = Literal["critical_plus", "critical", "sheddable_plus", "sheddable"]
"""What a new task matters when not all can come in, the most first."""
BACKGROUND = -10
"""Priority for what nobody waits for: it gives way to everything that came up to ten times `age_s` after it."""
OPEN: frozenset[str] = frozenset({"pending", "running", "parked", "stalled"})
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step, or the task with it, failed.

    Codes: `error` (user code raised), `timeout`, `invalid_input`, `invalid_output`, `cancelled`, `host_lost`,
    `expression` (a CEL expression failed), `no_rule`, `too_many_visits`, `too_many_rounds`, `rejected` (a
    supervising protocol's verdict), `escalated`, `bad_verdict`, `bad_goto`, `too_few` (a quorum missed),
    `breaker_open` (the protocol's breaker refuses calls), `uncertain` (nobody knows what a run of an at-most-once step
    has done), `workflow_down` (its supervisor gave up, and `when_down` is `fail`), `stalled` (it had been set aside,
    and somebody dropped it), `internal` (a fault of Podium's).
    """

    code: str
    message: str
    kind: str = ""
    """Class name of the exception in user code, if there was one."""
    traceback: str = ""
    step: str = ""
    """Path of the step in the tree."""
    attempt: int = 1
    bases: tuple[str, ...] = ()
    """Names of the classes that `kind` derives from, below Exception: `OSError` of a ConnectionError."""
    retry_after_s: float | None = None
    """When the exception said to come back: its `retry_after_s` or `retry_after`, or its response's Retry-After."""
    note: str = ""
    """Why it was not tried again although the policy would have had another attempt."""

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Failure:
        return cls(**wire | {"bases": tuple(wire.get("bases", ()))})

    def at(self, step: str, attempt: int) -> Failure:
        """The same failure, placed in the tree, unless it already has a place."""
        if self.step:
            return self
        return replace(self, step=step, attempt=attempt)


@dataclass(slots=True)
class Outcome:
    """What came out of one run of one node: an output, or the failure that took its place."""

    output: Value = None
    failure: Failure | None = None

    def brief(self) -> dict[str, Value]:
        """As supervising protocols, `settled` joins and rules see it: {"output": …} or {"error": …}."""
        if self.failure is None:
            return {"output": self.output}
        return {"error": error_for_rules(self.failure)}


Missing: TypeAlias = dict[str, dict[str, Value]]
"""What a result lacks, and why: by what is missing, {"step": path, "error": what failed}; of what is missing in several
places the last, and "times"."""


def error_for_rules(failure: Failure) -> dict[str, Value]:
    return {"code": failure.code, "message": failure.message, "kind": failure.kind, "step": failure.step}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task as everybody may see it. Times are UTC seconds since 1970."""

    task_id: str
    workflow: str
    version: str
    hash: str
    """Content hash of the workflow tree that the task runs, whatever is deployed later."""
    input: Value
    user: str
    priority: int
    """Higher goes first."""
    key: str | None
    status: TaskStatus
    accepted_at: float
    finished_at: float | None = None
    result: Value = None
    failure: Failure | None = None
    degraded: Missing = field(default_factory=dict)
    """What the result lacks, because something stood in for it; of a completed task."""

    def ended(
        self, status: TaskStatus, at: float, result: Value, failure: Failure | None, degraded: Missing
    ) -> TaskRecord:
        """The record as it is from the task's end on."""
        return TaskRecord(
            self.task_id, self.workflow, self.version, self.hash, self.input, self.user, self.priority, self.key,
            status, self.accepted_at, at, result, failure, degraded,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        record["failure"] = self.failure and self.failure.to_wire()
        return record


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that happened to a task, as `task.events()` gives it.

    Kinds: `accepted`; `started` (value: None, or in an item of a list {"of": {path of the node over it: how many}}),
    `finished` (value: output), `retrying` (value: failure and retry_at), `lost`
    (its host died, it runs again) and `failed` (value: failure) of a step; `timed_out` of a node or the task;
    `parked`, `redriven` and `dropped` of a task that waits for a decision; `chunk` (value: what `ctx.emit` was given)
    and `log` (value: [level, text]) of a running step; `cut` where chunks are not recorded any more, because the task
    has emitted too much; last `completed` (value: result), `failed` (value: failure; no step) or `cancelled`.

    After `retrying` or `lost` of a step, its chunks so far count no more: the next ones are of another run. `started`,
    `parked` and `log` are live only, and so is `finished` of steps in a nested Hierarchy.
    """

    kind: str
    task_id: str
    at: float
    """UTC seconds since 1970."""
    step: str
    """Path of the step in the tree; empty for the task itself."""
    attempt: int
    value: Value
    offset: int | None = None
    """Its place among what is recorded of the task; None if it is told live only."""

    @property
    def is_last(self) -> bool:
        return not self.step and self.kind in TERMINAL
