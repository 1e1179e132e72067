"""Questions of steps: a step that runs asks, its attempt ends, and the next attempt has the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Ask:
    """An output of a step that asks for an answer: `return podium.Ask("approval", schema=bool, show=draft)`.

    The attempt ends with it. Nothing of the step runs until the answer is there; then the step runs again, with the
    answer in `ctx.answer` and `resume` in `ctx.resume`. The settings are those of a `Wait`.
    """

    name: str
    """The name by which the answer comes."""
    schema: Any = None
    """The JSON Schema of an answer, or a type. None allows any plain data."""
    show: Any = None
    """The matter that the answer is about: plain data."""
    resume: Any = None
    """Plain data for the next attempt of this step: how far it has come."""
    who: Sequence[str] = ()
    """The users who may answer: names, `group:<name>`, `role:<name>`. Empty allows everybody."""
    not_starter: bool = False
    """If true, the user whom the task belongs to may not answer."""
    need: int = 1
    """The number of answers, each from another user."""
    refusal: str | None = None
    """A CEL condition over `answer` that tells which answers are refusals."""
    on_refusal: Literal["fail", "finish", "go_on"] = "fail"
    """The effect of a refusal, as for a `Wait`: `fail` fails the step as `refused`."""
    timeout_s: float | None = None
    """The longest time of the wait, in seconds. After it the step fails as `timeout`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that a step has asked for."""

    value: Any
    """The answer itself."""
    by: str
    """The user who answered."""
    at: float
    """The time at which it was recorded, in UTC seconds since 1970."""
    via: str
    """The way by which it came: driver, cli, mcp."""
