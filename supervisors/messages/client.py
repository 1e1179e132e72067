"""What a client says to the coordinator and to the supervisor of a workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ...protocols.limits import Amount
from ...protocols.outcomes import Criticality, Missing, TaskStatus
from ...protocols.values import Value
from .door import Door, message, tagged

# to the supervisor


class Submission(NamedTuple):
    """A new task, as a client submits it. It is a row of `Submit`, no message of its own."""

    id: str
    input: Value
    user: str
    priority: int
    key: str | None
    again: bool
    """The sender may have sent the task before."""
    source: str | None
    """Who speaks: driver, cli, mcp; None for a run of a nested Hierarchy, whose task was accepted above."""
    criticality: Criticality
    timeout_s: float | None
    """Seconds from acceptance to the end of the task; None if the workflow says it."""


class Ack(NamedTuple):
    """What became of one submission or one dead letter. It is a row of `Acks`."""

    id: str | None
    """The task: with a submission key perhaps an older one. None if there is an error."""
    error: Any
    """The error as `PodiumError.to_wire` gives it, or None."""


class Acks(NamedTuple):
    """One row for each submission, or each letter, in their order."""

    rows: Sequence[Sequence[Value]]

    def read(self) -> list[Ack]:
        return [Ack(*row) for row in self.rows]


@tagged
class Accepted(NamedTuple):
    """The tasks of a `Submit` that are followed are durable."""

    rows: Sequence[Sequence[Value]]

    def read(self) -> list[Ack]:
        return [Ack(*row) for row in self.rows]


@tagged
class TaskEnded(NamedTuple):
    """A task has ended, and that is durable."""

    id: str
    status: TaskStatus
    result: Value
    failure: dict[str, Any] | None
    finished_at: float | None
    degraded: Missing


class ClientEvent(NamedTuple):
    """Something happened to a task; see `podium.protocols.outcomes.TaskEvent` for the kinds."""

    kind: str
    at: float
    """UTC seconds."""
    step: str
    attempt: int
    value: Value = None
    offset: int | None = None
    """Place of the event in the record of the task; None for an event that is told live only."""


class CancelledAs(NamedTuple):
    """The answer to a cancellation."""

    status: TaskStatus
    """Status of the task then: a task that had ended stays as it was."""


class Letter(NamedTuple):
    """A dead letter that somebody decides about. It is a row of `Redrive` and `Drop`."""

    id: str
    """A task, or a run of a nested Hierarchy as "<task>/<path>"."""
    request: str
    """Id of the request, so that a repetition is known; in a redrive also the id of the task that continues."""


@message(reply=Acks, chunks=(Accepted, TaskEnded))
class Submit(NamedTuple):
    """Accept tasks. All are durable when the answer comes."""

    hash: str
    """Of the version of the workflow."""
    follow: bool
    """Acknowledge with a chunk, and tell with further chunks how the tasks end."""
    tasks: Sequence[Sequence[Value]]
    """Rows of `Submission`."""


@message(chunks=(TaskEnded,))
class Follow(NamedTuple):
    """Tell how these tasks end; the answer comes after the last."""

    ids: Sequence[str]


@message(chunks=(ClientEvent,))
class Watch(NamedTuple):
    """Tell what happens to a task, the past first; the answer comes when it has ended."""

    task_id: str
    since: int
    """Offset of the first recorded event that is wanted."""


@message(reply=CancelledAs)
class Cancel(NamedTuple):
    """Cancel a task."""

    task_id: str


@message(reply=Acks)
class Redrive(NamedTuple):
    """Try again what is parked or failed."""

    letters: Sequence[Sequence[str]]
    """Rows of `Letter`."""


@message(reply=Acks)
class Drop(NamedTuple):
    """Give up what is parked or failed."""

    letters: Sequence[Sequence[str]]
    """Rows of `Letter`."""


SubmitSaid: TypeAlias = Accepted | TaskEnded
SUBMIT_SAID: Door[SubmitSaid] = Door(*get_args(SubmitSaid))


# to the coordinator


class Deployed(NamedTuple):
    """Every actor of the version runs."""

    hash: str
    epoch: int
    """Of the coordinator that has it."""


class Located(NamedTuple):
    """Where a supervisor runs."""

    address: str | None
    """None if the coordinator has to be given the code of the client first."""
    epoch: int
    """Of the coordinator that answers."""


class Uses(NamedTuple):
    """All limits with their use, by name."""

    limits: dict[str, Any]


class BreakerStates(NamedTuple):
    """All circuit breakers, by name."""

    breakers: dict[str, Any]


class ClusterStatus(NamedTuple):
    """What runs in the cluster; see docs/settings.md for `alerts`, which look at this."""

    workflows: dict[str, Any]
    quotas: dict[str, Any]
    breakers: dict[str, Any]
    throttle: dict[str, Any]
    load: dict[str, float]
    alerts: list[dict[str, Any]]


@message(reply=Deployed)
class Deploy(NamedTuple):
    """Take a version of a workflow in, and start its actors."""

    definition: dict[str, Any]
    code: Mapping[str, bytes]
    """Pickled protocols that no other process could import, by key (`carried_key`)."""
    again: bool = False
    """The client only brings code anew; another version may be in force."""


@message()
class Undeploy(NamedTuple):
    """Take a workflow back. Its actors have ended when the answer comes."""

    workflow: str
    leave_open: bool
    """Leave open tasks as they are, instead of refusing."""


@message(reply=Located)
class Where(NamedTuple):
    """Have the supervisor of a shard run, and say where."""

    shard: str
    told: int | None
    """Epoch of a coordinator that was given the code of the caller; None if there is no such code."""


@message(reply=Uses)
class SetLimits(NamedTuple):
    """Change some limits, under the steps that run."""

    limits: Mapping[str, Amount]


@message(reply=BreakerStates)
class SetBreaker(NamedTuple):
    """Open or reset a circuit breaker by hand."""

    name: str
    action: Literal["open", "reset"]


@message(reply=ClusterStatus)
class AskStatus(NamedTuple):
    """Say what runs in the cluster."""


ForCoordinator: TypeAlias = Deploy | Undeploy | Where | SetLimits | SetBreaker | AskStatus
COORDINATOR: Door[ForCoordinator] = Door(*get_args(ForCoordinator))
