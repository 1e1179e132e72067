"""Messages to a supervisor from the level above: the coordinator, or the supervisor around a nested Hierarchy.

A supervisor also takes messages from clients (`client.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, get_args

from ...protocols.outcomes import Missing, TaskStatus
from ...protocols.values import Value
from .client import Answer, Cancel, ClientEvent, Drop, Follow, Redrive, Submit, Watch
from .door import Door, message


class LastWords(NamedTuple):
    """Last message of a supervisor that gives up."""

    reason: str


class RunEnded(NamedTuple):
    """How a run of a nested Hierarchy ended."""

    status: TaskStatus
    result: Value
    failure: dict[str, object] | None
    degraded: Missing
    """Parts that the result lacks, because a fallback or an empty value stands in for them."""


class Busy(NamedTuple):
    """Tasks whose records cannot be deleted now, because they are still open."""

    ids: Sequence[str]


class SupervisorStatus(NamedTuple):
    """State of a supervisor."""

    epoch: int
    open: int
    """Tasks that have not ended, those included that wait."""
    stalled: dict[str, str]
    """Problems of the tasks that are set aside or stalled, by task id."""
    faults: int
    users: dict[str, int]
    """Number of open tasks of each user, of the users who have the most."""
    load: dict[str, float]
    versions: list[dict[str, object]]
    restarts: int
    pools: list[dict[str, object]]
    tiers: list[dict[str, object]]
    counts: dict[str, object]
    waiting: int = 0
    """Tasks of which nothing runs, because they wait for answers or for their time."""


@message()
class Govern(NamedTuple):
    """Record a version durably, and start its actors. The answer comes when they run."""

    definition: dict[str, object]
    code: Mapping[str, bytes]
    in_force: bool = True
    """New tasks run with this version."""


@message(reply=SupervisorStatus)
class DescribeSupervisor(NamedTuple):
    """Ask for the state of the supervisor."""


@message(reply=LastWords)
class AwaitLastWords(NamedTuple):
    """Ask to be told when the supervisor gives up. There is no answer before."""


@message()
class AwaitIdle(NamedTuple):
    """Ask to be told when the supervisor has had nothing to do for `rest_after_s`."""


@message()
class HoldBack(NamedTuple):
    """Start no step any more, and tell when none runs here or below. For the last moments of a supervisor."""


@message()
class AwaitPermits(NamedTuple):
    """Ask to be told when a task holds a permit for the first time."""


@message(reply=RunEnded, chunks=(ClientEvent,))
class SubmitRun(NamedTuple):
    """Run a nested Hierarchy for one task of the level above, or go on with a run that has begun.

    Chunks are the events of the run that the task above records.
    """

    hash: str
    heard: int
    """Offset of the first event of the run that the task above lacks."""
    run: Sequence[Value]
    """Row of `Submission`. Its id is "<task>/<path>"."""


class AnswerRow(NamedTuple):
    """An answer as it is on record. It is a row of `SettleWait`."""

    name: str
    id: str
    value: Value
    by: str
    via: str
    path: str
    at: float


@message()
class SettleWait(NamedTuple):
    """Tell a nested run what was decided about one of its waits. The answer comes when that is durable there."""

    run: str
    """Id of the run, "<task>/<path>"."""
    path: str
    """Path of the wait."""
    answers: Sequence[Sequence[Value]] | None
    """Rows of `AnswerRow`. None if the time of the wait is over."""


@message(reply=Busy)
class ForgetTasks(NamedTuple):
    """Delete the records that belong to these tasks of the level above."""

    ids: Sequence[str]


ForSupervisor: TypeAlias = (
    Submit
    | SubmitRun
    | Cancel
    | Answer
    | Follow
    | Watch
    | Redrive
    | Drop
    | Govern
    | SettleWait
    | ForgetTasks
    | DescribeSupervisor
    | AwaitLastWords
    | AwaitIdle
    | AwaitPermits
    | HoldBack
)
SUPERVISOR: Door[ForSupervisor] = Door(*get_args(ForSupervisor))
