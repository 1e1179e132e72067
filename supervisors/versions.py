"""The versions of a workflow that a supervisor governs: an open task goes on with the one it was accepted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocols.errors import EngineClosed
from ..protocols.tree import Node
from ..protocols.values import Value
from .faults import report
from .ports.journal import Journal, Note
from .running.dispatch import Dispatcher
from .settings import Governance
from .shards import tier_shard
from .tasks.plan import Plan, TierPlan

_DEFINITION, _CURRENT, CHILDREN = "definition:", "current", "children"


class Versions:
    def __init__(self, journal: Journal, shard: str, resources: list[Any], settings: Governance) -> None:
        """`resources` as of `PermitClient`, for the supervisors of nested Hierarchies."""
        self._journal, self._shard, self._resources, self._settings = journal, shard, resources, settings
        self.dispatcher: Dispatcher
        self.plans: dict[str, Plan] = {}
        """By hash."""
        self.code: dict[str, bytes] = {}
        self.current = ""
        """Hash of the version in force."""
        self._roots: dict[str, Node] = {}
        """By the hash of the tree."""

    def go_with(self, dispatcher: Dispatcher) -> None:
        """What runs these versions."""
        self.dispatcher = dispatcher
        dispatcher.children_changed = self.note_children

    def recall(self, notes: Mapping[str, Any], newer: list[Any], code: Mapping[str, bytes]) -> None:
        """Take in what the shard knows, the one in force last, and `newer` ones that it may have missed."""
        stored = [value for name, value in notes.items() if name.startswith(_DEFINITION)]
        stored.sort(key=lambda definition: bool(definition["hash"] == notes.get(_CURRENT)))
        for definition in [*stored, *newer]:
            try:
                self.define(definition, code)
            except Exception as error:  # its tasks are set aside, and those of other versions go on
                report(f"version {definition.get('hash')} cannot be governed", error)

    def define(self, definition: Mapping[str, Any], code: Mapping[str, bytes], in_force: bool = True) -> Plan:
        """Take a version in. Versions with the same tree share their nodes, so that an open task can go by each."""
        plan = self.plans.get(definition["hash"])
        if plan is None or plan.definition != definition:
            plan = self.plans[definition["hash"]] = self._planned(definition)
        self.code.update(code)
        self.dispatcher.prepare(plan, code)
        if in_force:
            self.current = plan.hash
        current = [Note(_CURRENT, plan.hash)] if in_force else []
        self._journal.write([Note(_DEFINITION + plan.hash, plan.definition), *current])
        self.note_children()
        return plan

    def note_children(self) -> None:
        """Whoever takes the shard over has to end them first."""
        self._journal.write([Note(CHILDREN, self.dispatcher.child_addresses)])

    def _planned(self, definition: Mapping[str, Any]) -> Plan:
        tree = str(definition.get("tree") or definition["hash"])
        plan = Plan(definition, self._roots.get(tree))
        self._roots[tree] = plan.root
        return plan

    def newest(self, plan: Plan) -> Plan:
        """The version in force, if its tree is the same: what begins again begins with the newest code."""
        current = self.plans.get(self.current)
        return current if current is not None and current.tree == plan.tree else plan

    async def retire(self, in_use: set[str]) -> None:
        """End the hosts that only versions need which are not in force, and of which no task (by hash) is open."""
        needed = [plan for hash, plan in self.plans.items() if hash in in_use or hash == self.current]
        await self.dispatcher.retire(needed, EngineClosed(reason="a newer version took its place"))

    def tier_setup(self, tier: TierPlan) -> dict[str, Any]:
        """What the supervisor of a nested Hierarchy is started with: all versions of it that are known by then."""
        plans = sorted(self.plans.values(), key=lambda plan: plan.hash == self.current)  # the one in force is last
        definitions = [t.definition for plan in plans for t in plan.tiers if t.name == tier.name]
        return {
            "shard": tier_shard(self._shard, tier.name),
            "settings": self._settings.to_wire(),
            "resources": self._resources,
            "definitions": definitions,
            "code": self.code,
        }

    def describe(self, in_use: set[str]) -> list[Value]:
        """For `status`; `in_use` are the hashes of those of which tasks are open."""
        return [
            {
                "hash": plan.hash,
                "version": plan.version,
                "in_force": plan.hash == self.current,
                "has_open_tasks": plan.hash in in_use,
                "code": {ref: code[:12] for ref, code in plan.code.items()},
            }
            for plan in self.plans.values()
        ]
