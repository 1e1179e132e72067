"""Whether new tasks may come in at all: refused early and with a time to come back, or accepted for good.

What was accepted is never turned away here, nor are runs of nested Hierarchies, which belong to accepted tasks. As the
queues fill up, what matters least is refused first. Pure.

Source: the four criticalities are those of "Handling Overload", Site Reliability Engineering, 2016.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ..protocols.errors import Overloaded
from ..protocols.limits import read_limits
from ..protocols.outcomes import Criticality, TaskRecord
from .meters import Meters
from .settings import Governance

FULL_RETRY_S = 5.0
"""When to come back to a queue that is full, or a machine without memory: nobody knows, so not soon."""
SHOW_USERS = 10
SHARES: Mapping[Criticality, float] = {"critical_plus": 1.1, "critical": 1.0, "sheddable_plus": 0.8, "sheddable": 0.5}
"""How full the queues may be, as a share of their bounds, for tasks of each criticality to come in."""


class Gate:
    def __init__(self, settings: Governance) -> None:
        self._settings = settings
        self._rates = read_limits(settings.rates)
        self._meters = Meters()
        """By source and user."""
        self._open: Counter[str] = Counter()
        """Open tasks by user."""

    def opened(self, record: TaskRecord) -> None:
        self._open[record.user] += 1

    def ended(self, record: TaskRecord) -> None:
        self._open[record.user] -= 1
        if self._open[record.user] <= 0:
            del self._open[record.user]

    @property
    def busiest(self) -> dict[str, int]:
        """Open tasks of the users who have the most."""
        return dict(self._open.most_common(SHOW_USERS))

    def refusal(
        self, new: Counter[str], source: str, criticality: Criticality, memory_used: float, now: float
    ) -> Overloaded | None:
        """Why none of these new tasks may come in, or None; then they are counted in the rates.

        Args:
            new: how many, by user.
            source: who speaks: driver, cli, mcp.
            criticality: of all of them.
            memory_used: share of the machine's memory.
            now: monotonic seconds.
        """
        full = self._full(new, criticality, memory_used)
        if full is not None:
            return Overloaded(reason=full, retry_after_s=FULL_RETRY_S)
        for user, count in new.items():
            wait_s = self._wait_s(source, user, count, now)
            if wait_s > 0:
                reason = f"{count} at once, the rate is {self._settings.rates[source]} for each user from '{source}'"
                return Overloaded(reason=reason, retry_after_s=math.ceil(wait_s * 1000) / 1000)
        for user, count in new.items():
            self._use(source, user, count, now)
        return None

    def _full(self, new: Counter[str], criticality: Criticality, memory_used: float) -> str | None:
        settings, open_tasks, share = self._settings, self._open.total(), SHARES[criticality]
        part = "" if share == 1.0 else f", of which '{criticality}' tasks get {share:.0%}"
        if memory_used > settings.max_memory:
            return f"{memory_used:.0%} of the machine's memory is used, the limit is max_memory={settings.max_memory:g}"
        if open_tasks + new.total() > settings.max_open_tasks * share:
            return f"{open_tasks} tasks are open, the limit is max_open_tasks={settings.max_open_tasks}{part}"
        for user, count in new.items():
            if self._open[user] + count > settings.max_open_per_user * share:
                limit = f"max_open_per_user={settings.max_open_per_user}{part}"
                return f"{self._open[user]} tasks of user '{user}' are open, the limit is {limit}"
        return None

    def _wait_s(self, source: str, user: str, count: int, now: float) -> float:
        rate = self._rates.get(source)
        if rate is None:
            return 0.0
        if count > rate.amount:
            return FULL_RETRY_S  # never, in one go
        return self._meters.free_at((source, user), rate, count, now) - now

    def _use(self, source: str, user: str, count: int, now: float) -> None:
        rate = self._rates.get(source)
        if rate is not None:
            self._meters.use((source, user), rate, count, now)
