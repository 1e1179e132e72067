"""Lowers the limits of permits while the machine is overloaded, from samples of its load. Pure.

The load is the highest of three shares: the CPU in use, the memory in use, and the lag of the event loop divided by
`full_lag_s`. The limits go down by one step when the load was above `high` for `samples` samples in a row, but not
below `floor`. They go up by one step when CPU and lag were below `low` for as many samples. In between they stay, so
that they do not swing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from ...protocols.limits import Amount, read_limits
from ..figures.status import ThrottleChange
from ..ports.world import Load

KEEP_CHANGES = 20


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The values of the settings `throttle_…`."""

    high: float = 0.8
    """Load above which the machine is under pressure."""
    low: float = 0.3
    floor: float = 0.6
    """Share of the limits that is never taken away."""
    step: float = 0.1
    samples: int = 5
    full_lag_s: float = 0.5
    """Lag of the event loop that counts as a load of 1."""


class Throttle:
    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._over = self._under = 0
        self.factor = 1.0
        """Share of the limits that is allowed now."""
        self.changes: deque[ThrottleChange] = deque(maxlen=KEEP_CHANGES)
        """The last changes of `factor`, the newest last."""

    def look(self, load: Load, now: float) -> bool:
        """Take in a sample; returns whether `factor` has changed. `now`: UTC seconds."""
        bounds = self._thresholds
        share, reason = _pressure(load, bounds.full_lag_s)
        self._over = self._over + 1 if share > bounds.high else 0
        is_calm = max(load.cpu, load.lag_s / bounds.full_lag_s) < bounds.low and not self._over
        self._under = self._under + 1 if is_calm else 0
        if max(self._over, self._under) < bounds.samples:
            return False
        step = -bounds.step if self._over else bounds.step
        self._over = self._under = 0
        factor = round(min(1.0, max(bounds.floor, self.factor + step)), 3)
        if factor == self.factor:
            return False
        self.factor = factor
        self.changes.append(ThrottleChange(now, factor, reason))
        return True

    def to_wire(self) -> dict[str, object]:
        return {"factor": self.factor, "changes": [change.to_json() for change in self.changes]}

    def lowered(self, limits: Mapping[str, Amount]) -> dict[str, int]:
        """Return the lowered amounts of limits, by name.

        Only limits of permits with the scope "cluster" are lowered. Rates and limits of other scopes stay as they are.
        """
        permits = {
            name: limit.amount
            for name, limit in read_limits(limits).items()
            if limit.scope == "cluster" and limit.interval_s is None and limit.amount > 0
        }
        now = {name: max(1, math.floor(amount * self.factor + 1e-9)) for name, amount in permits.items()}
        return {name: amount for name, amount in now.items() if amount < permits[name]}


def is_pressed(load: Load, bounds: Thresholds) -> bool:
    return _pressure(load, bounds.full_lag_s)[0] > bounds.high


def _pressure(load: Load, full_lag_s: float) -> tuple[float, str]:
    """Return the highest of the three shares, and a text that explains it."""
    return max(
        (load.cpu, f"{load.cpu:.0%} of the CPU is used"),
        (load.memory, f"{load.memory:.0%} of the memory is used"),
        (load.lag_s / full_lag_s, f"the event loop was {load.lag_s:.2f} s late"),
    )
