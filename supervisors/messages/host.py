"""Messages from a supervisor to a protocol host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

from ...protocols.values import Value
from .door import Door, message, tagged


class StepResult(NamedTuple):
    """How one attempt of a step ended."""

    status: Literal["ok", "fail", "ask"]
    value: Value
    """The output; the failure as `Failure.to_wire` gives it; or a question: {"wait", "show", "resume"}."""
    took_s: float | None = None
    """Seconds for which the code ran; None if it never began."""
    stuck: bool = False
    """The code did not stop when it was told to. The host has to be replaced."""
    permit: str | None = None
    """Permit that comes back with the result. None if another attempt at the host took it."""
    used: Mapping[str, float] = {}
    """Amounts that the attempt used in fact, by quota."""


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
    """Answer to a `Permit`."""

    permit: str | None
    """The same permit if no attempt waited for it. None if one took it."""


@message(reply=StepResult, chunks=(StepChunk, StepLog))
class Run(NamedTuple):
    """Run one attempt of a step, when its turn comes."""

    task_id: str
    path: str
    """Path of the step in the tree."""
    attempt: int
    user: str
    input: Value
    timeout_s: float | None
    """Time limit of the attempt in seconds, counted from when its code begins."""
    idle_timeout_s: float | None
    """Longest silence of the attempt, in seconds. An emitted value, a log line or a heartbeat ends a silence."""
    left_s: float | None
    """Seconds that remain of the time limits of the task and of the nodes around the step."""
    origin: str
    """Id of the first task in the chain of redrives, or of the task itself."""
    lane: int | None
    """Number of the lane in which the attempt waits for a permit. None if it needs no permit."""
    permit: str | None
    """Permit for that lane, sent with the attempt."""
    told: Value = None
    """The answers to what the step has asked, and its `resume`: {"answers", "resume"}. None if it has asked nothing."""


@message(reply=PermitLeft)
class Permit(NamedTuple):
    """Give a permit to the first attempt that waits in a lane."""

    lane: int
    permit: str


@message()
class Ping(NamedTuple):
    """Check that the host answers."""


ForHost: TypeAlias = Run | Permit | Ping
HOST: Door[ForHost] = Door(*get_args(ForHost))
StepSaid: TypeAlias = StepChunk | StepLog
STEP_SAID: Door[StepSaid] = Door(*get_args(StepSaid))


def failed(failure: Mapping[str, object], took_s: float | None = None, permit: str | None = None) -> StepResult:
    """The result of an attempt that failed without harm to its host."""
    return StepResult("fail", failure, took_s, False, permit)
