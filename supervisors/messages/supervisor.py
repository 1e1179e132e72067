"""What the level above says to a supervisor: the coordinator, or the supervisor around a nested Hierarchy.

A supervisor also takes what clients say (`client.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, get_args

from ...protocols.outcomes import Missing, TaskStatus
from ...protocols.values import Value
from .client import Cancel, ClientEvent, Drop, Follow, Redrive, Submit, Watch
from .door import Door, message


class LastWords(NamedTuple):
    """Why the supervisor gives up."""

    reason: str


class RunEnded(NamedTuple):
    """How a run of a nested Hierarchy ended."""

    status: TaskStatus
    result: Value
    failure: dict[str, Any] | None
    degraded: Missing
    """What the result lacks, because something stood in for it."""


class Busy(NamedTuple):
    """Tasks that cannot be forgotten now, because they are not over."""

    ids: Sequence[str]


class SupervisorStatus(NamedTuple):
    """How a supervisor is."""

    epoch: int
    open: int
    """Tasks that have not ended."""
    stalled: dict[str, str]
    """By task: why it is set aside, or stands still."""
    faults: int
    users: dict[str, int]
    """Open tasks of the users who have the most."""
    load: dict[str, float]
    versions: list[dict[str, Any]]
    restarts: int
    pools: list[dict[str, Any]]
    tiers: list[dict[str, Any]]
    counts: dict[str, Any]


@message()
class Govern(NamedTuple):
    """Take a version in, durably, and start its actors. They run when the answer comes."""

    definition: dict[str, Any]
    code: Mapping[str, bytes]
    in_force: bool = True
    """New tasks are of this version."""


@message(reply=SupervisorStatus)
class DescribeSupervisor(NamedTuple):
    """Say how you are."""


@message(reply=LastWords)
class AwaitLastWords(NamedTuple):
    """Answer with the reason if you ever give up."""


@message()
class AwaitIdle(NamedTuple):
    """Answer when you have had nothing to do for `rest_after_s`."""


@message()
class AwaitPermits(NamedTuple):
    """Answer when a task holds a permit for the first time."""


@message(reply=RunEnded, chunks=(ClientEvent,))
class SubmitRun(NamedTuple):
    """Run a nested Hierarchy for one task above, or go on with a run that is known.

    Chunks are what the task above is to record of the run.
    """

    hash: str
    heard: int
    """Offset in the record of the run from which on it is told."""
    run: Sequence[Value]
    """Row of `Submission`; the id is "<task>/<path>"."""


@message(reply=Busy)
class ForgetTasks(NamedTuple):
    """Delete what is recorded of these tasks of the level above."""

    ids: Sequence[str]


ForSupervisor: TypeAlias = (
    Submit
    | SubmitRun
    | Cancel
    | Follow
    | Watch
    | Redrive
    | Drop
    | Govern
    | ForgetTasks
    | DescribeSupervisor
    | AwaitLastWords
    | AwaitIdle
    | AwaitPermits
)
SUPERVISOR: Door[ForSupervisor] = Door(*get_args(ForSupervisor))
