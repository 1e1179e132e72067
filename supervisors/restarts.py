"""When a dead child is started again, and when it is given up: OTP's restart intensity, with back-off.

Source: Erlang/OTP `supervisor` (intensity, period); back-off with full jitter as in Pekko's BackoffSupervisor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    intensity: int = 10
    """Restarts within `period_s`; one more, and the level above decides."""
    period_s: float = 60.0
    first_delay_s: float = 0.05
    """Bound of the delay before the second restart within the period; the first is immediate."""
    max_delay_s: float = 10.0


class RestartWindow:
    """The restarts of one child."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._restarts: deque[float] = deque()

    def delay_after_failure(self, now: float, rng: Random) -> float | None:
        """Seconds until the child may start again, or None if it has failed too often.

        Args:
            now: monotonic seconds.

        A period without a failure makes the next restart immediate again.
        """
        policy = self._policy
        while self._restarts and now - self._restarts[0] > policy.period_s:
            self._restarts.popleft()
        if len(self._restarts) >= policy.intensity:
            return None
        recent = len(self._restarts)
        self._restarts.append(now)
        if recent == 0:
            return 0.0
        return rng.uniform(0.0, min(policy.max_delay_s, policy.first_delay_s * 2 ** (recent - 1)))
