"""Thins out reports of what may happen thousands of times a second: one report now and then, with a count. Pure."""

from __future__ import annotations

from collections import Counter


class Seldom:
    """Lets at most one report of each kind through in `every_s` seconds, and counts the occurrences in between."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told_at: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def count(self, kind: str, times: int, now: float) -> int:
        """Count occurrences; returns the number to report now, earlier unreported ones included, or 0 for no report.

        Args:
            now: monotonic seconds.
        """
        self._held_back[kind] += times
        if now - self._told_at.get(kind, float("-inf")) < self._every_s:
            return 0
        self._told_at[kind] = now
        return self._held_back.pop(kind)
