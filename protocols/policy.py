"""Retry policies as data. tenacity computes the delays; the engine owns and journals the attempts."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Annotated, Literal, TypeAlias

import tenacity
from pydantic import BeforeValidator, Field, model_validator

from .outcomes import Failure
from .quantities import Seconds, SecondsOrNone
from .wording import Definition

NEVER_RETRIED = frozenset(
    {"invalid_input", "invalid_output", "cancelled", "escalated", "rejected", "breaker_open", "uncertain"}
)
"""Failure codes that another attempt cannot mend."""


Attempts: TypeAlias = Annotated[int, Field(ge=1, le=1000)]


class Retry(Definition):
    """A retry policy: how many attempts a step has, and how long it waits between them.

    Only failures of the step itself count. A run whose host died is repeated without being counted. Waits survive
    crashes.
    """

    attempts: Attempts = 3
    """The number of attempts in all, the first one included."""
    initial_delay_s: SecondsOrNone = 0.5
    """The upper bound of the first wait, in seconds. It doubles with every failure."""
    max_delay_s: SecondsOrNone = 30.0
    """The upper bound of every wait, in seconds."""
    jitter: bool = True
    """If true, each wait is drawn evenly between 0 and its bound. If false, each wait is exactly the bound."""
    only: tuple[str, ...] = ()
    """The names of exception classes or failure codes that are worth another attempt. A class stands for its
    subclasses, too. Empty means all."""
    max_retry_after_s: SecondsOrNone = 300.0
    """The longest wait that a service may ask for, in seconds. If it asks for more, the step fails at once."""
    budget: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    """The retries of a protocol as a share of its first attempts, beside a reserve (setting `retry_reserve`). When they
    are used up, failures are final. Retries that led to success are not counted. None is no bound."""
    under_pressure: Attempts | None = None
    """The number of attempts while CPU, memory or event loop are overloaded (more than 80 %), instead of `attempts`."""
    for_priority: Attempts | None = None
    """The number of attempts for tasks with a priority above 0, instead of `attempts`, under pressure or not."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Retry:
        if self.initial_delay_s > self.max_delay_s:
            raise ValueError(
                f"initial_delay_s ({self.initial_delay_s:g}) is larger than max_delay_s ({self.max_delay_s:g})"
            )
        return self


NO_RETRY = Retry(attempts=1)
PRESETS: Mapping[str, Retry] = {
    "llm": Retry(
        attempts=3,
        initial_delay_s=1.0,
        max_delay_s=5.0,
        only=("ConnectionError", "TimeoutError", "timeout"),
        under_pressure=1,
        for_priority=5,
    ),
    "tool": Retry(
        attempts=2,
        initial_delay_s=2.0,
        max_delay_s=2.0,
        only=("TemporaryError", "ConnectionError"),
        under_pressure=1,
        for_priority=5,
    ),
    "storage": Retry(
        attempts=5,
        initial_delay_s=0.5,
        max_delay_s=2.0,
        only=("ConnectionError", "TimeoutError"),
        under_pressure=1,
        for_priority=5,
    ),
}
"""Retry policies by kind of operation. Figures are from the project's first design document; waits have full jitter.
Under pressure there is one attempt, for tasks with priority there are five."""


def _named(policy: object) -> object:
    if isinstance(policy, bool):
        raise ValueError(f"a number of attempts is wanted, or a mapping, not {policy}")
    if isinstance(policy, int | float):
        return {"attempts": policy}
    if not isinstance(policy, str):
        return policy
    if policy not in PRESETS:
        raise ValueError(f"'{policy}' is no preset; there are {', '.join(PRESETS)}")
    return PRESETS[policy]


Preset: TypeAlias = Literal["llm", "tool", "storage"]
"""The names in `PRESETS`, for the schema of workflow files."""
RetryPolicy: TypeAlias = Annotated[Retry, BeforeValidator(_named, json_schema_input_type=Retry | Attempts | Preset)]
"""A retry policy: a `Retry`, a number of attempts, or the name of a preset."""


def attempts_of(policy: Retry, priority: int, pressed: bool) -> int:
    """Return the number of attempts that a step has. `pressed`: whether the machine is under pressure.

    A step without retries gets none for its task's priority.
    """
    if policy.attempts > 1 and priority > 0 and policy.for_priority is not None:
        return policy.for_priority
    return min(policy.attempts, policy.under_pressure or policy.attempts) if pressed else policy.attempts


def may_retry(policy: Retry, failure: Failure, attempt: int, attempts: int) -> bool:
    """Whether attempt number `attempt` of `attempts`, which ended in `failure`, is followed by another."""
    if attempt >= attempts or failure.code in NEVER_RETRIED:
        return False
    if (failure.retry_after_s or 0.0) > policy.max_retry_after_s:
        return False
    return not policy.only or not {failure.code, failure.kind, *failure.bases}.isdisjoint(policy.only)


def delay_before_retry(policy: Retry, failures: int, rng: Random) -> float:
    """Seconds to wait before the next attempt.

    Exponential with full jitter: uniform in [0, cap], cap doubling per failure.

    Args:
        failures: failed attempts so far, counted from 1.
        rng: handed in, so that a simulated run draws the same delays.

    Returns:
        0.0 <= delay <= policy.max_delay_s.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    wait = tenacity.wait_exponential(multiplier=policy.initial_delay_s, max=policy.max_delay_s)
    call = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    call.attempt_number = failures
    cap = float(wait(call))
    return rng.uniform(0.0, cap) if policy.jitter else cap


class Breaker(Definition):
    """A circuit breaker: it refuses calls of a protocol while too many of them fail or are slow.

    The terms are those of resilience4j. There is one breaker for the whole cluster, or one for each value of the
    protocol's `limit_key`.
    """

    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of failed calls at which the breaker opens."""
    slow_s: Seconds | None = None
    """The time in seconds above which a call counts as slow, failed or not. None counts no call as slow."""
    slow_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of slow calls at which the breaker opens."""
    window: Annotated[int, Field(ge=1, le=100_000)] = 100
    """The number of latest calls that count."""
    window_s: Annotated[int, Field(ge=1, le=3600)] | None = None
    """If given, the calls of the last so many seconds count, instead of `window`."""
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    """The number of calls below which nothing is decided."""
    open_s: Seconds = 60.0
    """The time in seconds for which an open breaker refuses calls, before it lets some through as probes."""
    probes: Annotated[int, Field(ge=1, le=10_000)] = 3
    """The number of probes. When they have ended, their rates decide whether the breaker closes or opens again."""
    half_open_s: Seconds | None = 300.0
    """The time in seconds in which the probes must end, or the breaker opens again. None is no bound."""
    counts: tuple[str, ...] = ()
    """The names of exception classes or failure codes that count as failed; all others then count as successes. A class
    stands for its subclasses, too. Empty means all. Invalid inputs and outputs, cancelled steps and lost hosts count
    neither way, unless they are named here."""


_IGNORED = frozenset({"invalid_input", "invalid_output", "cancelled", "host_lost"})


def counts_as_failed(policy: Breaker, failure: Failure) -> bool | None:
    """Whether a call that failed so counts as failed for its breaker, or None if it does not count at all."""
    if not {failure.code, failure.kind, *failure.bases}.isdisjoint(policy.counts):
        return True
    return None if failure.code in _IGNORED else not policy.counts


Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]


class Supervision(Definition):
    """The rules by which a supervisor starts its children again when they die, in the terms of Erlang/OTP.

    The children are the hosts of the protocols and the supervisors of nested Hierarchies, in the order in which they
    first appear in the tree. They start in that order and stop in reverse.
    """

    strategy: Strategy = "one_for_one"
    """The children that start again with a dead one: `one_for_one` no other, `one_for_all` all, `rest_for_one` those
    that started after it."""
    intensity: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """The number of restarts, of all children together, within `period_s`. At one more, the supervisor stops its
    children and itself, and the level above decides. None means the setting `restart_intensity`."""
    period_s: Seconds | None = None
    """The period for `intensity`, in seconds. None means the setting `restart_period_s`."""
    first_delay_s: SecondsOrNone = 0.05
    """The upper bound of the wait before the second restart of a child, in seconds; the first restart is immediate. The
    bound doubles with every further restart. After a period without a failure it starts anew."""
    max_delay_s: SecondsOrNone = 10.0
    """The upper bound of every wait, in seconds."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Supervision:
        if self.first_delay_s > self.max_delay_s:
            raise ValueError(
                f"first_delay_s ({self.first_delay_s:g}) is larger than max_delay_s ({self.max_delay_s:g})"
            )
        return self
