"""Meters how much of each rate was used, with one meter for each user, workflow, … that the rate counts apart. Pure.

A meter is the time at which its rate will be back at the full burst (GCRA's theoretical arrival time). Use moves that
time on. The distance from now to that time is what is missing from the burst.

Source: ITU-T I.371 (GCRA, the leaky bucket as a meter).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from ...protocols.limits import Limit

Whose: TypeAlias = tuple[str, str]
"""Key of a meter: the name of the rate, and the user, workflow, … that is metered."""
KEEP = 10_000
"""Number of meters above which those that are full again are dropped."""


class RateMeters:
    def __init__(self, empty_at: float = -math.inf) -> None:
        """`empty_at`: monotonic seconds; all rates count as used up at that time, because earlier use is not known."""
        self._empty_at = empty_at
        self._full_at: dict[Whose, float] = {}

    def free_at(self, whose: Whose, rate: Limit, count: float, now: float) -> float:
        """Monotonic time from which `count` may be used at once; at most `now` if they may be used now."""
        return self._read(whose, rate, now) + (count - rate.amount) * _interval_s(rate)

    def use(self, whose: Whose, rate: Limit, count: float, now: float) -> None:
        """Count use of a rate; a negative count gives back."""
        self._full_at[whose] = self._read(whose, rate, now) + count * _interval_s(rate)
        if len(self._full_at) > KEEP:
            self._full_at = {each: full_at for each, full_at in self._full_at.items() if full_at > now}

    def change_rate(self, old: Limit, new: Limit, now: float) -> None:
        """Change the speed of a rate: the missing part of its bursts comes back at the new speed."""
        if old.interval_s is None or new.interval_s is None:
            return
        for whose, full_at in self._full_at.items():
            if whose[0] == old.name and full_at > now:
                self._full_at[whose] = now + (full_at - now) / old.interval_s * new.interval_s

    def left(self, whose: Whose, rate: Limit, now: float) -> int:
        """Count that may be used now; negative if more was used than allowed."""
        missing = (self._read(whose, rate, now) - now) / _interval_s(rate)
        return math.floor(rate.amount - missing + 1e-6)

    def to_wire(self, now: float) -> list[object]:
        """Return the meters as [seconds since `empty_at` or None, [rate, whose, seconds until full] of each in use]."""
        known_for_s = None if self._empty_at == -math.inf else now - self._empty_at
        return [known_for_s, [[*whose, full_at - now] for whose, full_at in self._full_at.items() if full_at > now]]

    @classmethod
    def from_wire(cls, wire: list[Any] | None, now: float) -> RateMeters:
        """Read the meters that `to_wire` wrote; for None, all rates count as used up now."""
        known_for_s, used = wire or [0.0, []]
        meters = cls(-math.inf if known_for_s is None else now - known_for_s)
        meters._full_at = {(what, whose): now + full_in_s for what, whose, full_in_s in used}
        return meters

    def _read(self, whose: Whose, rate: Limit, now: float) -> float:
        unknown = self._empty_at + rate.amount * _interval_s(rate)
        return max(now, self._full_at.get(whose, unknown))


def _interval_s(rate: Limit) -> float:
    assert rate.interval_s is not None, f"'{rate.name}' is no rate"
    return rate.interval_s
