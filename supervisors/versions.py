"""The versions of a workflow that a supervisor governs: an open task goes on with the one it was accepted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocols.values import Value
from .dispatch import Dispatcher
from .plan import Plan, TierPlan
from .ports import Journal, Note
from .settings import Governance
from .shards import tier_shard

_DEFINITION, _CURRENT, CHILDREN = "definition:", "current", "children"


class Versions:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.dispatcher: Dispatcher
        self.plans: dict[str, Plan] = {}
        """By hash."""
        self.code: dict[str, bytes] = {}

    def recall(self, notes: Mapping[str, Any], newer: list[Any], code: Mapping[str, bytes]) -> None:
        """Take in what the shard knows, the one in force last, and `newer` ones that it may have missed."""
        stored = [value for name, value in notes.items() if name.startswith(_DEFINITION)]
        stored.sort(key=lambda definition: bool(definition["hash"] == notes.get(_CURRENT)))
        for definition in [*stored, *newer]:
            self.define(definition, code)

    def define(self, definition: Mapping[str, Any], code: Mapping[str, bytes], in_force: bool = True) -> Plan:
        plan = self.plans.get(definition["hash"])
        if plan is None or plan.definition != definition:
            plan = Plan(definition)
            self.plans[plan.hash] = plan
        self.code.update(code)
        self.dispatcher.prepare(plan, code)
        children = Note(CHILDREN, self.dispatcher.child_addresses)
        current = [Note(_CURRENT, plan.hash)] if in_force else []
        self._journal.write([Note(_DEFINITION + plan.hash, plan.definition), *current, children])
        return plan

    def tier_setup(self, shard: str, resources: list[Any], settings: Governance, tier: TierPlan) -> dict[str, Any]:
        """What the supervisor of a nested Hierarchy is started with: all versions of it that are known by then."""
        definitions = [t.definition for plan in self.plans.values() for t in plan.tiers if t.name == tier.name]
        return {
            "shard": tier_shard(shard, tier.name),
            "settings": settings.to_wire(),
            "resources": resources,
            "definitions": definitions,
            "code": self.code,
        }

    def describe(self) -> list[Value]:
        return [{"hash": plan.hash, "version": plan.version} for plan in self.plans.values()]
