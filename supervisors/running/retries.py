"""Decides after a failed attempt whether the step runs again, and when.

The retry policy of the step decides, within three bounds: the time that is left to the step, the number of attempts
under pressure and for the task's priority, and the *retry budget* of the protocol. The budget keeps retries from making
an overload worse: retries may be a share of the first attempts, plus a reserve. Retries that led to success are paid
back, so that only retries that did not help count.

Source: "Addressing Cascading Failures", Site Reliability Engineering, 2016; RetryBudget of Twitter's Finagle.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from ...protocols.outcomes import Failure
from ...protocols.policy import attempts_of, delay_before_retry, may_retry
from ...protocols.recovery import actions_for
from ...protocols.tree import Sleep, Step
from ...protocols.values import Value
from ..limits.throttle import is_pressed
from ..messages.host import StepResult
from ..messages.supervisor import RunEnded
from ..ports.world import World
from ..settings import Governance
from ..tasks.events import Event, Overdue, StepAsked, StepFailed, StepFinished, TimedOut, Woke
from ..tasks.plan import Plan, StepSettings
from ..tasks.state import NodeRun, TaskState

PERIOD_S = 60.0
"""Seconds in which the distance of a budget to its reserve falls to 1/e."""
NOTHING_S = 0.1
"""Seconds below which the drift of a budget is ignored."""
_UNCERTAIN = frozenset({"timeout", "host_lost", "internal"})
"""Codes of failures after which it is unknown what the run has done."""


class Budget:
    """The retries that one protocol may have now. It starts with the reserve, and drifts back to it. Pure."""

    def __init__(self, reserve: float, now: float) -> None:
        self._reserve, self._left, self._at = reserve, reserve, now

    def left(self, now: float) -> float:
        """Number of retries that are left. `now`: monotonic seconds."""
        if now - self._at < NOTHING_S:
            return self._left
        faded = math.exp(-max(0.0, now - self._at) / PERIOD_S)
        self._left = self._reserve + (self._left - self._reserve) * faded
        self._at = now
        return self._left

    def add(self, amount: float, now: float) -> None:
        if now - self._at >= NOTHING_S:
            self.left(now)
        self._left += amount

    def spend(self, now: float) -> bool:
        """Take one retry; returns False if none is left."""
        if self.left(now) < 1.0:
            return False
        self._left -= 1.0
        return True


class Retries:
    """The retries of one supervisor. Budgets are in memory only: after a restart they begin with their reserve."""

    def __init__(self, world: World, settings: Governance, plans: Mapping[str, Plan]) -> None:
        """`plans` are the plans of all versions, by hash."""
        self._world, self._plans, self._thresholds = world, plans, settings.thresholds
        now = world.monotonic()
        self._budgets: defaultdict[str, Budget] = defaultdict(lambda: Budget(settings.retry_reserve, now))

    def event_of(self, task: TaskState, place: NodeRun, result: StepResult | RunEnded) -> Event:
        """Return the event that the result of an attempt, or of a nested run, is for the task."""
        now, step = self._world.now(), self._step(task, place)
        if isinstance(result, RunEnded) or step is None:
            return _event_of_run(place, result, now)
        if result.status == "ok":
            self._count_success(step, _tries(place))
            return StepFinished(place.path, result.value, now)
        if result.status == "ask":
            return self._asked(task, place, result.value)
        failure = Failure.from_wire(result.value).at(place.path, place.attempt)
        if step.at_most_once and failure.code in _UNCERTAIN:
            failure = replace(failure, code="uncertain")
        actions, retry_at = actions_for(failure, step.on_error), None
        if "retry" in actions:
            failure, retry_at = self._retry(step, task, place, failure)
        return StepFailed(place.path, failure, retry_at, now, actions)

    def _asked(self, task: TaskState, place: NodeRun, ask: dict[str, Value]) -> Event:
        """Return the event for a question; it fails the step if the workflow itself waits for that name."""
        now, name = self._world.now(), ask["wait"]["wait"]
        if name not in self._plans[task.hash].waits:
            return StepAsked(place.path, ask, now)
        failure = Failure("invalid_output", f"it asks for '{name}', and a Wait of the workflow has that name")
        return StepFailed(place.path, failure.at(place.path, place.attempt), None, now)

    def _step(self, task: TaskState, place: NodeRun) -> StepSettings | None:
        return self._plans[task.hash].settings(place.node) if isinstance(place.node, Step) else None

    def late(self, task: TaskState, place: NodeRun | None) -> Event:
        """Return the event for a time limit that is over: of this node run, or of the task if `place` is None."""
        now = self._world.now()
        if place is None:
            assert task.time is not None
            return Overdue(task.time.limit_s, now)
        if isinstance(place.node, Sleep):
            return Woke(place.path, now)
        step = self._step(task, place)
        if step is None:
            return TimedOut(place.path, now)
        code = "uncertain" if place.began else "timeout"
        return TimedOut(place.path, now, code, actions_for(Failure(code, ""), step.on_error))

    def _count_success(self, step: StepSettings, attempt: int) -> None:
        if step.retry.attempts > 1 and step.retry.budget is not None:
            earned = step.retry.budget if attempt == 1 else attempt - 1.0
            self._budgets[step.ref].add(earned, self._world.monotonic())

    def _is_pressed(self) -> bool:
        return is_pressed(self._world.load(), self._thresholds)

    def _retry(
        self, step: StepSettings, task: TaskState, place: NodeRun, failure: Failure
    ) -> tuple[Failure, float | None]:
        """Decide whether another attempt follows a failure.

        Returns:
            The failure and the UTC seconds of the next attempt, or None without one. The failure has a note if
            something other than the policy forbids another attempt.
        """
        policy, attempt, now = step.retry, _tries(place), self._world.monotonic()
        budget = None if policy.budget is None or policy.attempts == 1 else self._budgets[step.ref]
        if budget is not None and attempt == 1:
            budget.add(policy.budget or 0.0, now)
        attempts = attempts_of(policy, task.record.priority, self._is_pressed())
        if not may_retry(policy, failure, attempt, attempts):
            note = "the machine is under pressure" if attempts <= attempt < policy.attempts else ""
            return replace(failure, note=note), None
        delay_s = max(delay_before_retry(policy, attempt, self._world.random), failure.retry_after_s or 0.0)
        retry_at, due_at = self._world.now() + delay_s, task.due_at(place)
        if due_at is not None and retry_at >= due_at:
            return replace(failure, note="its time would be up before the next attempt"), None
        if budget is not None and not budget.spend(now):
            return replace(failure, note=f"the retry budget of '{step.ref}' is used up"), None
        return failure, retry_at


def _tries(place: NodeRun) -> int:
    """Return the number of attempts so far, without those that ended with a question."""
    return place.attempt if place.memory is None else place.attempt - place.memory.asks


def _event_of_run(place: NodeRun, result: StepResult | RunEnded, now: float) -> Event:
    """Return the event for the result of a nested run. It is not retried: the steps in it have their own retries."""
    if isinstance(result, RunEnded) and result.status == "completed":
        return StepFinished(place.path, result.result, now, result.degraded)
    wire = result.failure if isinstance(result, RunEnded) else result.value
    return StepFailed(place.path, Failure.from_wire(wire or {}).at(place.path, place.attempt), None, now)
