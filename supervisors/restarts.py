"""Decides when a dead child is started again and when its supervisor gives up: OTP's restart intensity, with back-off.

Source: Erlang/OTP `supervisor` (strategies, intensity, period); back-off with full jitter and a reset after
quiet as in Pekko's BackoffSupervisor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

from ..protocols.policy import Strategy, Supervision


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """A Supervision with the defaults of the settings filled in."""

    intensity: int = 10
    """Most restarts within `period_s`, of all children together. At one more the supervisor gives up (escalates)."""
    period_s: float = 60.0
    strategy: Strategy = "one_for_one"
    first_delay_s: float = 0.05
    max_delay_s: float = 10.0

    def declared(self, supervision: Supervision) -> RestartPolicy:
        """Return this policy with the values that `supervision` sets."""
        return RestartPolicy(
            intensity=self.intensity if supervision.intensity is None else supervision.intensity,
            period_s=self.period_s if supervision.period_s is None else supervision.period_s,
            strategy=supervision.strategy,
            first_delay_s=supervision.first_delay_s,
            max_delay_s=supervision.max_delay_s,
        )


class Restarts:
    """Restarts of the children of one supervisor. The intensity counts all children, the back-off each child alone."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self._counted: deque[float] = deque()
        self._streaks: dict[str, tuple[int, float]] = {}
        """By child: number of failures without a quiet period between them, and monotonic time of the last one."""

    def delay_after_failure(self, child: str, now: float, rng: Random, counted: bool = True) -> float | None:
        """Seconds until the child may start again, or None if the supervisor has seen too many failures.

        Args:
            now: monotonic seconds.
            counted: whether the failure counts towards the intensity.

        Returns:
            0.0 after the first failure; then uniform in [0, bound], the bound doubling with each further failure
            up to `max_delay_s`. A period without a failure makes the next restart immediate again.
        """
        if counted and not self._is_bearable(now):
            return None
        failures, last_at = self._streaks.get(child, (0, now))
        if now - last_at > self.policy.period_s:
            failures = 0
        self._streaks[child] = (failures + 1, now)
        if failures == 0:
            return 0.0
        bound = self.policy.first_delay_s * 2 ** min(failures - 1, 32)
        return rng.uniform(0.0, min(self.policy.max_delay_s, bound))

    def _is_bearable(self, now: float) -> bool:
        while self._counted and now - self._counted[0] > self.policy.period_s:
            self._counted.popleft()
        self._counted.append(now)
        return len(self._counted) <= self.policy.intensity
