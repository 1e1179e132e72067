"""Fewer permits while the machine is overloaded: by how much, decided from samples of its load. Pure.

Limits go down by a step when the load has been above `high` for `patience` samples in a row, as far as `floor`, and up
again when it has been below `low` for as long; in between they stay as they are, so they do not swing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..protocols.limits import Amount, read_limits

STEP = 0.1
PATIENCE = 5
"""Samples."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    high: float = 0.8
    low: float = 0.3
    floor: float = 0.6


class Throttle:
    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._over = self._under = 0
        self.factor = 1.0
        """What is left of the limits."""

    def look(self, load: float) -> bool:
        """Take a sample in, 0 to 1; returns whether `factor` has changed."""
        self._over = self._over + 1 if load > self._thresholds.high else 0
        self._under = self._under + 1 if load < self._thresholds.low else 0
        if self._over >= PATIENCE:
            return self._change(-STEP)
        if self._under >= PATIENCE:
            return self._change(STEP)
        return False

    def _change(self, by: float) -> bool:
        before = self.factor
        self.factor = round(min(1.0, max(self._thresholds.floor, before + by)), 3)
        self._over = self._under = 0
        return self.factor != before

    def lowered(self, limits: Mapping[str, Amount]) -> dict[str, int]:
        """What the permits of the whole cluster are to be now, where that is fewer; rates and the rest stay."""
        permits = {
            name: limit.amount
            for name, limit in read_limits(limits).items()
            if limit.scope == "cluster" and limit.interval_s is None and limit.amount > 0
        }
        now = {name: max(1, math.floor(amount * self.factor + 1e-9)) for name, amount in permits.items()}
        return {name: amount for name, amount in now.items() if amount < permits[name]}
