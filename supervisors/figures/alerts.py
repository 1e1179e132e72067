"""Alerts are rules over the figures of the cluster; this module finds the rules that hold now. Pure.

A rule is a CEL expression over the result of `engine.status()`: `quotas.llm.waiting > 100`, `load.memory > 0.8`,
`workflows.exists(name, workflows[name].state == "down")`. A rule that cannot be evaluated does not hold, because a name
may not be there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ...protocols.conditions import ExpressionFailed, holds

BUILT_IN = {"stalled": "workflows.exists(name, has(workflows[name].stalled) && size(workflows[name].stalled) > 0)"}
"""Rules that are always set; a rule of the same name in the settings replaces one."""
FIGURES = ("workflows", "quotas", "load", "throttle")


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule over the figures of the cluster that has begun to hold, or holds no more."""

    name: str
    """The name of the rule."""
    rule: str
    """The rule, in CEL."""
    firing: bool
    """True if the rule holds."""
    at: float
    """The time at which the alert began or ended, in UTC seconds."""

    def to_json(self) -> dict[str, object]:
        """The same as plain data."""
        return asdict(self)


class Alerts:
    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = {**BUILT_IN, **rules}
        self._firing: dict[str, Alert] = {}

    @property
    def firing(self) -> list[Alert]:
        return list(self._firing.values())

    def look(self, status: Mapping[str, object], now: float) -> list[Alert]:
        """Evaluate the rules; returns the alerts that begin or end. `now`: UTC seconds."""
        figures = {name: status[name] for name in FIGURES}
        changed = []
        for name, rule in self._rules.items():
            fires = _holds(rule, figures)
            if fires != (name in self._firing):
                changed.append(Alert(name, rule, fires, now))
                if fires:
                    self._firing[name] = changed[-1]
                else:
                    del self._firing[name]
        return changed


def _holds(rule: str, figures: Mapping[str, object]) -> bool:
    try:
        return holds(rule, figures, "alert")
    except ExpressionFailed:
        return False
