"""A circuit breaker: whether calls of one protocol, or of one key of it, may go through. Pure, resilience4j's terms.

Closed, it counts calls in a window. When there are enough, and the share of failed or of slow ones reaches its
threshold, it opens: calls are refused for `open_s`. Then it is half-open: exactly `probes` calls go through, and when
all of them have ended, their rates decide whether it closes or opens again.

A probe is a lease: one whose prober dies, or that ends without an outcome, is free for another. Each change of state
begins a new generation, and the outcome of a call that was let through in an older one counts no more.

Source: "CircuitBreaker", resilience4j documentation, 2.x. Beyond that: leases and generations, because callers are on
other processes; and half-open does not last longer than `half_open_s` by default.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from ...protocols.policy import Breaker as Policy

State: TypeAlias = Literal["closed", "open", "half_open", "forced_open"]


class Call(NamedTuple):
    """A call that was let through."""

    name: str
    """Of its breaker."""
    generation: int
    lease: str | None = None
    """Of a probe."""


class Outcomes(NamedTuple):
    """How some calls of one generation ended, all in the same way."""

    failed: bool
    slow: bool
    calls: int = 1


class Window:
    """The last calls, or those of the last seconds, by second."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._runs: deque[tuple[int, Outcomes]] = deque()
        """With the second in which they ended; 0 if only their number matters."""
        self.calls = self.failed = self.slow = 0

    def add(self, outcomes: Outcomes, now: float) -> None:
        second = 0 if self._policy.window_s is None else math.floor(now)
        self._runs.append((second, outcomes))
        self._count(outcomes, outcomes.calls)
        self.trim(now)
        if len(self._runs) > 1 and self._is_same(self._runs[-2], self._runs[-1]):
            _, last = self._runs.pop()
            _, before = self._runs.pop()
            self._runs.append((second, last._replace(calls=last.calls + before.calls)))

    @staticmethod
    def _is_same(one: tuple[int, Outcomes], other: tuple[int, Outcomes]) -> bool:
        return one[0] == other[0] and one[1][:2] == other[1][:2]

    def trim(self, now: float) -> None:
        """Forget what is too old, or too long ago."""
        window_s = self._policy.window_s
        while self._runs:
            second, first = self._runs[0]
            if window_s is not None:
                over = first.calls if second <= math.floor(now) - window_s else 0
            else:
                over = min(first.calls, self.calls - self._policy.window)
            if over <= 0:
                return
            self._count(first, -over)
            self._runs.popleft()
            if over < first.calls:
                self._runs.appendleft((second, first._replace(calls=first.calls - over)))

    def _count(self, outcomes: Outcomes, calls: int) -> None:
        self.calls += calls
        self.failed += calls * outcomes.failed
        self.slow += calls * outcomes.slow


class Breaker:
    def __init__(self, name: str, policy: Policy, generations: Iterator[int] | None = None) -> None:
        """`generations` gives their numbers, never one twice."""
        self.name, self.policy = name, policy
        self._generations = generations or itertools.count()
        self.generation = next(self._generations)
        self.state: State = "closed"
        self.since = self.until = 0.0
        """When the state began, and when it may end by time alone: monotonic seconds."""
        self.why = ""
        self.last_call_at = 0.0
        self._window = Window(policy)
        self._leases: set[str] = set()

    def permit(self, lease: str, now: float) -> Call | None:
        """Let one call through, in the half-open state as a probe under `lease`; None if it is refused."""
        if self.state == "half_open" and now >= self.until:
            self._enter("open", now, f"its probes had not ended after {self.policy.half_open_s:g} s")
        elif self.state == "open" and now >= self.until:
            self._enter("half_open", now, "")
        if self.state == "closed":
            return Call(self.name, self.generation)
        if self.state != "half_open" or self._window.calls + len(self._leases) >= self.policy.probes:
            return None
        self._leases.add(lease)
        return Call(self.name, self.generation, lease)

    def record(self, call: Call, outcomes: Outcomes, now: float) -> None:
        """Count how calls ended; of an older generation, or of a probe whose lease is over, nothing counts."""
        if call.generation != self.generation or self.state not in ("closed", "half_open"):
            return
        if self.state == "half_open":
            if call.lease not in self._leases:
                return
            self._leases.discard(call.lease)
        self.last_call_at = now
        self._window.add(outcomes, now)
        if self._window.calls >= self._enough():
            self._judge(now)

    def _enough(self) -> int:
        policy = self.policy
        if self.state == "half_open":
            return policy.probes
        return policy.min_calls if policy.window_s is not None else min(policy.min_calls, policy.window)

    def _judge(self, now: float) -> None:
        calls, failed, slow = self._window.calls, self._window.failed, self._window.slow
        if failed >= self.policy.failure_rate * calls:
            self._enter("open", now, f"{failed} of the last {calls} calls failed")
        elif self.policy.slow_s is not None and slow >= self.policy.slow_rate * calls:
            self._enter("open", now, f"{slow} of the last {calls} calls took more than {self.policy.slow_s:g} s")
        elif self.state == "half_open":
            self._enter("closed", now, "")

    def release(self, lease: str | None) -> None:
        """A probe ended without an outcome: another may take its place."""
        if lease is not None:
            self._leases.discard(lease)

    @property
    def leases(self) -> set[str]:
        return set(self._leases)

    def force_open(self, now: float) -> None:
        """Refuse everything until `reset`."""
        self._enter("forced_open", now, "somebody opened it")

    def reset(self, now: float) -> None:
        """Closed, with nothing counted."""
        self._enter("closed", now, "")

    def reopen(self, for_s: float, why: str, now: float) -> None:
        """Open as it was before a restart of the ResourceActor."""
        self._enter("open", now, why)
        self.until = now + max(0.0, for_s)

    def _enter(self, state: State, now: float, why: str) -> None:
        self.state, self.generation, self.since = state, next(self._generations), now
        if why or state == "closed":
            self.why = why
        lasts_s = {"open": self.policy.open_s, "half_open": self.policy.half_open_s}.get(state)
        self.until = math.inf if lasts_s is None else now + lasts_s
        self._leases.clear()
        self._window = Window(self._probing() if state == "half_open" else self.policy)

    def _probing(self) -> Policy:
        """Probes are counted whenever they end."""
        return self.policy.model_copy(update={"window": self.policy.probes, "window_s": None})

    def to_wire(self, now: float) -> dict[str, Any]:
        self._window.trim(now)
        return {
            "state": self.state,
            "why": self.why,
            "since_s": now - self.since if self.since else None,
            "left_s": max(0.0, self.until - now) if self.state == "open" else None,
            "calls": self._window.calls,
            "failed": self._window.failed,
            "slow": self._window.slow,
            "probing": len(self._leases),
        }
