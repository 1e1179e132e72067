"""What may happen thousands of times in a second is told now and then, with how often it happened. Pure."""

from __future__ import annotations

from collections import Counter


class Seldom:
    """Lets one of a kind through in `every_s` seconds, and counts those that it holds back."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told_at: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def count(self, kind: str, times: int, now: float) -> int:
        """How many are to be told now, those held back before included; 0 for none. `now`: monotonic seconds."""
        self._held_back[kind] += times
        if now - self._told_at.get(kind, float("-inf")) < self._every_s:
            return 0
        self._told_at[kind] = now
        return self._held_back.pop(kind)
