"""Retry policies as data. tenacity computes the delays; the engine owns and journals the attempts."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, Literal, TypeAlias

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
    """How often a failed step runs again, and how long it waits before.

    Only the step's own failures count. A step whose host died runs again without being charged.
    """

    attempts: Attempts = 3
    """Attempts in all, the first one included."""
    initial_delay_s: SecondsOrNone = 0.5
    """Upper bound of the first wait, in seconds; it doubles with every failure."""
    max_delay_s: SecondsOrNone = 30.0
    """Upper bound of every wait, in seconds."""
    jitter: bool = True
    """Draw each wait uniformly between 0 and its bound; without it, wait exactly the bound."""
    only: tuple[str, ...] = ()
    """Names of the exception classes (subclasses included) or failure codes worth another attempt; empty means all."""
    max_retry_after_s: SecondsOrNone = 300.0
    """A service may say when to come back, later than the policy would; if it is longer than this, the step fails."""
    budget: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    """Retries of a protocol as a share of its first attempts, beside a reserve (setting `retry_reserve`); when they are
    used up, failures stand. Retries that led to success are not counted. None is no bound."""
    under_pressure: Attempts | None = None
    """Attempts instead of `attempts` while CPU, memory or event loop are overloaded (more than 80 %)."""
    for_priority: Attempts | None = None
    """Attempts instead of `attempts`, under pressure or not, for tasks with a priority above 0."""

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
"""By kind of operation; figures from the project's first design document, waits with full jitter. Under pressure there
is one attempt, for tasks of priority there are five."""


def _named(policy: Any) -> Any:
    if isinstance(policy, bool):
        raise ValueError(f"a number of attempts is wanted, or a mapping, not {policy}")
    if isinstance(policy, int | float):
        return {"attempts": policy}
    if not isinstance(policy, str):
        return policy
    if policy not in PRESETS:
        raise ValueError(f"'{policy}' is no preset; there are {', '.join(PRESETS)}")
    return PRESETS[policy]


RetryPolicy: TypeAlias = Annotated[
    Retry, BeforeValidator(_named, json_schema_input_type=Retry | Attempts | Literal["llm", "tool", "storage"])
]
"""A policy, a number of attempts, or the name of a preset."""


def attempts_of(policy: Retry, priority: int, pressed: bool) -> int:
    """How many attempts a step of a task has, the machine being under pressure or not. One that has no retries gets
    none for its priority."""
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
    """When calls of a protocol are refused, because too many failed or were slow: resilience4j's terms and meanings.

    One breaker for the whole cluster, or one for each key that the protocol's `limit_key` gives.
    """

    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of failed calls at which it opens."""
    slow_s: Seconds | None = None
    """Seconds above which a call is slow, whether it fails or not; None counts none."""
    slow_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of slow calls at which it opens."""
    window: Annotated[int, Field(ge=1, le=100_000)] = 100
    """The last so many calls count."""
    window_s: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Instead, the calls of the last so many seconds count."""
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Nothing is decided about fewer calls."""
    open_s: Seconds = 60.0
    """Seconds for which it refuses calls, before it tries some."""
    probes: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Calls that it tries then; when they have ended, their rates decide."""
    half_open_s: Seconds | None = 300.0
    """Seconds in which these have to end, or it opens again. None is no bound."""
    counts: tuple[str, ...] = ()
    """Names of the exception classes (subclasses included) or failure codes that count as failed; others count as
    successes then. Empty means all. What is invalid or cancelled is not counted: it says nothing about a service."""


_IGNORED = frozenset({"invalid_input", "invalid_output", "cancelled", "host_lost"})


def counts_as_failed(policy: Breaker, failure: Failure) -> bool | None:
    """Whether a call that failed so counts as failed for its breaker, or None if it does not count at all."""
    if not {failure.code, failure.kind, *failure.bases}.isdisjoint(policy.counts):
        return True
    return None if failure.code in _IGNORED else not policy.counts


Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]


class Supervision(Definition):
    """How the children of one supervisor are started again when they die: Erlang/OTP's terms and meanings.

    Children are the hosts of the protocols and the supervisors of nested Hierarchies, in the order in which they
    first appear in the tree. They start in that order and stop in reverse.
    """

    strategy: Strategy = "one_for_one"
    """Who is started again with a dead child: nobody else, all children, or those that started after it."""
    intensity: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Restarts within `period_s`, of all children together. One more, and the supervisor stops them and itself,
    and the level above decides. None is the setting `restart_intensity`."""
    period_s: Seconds | None = None
    """None is the setting `restart_period_s`."""
    first_delay_s: SecondsOrNone = 0.05
    """The first restart of a child is immediate; the wait before the second is drawn from 0 to this, in seconds,
    and the bound doubles with every further one. A period without a failure begins anew."""
    max_delay_s: SecondsOrNone = 10.0
    """Upper bound of every wait, in seconds."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Supervision:
        if self.first_delay_s > self.max_delay_s:
            raise ValueError(
                f"first_delay_s ({self.first_delay_s:g}) is larger than max_delay_s ({self.max_delay_s:g})"
            )
        return self
