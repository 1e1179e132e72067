"""A circuit breaker decides whether calls of one protocol, or of one key of it, may go through. Pure.

A closed breaker counts calls in a window. When the window has enough calls, and the share of failed or of slow calls
reaches its threshold, the breaker opens: calls are refused for `open_s`. Then it is half-open: exactly `probes` calls
go through. When all probes have ended, their rates decide whether the breaker closes or opens again.

A probe is a lease: if its caller dies, or if it ends without an outcome, another call may be the probe. Each change of
state begins a new generation. The outcome of a call that was let through in an older generation does not count.

Source: "CircuitBreaker", resilience4j documentation, 2.x, for the terms and rules. Leases and generations are ours,
because callers are in other processes; so is the limit `half_open_s` of the half-open state.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from ...protocols.policy import Breaker as Policy

State: TypeAlias = Literal["closed", "open", "half_open", "forced_open"]


class Call(NamedTuple):
    """A call that was let through."""

    name: str
    """Name of the breaker."""
    generation: int
    lease: str | None = None
    """The lease, if the call is a probe."""


class Outcomes(NamedTuple):
    """The outcome that several calls of one generation had in common."""

    failed: bool
    slow: bool
    calls: int = 1


class Window:
    """The window of calls: the last `window` calls, or those of the last `window_s` seconds, by second."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._runs: deque[tuple[int, Outcomes]] = deque()
        """Outcomes with the second in which the calls ended; 0 for a window of a number of calls."""
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
        """Drop the calls that do not belong to the window any more."""
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
        """`generations` yields the numbers of generations; each number comes once only."""
        self.name, self.policy = name, policy
        self._generations = generations or itertools.count()
        self.generation = next(self._generations)
        self.state: State = "closed"
        self.since = self.until = 0.0
        """Monotonic seconds at which the state began, and at which it may end by time alone."""
        self.why = ""
        self.last_call_at = 0.0
        self._window = Window(policy)
        self._leases: set[str] = set()

    def permit(self, lease: str, now: float) -> Call | None:
        """Let one call through, in the half-open state as a probe under `lease`. None if the call is refused."""
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
        """Count the outcomes of calls. Calls of an older generation, and probes without a lease, do not count."""
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
        """Free the lease of a probe that ended without an outcome, so that another call may be the probe."""
        if lease is not None:
            self._leases.discard(lease)

    @property
    def leases(self) -> set[str]:
        return set(self._leases)

    def force_open(self, now: float) -> None:
        """Refuse all calls until `reset`."""
        self._enter("forced_open", now, "somebody opened it")

    def reset(self, now: float) -> None:
        """Close the breaker, with an empty window."""
        self._enter("closed", now, "")

    def reopen(self, for_s: float, why: str, now: float) -> None:
        """Open the breaker for `for_s` seconds, as it was open before a restart of the ResourceActor."""
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
        """Return the policy of the half-open state: the window counts exactly the probes, whenever they end."""
        return self.policy.model_copy(update={"window": self.policy.probes, "window_s": None})

    def to_wire(self, now: float) -> dict[str, object]:
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
