"""What has been used of rates: one meter for each, of whoever it counts apart. Pure.

A meter is the time at which its rate will be back at the full burst (GCRA's theoretical arrival time): using moves it
on, and what it is ahead of now is missing from the burst.

Source: ITU-T I.371 (GCRA, the leaky bucket as a meter).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from ...protocols.limits import Limit

Whose: TypeAlias = tuple[str, str]
"""What is metered, and for whom."""
KEEP = 10_000
"""Meters that are full again, and kept nevertheless."""


class RateMeters:
    def __init__(self, empty_at: float = -math.inf) -> None:
        """`empty_at`: rates count as used up then, because what was used before is not known any more."""
        self._empty_at = empty_at
        self._full_at: dict[Whose, float] = {}

    def free_at(self, whose: Whose, rate: Limit, count: float, now: float) -> float:
        """From when on so many may be used in one go; not later than `now` if they may be used now."""
        return self._read(whose, rate, now) + (count - rate.amount) * _interval_s(rate)

    def use(self, whose: Whose, rate: Limit, count: float, now: float) -> None:
        """Count what is used; a negative count gives back."""
        self._full_at[whose] = self._read(whose, rate, now) + count * _interval_s(rate)
        if len(self._full_at) > KEEP:
            self._full_at = {each: full_at for each, full_at in self._full_at.items() if full_at > now}

    def change_rate(self, old: Limit, new: Limit, now: float) -> None:
        """What is missing from the bursts of a rate is to come back at its new speed."""
        if old.interval_s is None or new.interval_s is None:
            return
        for whose, full_at in self._full_at.items():
            if whose[0] == old.name and full_at > now:
                self._full_at[whose] = now + (full_at - now) / old.interval_s * new.interval_s

    def left(self, whose: Whose, rate: Limit, now: float) -> int:
        """How many may be used now; below 0 if more was used than there was."""
        missing = (self._read(whose, rate, now) - now) / _interval_s(rate)
        return math.floor(rate.amount - missing + 1e-6)

    def to_wire(self, now: float) -> list[Any]:
        """[seconds since all was used up, or None; [what, whose, seconds until it is full again] of each in use]."""
        known_for_s = None if self._empty_at == -math.inf else now - self._empty_at
        return [known_for_s, [[*whose, full_at - now] for whose, full_at in self._full_at.items() if full_at > now]]

    @classmethod
    def from_wire(cls, wire: list[Any] | None, now: float) -> RateMeters:
        """None if nobody knows what was used: then all counts as used up."""
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
