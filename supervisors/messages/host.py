"""What a supervisor says to a protocol host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ...protocols.values import Value
from .door import Door, message, tagged


class StepResult(NamedTuple):
    """How one attempt of a step ended."""

    status: Literal["ok", "fail"]
    value: Value
    """The output, or the failure as `Failure.to_wire` gives it."""
    took_s: float | None = None
    """Seconds for which the code ran; None if it never began."""
    stuck: bool = False
    """The code did not end when it was told to: the host has to be replaced."""
    permit: str | None = None
    """The permit that comes back with the result, if no other attempt at the host takes it."""
    used: Mapping[str, float] = {}
    """Amounts that the attempt really used, by quota."""


@tagged
class StepChunk(NamedTuple):
    """A running step emitted a value."""

    value: Value


@tagged
class StepLog(NamedTuple):
    """A running step logged a line."""

    level: str
    text: str


class PermitLeft(NamedTuple):
    """The answer to a permit that was sent after the attempts."""

    permit: str | None
    """The same permit if no attempt waits for it; None if one took it."""


@message(reply=StepResult, chunks=(StepChunk, StepLog))
class Run(NamedTuple):
    """Run one attempt of a step, in its turn."""

    task_id: str
    path: str
    """Place of the step in the tree."""
    attempt: int
    user: str
    input: Value
    timeout_s: float | None
    """Longest time of the attempt, from the moment it begins to run."""
    idle_timeout_s: float | None
    """Longest time without a sign of life."""
    left_s: float | None
    """Seconds that the task, or a node around the step, has left."""
    origin: str
    """The first of the tasks that this one continues, or the task itself."""
    lane: int | None
    """The lane in which the attempt waits for a permit; None if it needs none."""
    permit: str | None
    """A permit for that lane that comes with the attempt."""


@message(reply=PermitLeft)
class Permit(NamedTuple):
    """Give a permit to the attempt that waits first in a lane."""

    lane: int
    permit: str


@message()
class Ping(NamedTuple):
    """Ask whether the host answers."""


ForHost: TypeAlias = Run | Permit | Ping
HOST: Door[ForHost] = Door(*get_args(ForHost))
StepSaid: TypeAlias = StepChunk | StepLog
STEP_SAID: Door[StepSaid] = Door(*get_args(StepSaid))


def failed(failure: Mapping[str, Any], took_s: float | None = None, permit: str | None = None) -> StepResult:
    """The result of an attempt that failed without harm to its host."""
    return StepResult("fail", failure, took_s, False, permit)
