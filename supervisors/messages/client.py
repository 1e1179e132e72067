"""Messages from clients to the coordinator and to the supervisor of a workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ...protocols.limits import Amount
from ...protocols.outcomes import Criticality, Missing, TaskStatus
from ...protocols.values import Value
from .door import Door, message, tagged

# to the supervisor


class Submission(NamedTuple):
    """A new task, as a client submits it. It is a row of `Submit`, and no message by itself."""

    id: str
    input: Value
    user: str
    priority: int
    key: str | None
    again: bool
    """The sender may have sent the task before."""
    source: str | None
    """Source of the task: driver, cli or mcp. None for a run of a nested Hierarchy: its task was accepted above."""
    criticality: Criticality
    timeout_s: float | None
    """Time limit in seconds, from acceptance to the end of the task. None: the workflow's own limit applies."""
    delay_s: float | None = None
    """Seconds from acceptance to the start of the task."""
    not_before: float | None = None
    """UTC seconds before which the task does not start."""


class Ack(NamedTuple):
    """Answer to one submission, or to the decision on one dead letter. It is a row of `Acks`."""

    id: str | None
    """Id of the task. With a submission key it may be that of an older task. None if there is an error."""
    error: Any
    """The error as `PodiumError.to_wire` gives it, or None."""


class Acks(NamedTuple):
    """Answers to submissions or letters: one row for each, in their order."""

    rows: Sequence[Sequence[Value]]

    def read(self) -> list[Ack]:
        return [Ack(*row) for row in self.rows]


@tagged
class Accepted(NamedTuple):
    """Acknowledges a `Submit` with `follow`: its tasks are durable."""

    rows: Sequence[Sequence[Value]]

    def read(self) -> list[Ack]:
        return [Ack(*row) for row in self.rows]


@tagged
class TaskEnded(NamedTuple):
    """A task has ended, and its end is durable."""

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
    """Offset of the event in the record of the task. None for an event that is not recorded."""


class CancelledAs(NamedTuple):
    """The answer to a cancellation."""

    status: TaskStatus
    """Status of the task after the cancellation. A task that had ended keeps its status."""


class Receipt(NamedTuple):
    """An answer was recorded."""

    at: float
    """UTC seconds at which it was recorded. An answer that is repeated has the time of the first."""
    path: str
    """Path of a wait that it went to; "" if no node waits for it yet, or the answer is repeated."""
    is_over: bool
    """Whether that wait is over with it."""


class Letter(NamedTuple):
    """A dead letter that somebody decides about. It is a row of `Redrive` and `Drop`."""

    id: str
    """A task, or a run of a nested Hierarchy as "<task>/<path>"."""
    request: str
    """Id of the request, by which a repeated one is recognised. In a redrive it is also the id of the new task."""


@message(reply=Acks, chunks=(Accepted, TaskEnded))
class Submit(NamedTuple):
    """Accept tasks. The answer comes when all of them are durable."""

    hash: str
    """Hash of the version of the workflow."""
    follow: bool
    """Acknowledge with a chunk, and send one more chunk when each task ends."""
    tasks: Sequence[Sequence[Value]]
    """Rows of `Submission`."""


@message(chunks=(TaskEnded,))
class Follow(NamedTuple):
    """Send a chunk when each of these tasks ends. The answer comes after the last."""

    ids: Sequence[str]


@message(chunks=(ClientEvent,))
class Watch(NamedTuple):
    """Send the events of a task, past ones first. The answer comes when the task has ended."""

    task_id: str
    since: int
    """Offset of the first recorded event that is wanted."""


@message(reply=CancelledAs)
class Cancel(NamedTuple):
    """Cancel a task."""

    task_id: str


@message(reply=Receipt)
class Answer(NamedTuple):
    """Answer a task that waits, or will wait, for an answer."""

    task_id: str
    name: str
    value: Value
    id: str
    """Id of the answer: one that is repeated counts once."""
    by: str
    """The user who answers."""
    via: str
    """The way by which the answer comes: driver, cli, mcp."""
    groups: Sequence[str]
    """Groups and roles of the user, as `group:<name>` and `role:<name>`."""
    digest: str | None
    """Digest of what the user saw. None if the answer is for whatever is asked."""


@message(reply=Acks)
class Redrive(NamedTuple):
    """Drive parked or failed tasks again."""

    letters: Sequence[Sequence[str]]
    """Rows of `Letter`."""


@message(reply=Acks)
class Drop(NamedTuple):
    """Give up dead letters: parked steps fail, and failed tasks are no longer listed."""

    letters: Sequence[Sequence[str]]
    """Rows of `Letter`."""


SubmitSaid: TypeAlias = Accepted | TaskEnded
SUBMIT_SAID: Door[SubmitSaid] = Door(*get_args(SubmitSaid))


# to the coordinator


class Deployed(NamedTuple):
    """Every actor of the version runs."""

    hash: str
    epoch: int
    """Epoch of the coordinator that took the version in."""
    blobs: str = ""
    """The blob store of the cluster (see `World.blobs_setting`); "" if it is beside the journal."""


class Located(NamedTuple):
    """Address of a supervisor."""

    address: str | None
    """None if the client has to send its code to the coordinator first."""
    epoch: int
    """Epoch of the coordinator that answers."""


class Uses(NamedTuple):
    """All limits with their use, by name."""

    limits: dict[str, dict[str, Any]]


class BreakerStates(NamedTuple):
    """All circuit breakers, by name."""

    breakers: dict[str, dict[str, Any]]


class ClusterFigures(NamedTuple):
    """State of the cluster. Alerts are computed from it (docs/settings.md); clients read it as a `ClusterStatus`."""

    workflows: dict[str, Any]
    quotas: dict[str, Any]
    breakers: dict[str, Any]
    throttle: dict[str, Any]
    load: dict[str, float]
    alerts: list[dict[str, Any]]


@message(reply=Deployed)
class Deploy(NamedTuple):
    """Deploy a version of a workflow, and start its actors."""

    definition: dict[str, Any]
    code: Mapping[str, bytes]
    """Pickled protocols that no other process could import, by key (`carried_key`)."""
    again: bool = False
    """The client only sends its code again; another version may be in force."""


@message()
class Undeploy(NamedTuple):
    """Undeploy a workflow. The answer comes when its actors have ended."""

    workflow: str
    leave_open: bool
    """Leave open tasks as they are. Without it, a workflow with open tasks is refused."""


@message(reply=Located)
class Where(NamedTuple):
    """Start the supervisor of a shard if it does not run, and answer with its address."""

    shard: str
    told: int | None
    """Epoch of the coordinator that got the code of the caller. None if the caller has no code to send."""


@message(reply=Uses)
class SetLimits(NamedTuple):
    """Change some limits. Steps that run go on."""

    limits: Mapping[str, Amount]


@message(reply=BreakerStates)
class SetBreaker(NamedTuple):
    """Open or reset a circuit breaker by hand."""

    name: str
    action: Literal["open", "reset"]


@message(reply=ClusterFigures)
class AskStatus(NamedTuple):
    """Ask for the state of the cluster."""


ForCoordinator: TypeAlias = Deploy | Undeploy | Where | SetLimits | SetBreaker | AskStatus
COORDINATOR: Door[ForCoordinator] = Door(*get_args(ForCoordinator))
