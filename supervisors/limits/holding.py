"""Checks that tasks cannot deadlock, with the permits that tasks hold and the permits that their steps need. Pure.

A task holds the `quotas` of its workflow while its steps wait for permits of other quotas. This gives an order: a held
quota comes before the quotas that a step needs. Over all deployed workflows the order must have no ring. Then the
holder of the last quota in the order waits for nobody, and gives its permits back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...protocols.errors import InvalidDefinition
from ...protocols.limits import Amount, read_limits
from ..tasks.plan import BACKGROUND, all_quotas


class Needs(NamedTuple):
    """The quotas that the tasks of one workflow hold, and the other quotas that their steps need."""

    held: frozenset[str]
    needed: frozenset[str]


def needs_of(definition: Mapping[str, Any]) -> Needs:
    """Return the quotas of a workflow. `background` counts as held, because any task may have a priority below 0."""
    held = frozenset({BACKGROUND, *(definition.get("quotas") or {})})
    return Needs(held, frozenset(quota for needs in all_quotas(definition) for quota in needs) - held)


def check_order(name: str, new: Needs, others: Iterable[Needs], limits: Mapping[str, Amount]) -> None:
    """Raise InvalidDefinition if workflow `name` closes a ring with others. Rates do not count: no task holds one."""
    rates = {rate for rate, limit in read_limits(limits).items() if limit.interval_s is not None}
    follow: dict[str, set[str]] = {}
    for each in [new, *others]:
        for quota in each.held - rates:
            follow.setdefault(quota, set()).update(each.needed - rates)
    for start in sorted(new.held):
        ring = _ring(start, follow)
        if ring is not None:
            problem = (
                f"tasks could wait for each other for ever, in the ring {' -> '.join(ring)}: a task holds the one "
                "while a step waits for the next; let the workflow hold what its steps need, too"
            )
            raise InvalidDefinition(problem=problem, path=f"{name}.quotas")


def _ring(start: str, follow: Mapping[str, set[str]]) -> list[str] | None:
    """Return a ring of quotas that begins and ends with `start`, or None."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for quota in sorted(follow.get(way[-1], ())):
            if quota == start:
                return [*way, start]
            if quota not in seen:
                seen.add(quota)
                ways.append([*way, quota])
    return None
