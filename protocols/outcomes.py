"""How a step or a whole task can end, and the records of both that people see."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .values import Value

TaskStatus = Literal["pending", "running", "waiting", "parked", "stalled", "completed", "failed", "cancelled"]
Criticality = Literal["critical_plus", "critical", "sheddable_plus", "sheddable"]
"""How much a new task matters when not all can be accepted; the most important first (docs/limits.md)."""
BACKGROUND = -10
"""The priority for background work, -10: it gives way to tasks accepted up to ten times `age_s` after it."""
OPEN: frozenset[str] = frozenset({"pending", "running", "waiting", "parked", "stalled"})
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a step, or the task with it, failed.

    Codes: `error` (your code raised), `timeout`, `invalid_input`, `invalid_output`, `cancelled`, `host_lost` (the
    process died too often), `expression` (a CEL expression failed), `no_rule` (no rule of an Adaptive matched),
    `too_many_visits`, `too_many_rounds`, `rejected` (the verdict `fail`), `escalated`, `bad_verdict`, `bad_goto`,
    `too_few` (a quorum was missed), `refused` (an answer was a refusal), `breaker_open` (the protocol's breaker refuses
    calls), `uncertain` (nobody knows what a run of an at-most-once step has done), `workflow_down` (the workflow is
    down, and its `when_down` is `fail`), `stalled` (the task had been set aside, and somebody dropped it), `internal`
    (a fault in Podium).
    """

    code: str
    """One of the codes above."""
    message: str
    """The reason in words; of an exception, its text."""
    kind: str = ""
    """The class name of the exception in your code, if there was one."""
    traceback: str = ""
    """The traceback of that exception, as text."""
    step: str = ""
    """The path of the step in the tree."""
    attempt: int = 1
    """The number of the attempt that failed, from 1."""
    bases: tuple[str, ...] = ()
    """The names of the classes that `kind` derives from, below Exception: for a ConnectionError, `OSError`."""
    retry_after_s: float | None = None
    """Seconds after which the service said to come back, if it did ("Steps" in docs/workflows.md)."""
    note: str = ""
    """The reason why there was no further attempt, although the policy would have allowed one."""

    def to_wire(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Failure:
        return cls(**wire | {"bases": tuple(wire.get("bases", ()))})

    def at(self, step: str, attempt: int) -> Failure:
        """Return the same failure with its place in the tree. A failure that has a place keeps it."""
        if self.step:
            return self
        return replace(self, step=step, attempt=attempt)


@dataclass(slots=True)
class Outcome:
    """The outcome of one run of one node: an output, or the failure in its place."""

    output: Value = None
    failure: Failure | None = None

    def brief(self) -> dict[str, Value]:
        """Return the form that supervising protocols, `settled` joins and rules see: {"output": …} or {"error": …}."""
        if self.failure is None:
            return {"output": self.output}
        return {"error": error_for_rules(self.failure)}


Missing: TypeAlias = dict[str, dict[str, Value]]
"""The missing parts of a result, by name: {"step": path, "error": what failed}. If a part is missing in several places,
the last of them, and "times"."""


def error_for_rules(failure: Failure) -> dict[str, Value]:
    return {"code": failure.code, "message": failure.message, "kind": failure.kind, "step": failure.step}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Everything stored about one task. Times are UTC seconds since 1970."""

    task_id: str
    """The task's id."""
    workflow: str
    """The name of the workflow."""
    version: str
    """The workflow's `version`, a label for people."""
    hash: str
    """The content hash of the workflow version that the task runs, whatever is deployed later."""
    input: Value
    """The task's input, as plain data."""
    user: str
    """The user whom the task belongs to."""
    priority: int
    """The task's priority. A higher one goes first."""
    key: str | None
    """The submission key, if one was given."""
    status: TaskStatus
    """The task's status."""
    accepted_at: float
    """The time at which the task was durably accepted."""
    finished_at: float | None = None
    """The time at which the task ended; None as long as it is open."""
    result: Value = None
    """The output of the workflow, if the task is completed."""
    failure: Failure | None = None
    """The reason, if the task failed."""
    degraded: Missing = field(default_factory=dict)
    """The parts that the result lacks because a fallback or an `otherwise` stood in for them:
    `{missing: {"step": path, "error": …}}`. Empty for a complete result."""

    def ended(
        self, status: TaskStatus, at: float, result: Value, failure: Failure | None, degraded: Missing
    ) -> TaskRecord:
        """Return the record of the task after its end."""
        return TaskRecord(
            self.task_id, self.workflow, self.version, self.hash, self.input, self.user, self.priority, self.key,
            status, self.accepted_at, at, result, failure, degraded,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        record = asdict(self)
        record["failure"] = self.failure and self.failure.to_wire()
        return record


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One event of a task, as `task.events()` gives it.

    | kind | what happened | value |
    |---|---|---|
    | `accepted` | the task was accepted | |
    | `started` | a step began to run | None; for a step in an item of a list, {"of": {path of the list: items}} |
    | `finished` | a step succeeded | its output |
    | `retrying` | an attempt failed, another follows | the failure, and `retry_at` |
    | `lost` | the host of a step died; the step runs again | |
    | `failed` | a step failed; without a step, the task | the failure |
    | `timed_out` | the time of a node or of the task was up | |
    | `parked` | a step of the task waits for a decision | |
    | `waiting` | a Wait or a Sleep waits | {"until": …}; of a Wait also "name", "shown" and "digest" |
    | `asked` | an attempt ended with a question | {"name", "shown"} |
    | `answered` | an answer has come | {"name", "value", "by", "via"} |
    | `woke` | the time of a Sleep is over | |
    | `redriven` | parked steps run again, or this task continues a failed one | the failed task's id, if any |
    | `dropped` | parked steps were given up | |
    | `chunk` | a step called `ctx.emit` | the chunk |
    | `log` | a step called `ctx.log` | [level, text] |
    | `cut` | the task has emitted too much; further chunks are not recorded | |
    | `completed` | the task completed | the result |
    | `cancelled` | the task was cancelled | |

    After `retrying` or `lost` of a step, forget its chunks so far: the next ones are from another run. `started`,
    `parked`, `waiting` and `log` are told live only, and so is `finished` of a Wait and of steps in a nested Hierarchy.
    """

    kind: str
    """The kind of event, from the table above."""
    task_id: str
    """The task's id."""
    at: float
    """The time of the event, in UTC seconds since 1970."""
    step: str
    """The path of the step in the tree; empty for the task itself."""
    attempt: int
    """The number of the step's attempt, from 1."""
    value: Value
    """The value from the table above."""
    offset: int | None = None
    """The place of the event among the recorded ones, from 0; None if it is told live only."""

    @property
    def is_last(self) -> bool:
        """True for the event that ends the task."""
        return not self.step and self.kind in TERMINAL
