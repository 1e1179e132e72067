"""Admission control: new tasks are accepted for good, or refused early with a time to come back. Pure.

An accepted task is never turned away. Runs of nested Hierarchies are not refused either, because they belong to
accepted tasks. As the queues fill up, tasks of the lowest criticality are refused first.

Source: the four criticalities are those of "Handling Overload", Site Reliability Engineering, 2016.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ...protocols.errors import Overloaded
from ...protocols.limits import read_limits
from ...protocols.outcomes import Criticality, TaskRecord
from ..limits.rates import RateMeters
from ..ports.world import Load
from ..settings import Governance

FULL_RETRY_S = 5.0
"""Seconds after which to come back if a queue is full or the machine is overloaded; nobody knows, so not soon."""
SHOW_USERS = 10
SHARES: Mapping[Criticality, float] = {"critical_plus": 1.1, "critical": 1.0, "sheddable_plus": 0.8, "sheddable": 0.5}
"""Share of the bounds on open tasks that may be in use for a task of each criticality to be accepted."""


class Newcomer(NamedTuple):
    user: str
    kinds: tuple[str, ...]
    """Kinds that rates may tell apart, the narrowest first: the type of a request, then the workflow."""


class Slots(NamedTuple):
    """The permits of one quota that whole tasks hold."""

    quota: str
    used: float
    """Permits of the tasks of this supervisor, those included that still wait for them."""
    per_task: int
    limit: float


class Admission:
    def __init__(self, settings: Governance) -> None:
        self._settings = settings
        self._rates = read_limits(settings.rates)
        self._meters = RateMeters()
        """Meters by rate and user."""
        self._open: Counter[str] = Counter()
        """Number of open tasks by user. Tasks that rest do not count."""
        self._counted: set[str] = set()
        """Ids of the tasks that count."""

    def opened(self, record: TaskRecord) -> None:
        """Count a task; it may be counted already."""
        if record.task_id not in self._counted:
            self._counted.add(record.task_id)
            self._open[record.user] += 1

    def ended(self, record: TaskRecord) -> None:
        """Count a task no more; it may not be counted."""
        if record.task_id not in self._counted:
            return
        self._counted.remove(record.task_id)
        self._open[record.user] -= 1
        if self._open[record.user] <= 0:
            del self._open[record.user]

    @property
    def busiest(self) -> dict[str, int]:
        """Number of open tasks of the `SHOW_USERS` users who have the most."""
        return dict(self._open.most_common(SHOW_USERS))

    def refusal(
        self, new: Counter[Newcomer], source: str, criticality: Criticality, load: Load, slots: list[Slots], now: float
    ) -> Overloaded | None:
        """Decide about new tasks that were sent together: all are accepted, or all are refused.

        Args:
            new: number of new tasks by user and kinds.
            source: where the tasks come from: driver, cli, mcp.
            criticality: criticality of all the tasks.
            load: load of the machine.
            slots: use of each quota that whole tasks hold; checked if `max_slots` is set.
            now: monotonic seconds.

        Returns:
            The refusal, or None if the tasks are accepted; only then are they counted in the rates.
        """
        full = self._unwell(load, slots, new.total()) or self._full(_by_user(new), criticality)
        if full is not None:
            return Overloaded(reason=full, retry_after_s=FULL_RETRY_S)
        metered = [(name, who.user, count) for who, count in new.items() if (name := self._rate_of(source, who.kinds))]
        for name, user, count in metered:
            wait_s = self._wait_s(name, user, count, now)
            if wait_s > 0:
                reason = f"{count} at once, the rate is {self._settings.rates[name]} for each user from '{name}'"
                return Overloaded(reason=reason, retry_after_s=math.ceil(wait_s * 1000) / 1000)
        for name, user, count in metered:
            self._meters.use((name, user), self._rates[name], count, now)
        return None

    def _unwell(self, load: Load, slots: list[Slots], count: int) -> str | None:
        settings = self._settings
        if load.memory > settings.max_memory:
            return f"{load.memory:.0%} of the machine's memory is used, the limit is max_memory={settings.max_memory:g}"
        if settings.max_cpu is not None and load.cpu > settings.max_cpu:
            return f"{load.cpu:.0%} of the machine's CPU is used, the limit is max_cpu={settings.max_cpu:g}"
        for each in slots:
            share = settings.max_slots
            if share is not None and each.used + count * each.per_task > share * each.limit:
                there = f"{each.used:g} of {each.limit:g} permits of '{each.quota}' are taken"
                return f"{there}, the limit is max_slots={share:g}"
        return None

    def _full(self, new: Counter[str], criticality: Criticality) -> str | None:
        settings, open_tasks, share = self._settings, self._open.total(), SHARES[criticality]
        part = "" if share == 1.0 else f", of which '{criticality}' tasks get {share:.0%}"
        if open_tasks + new.total() > settings.max_open_tasks * share:
            return f"{open_tasks} tasks are open, the limit is max_open_tasks={settings.max_open_tasks}{part}"
        for user, count in new.items():
            if self._open[user] + count > settings.max_open_per_user * share:
                limit = f"max_open_per_user={settings.max_open_per_user}{part}"
                return f"{self._open[user]} tasks of user '{user}' are open, the limit is {limit}"
        return None

    def _rate_of(self, source: str, kinds: tuple[str, ...]) -> str | None:
        """Return the name of the rate that applies: the first `<source>.<kind>` that is set, else the source's."""
        names = [*(f"{source}.{kind}" for kind in kinds), source]
        return next((name for name in names if name in self._rates), None)

    def _wait_s(self, name: str, user: str, count: int, now: float) -> float:
        rate = self._rates[name]
        if count > rate.amount:
            return FULL_RETRY_S  # so many at once are never allowed
        return self._meters.free_at((name, user), rate, count, now) - now


def _by_user(new: Counter[Newcomer]) -> Counter[str]:
    users: Counter[str] = Counter()
    for who, count in new.items():
        users[who.user] += count
    return users
