"""The versions of a workflow that one supervisor governs. An open task keeps the version that it was accepted for.

The definitions in the notes of the shard are authoritative. A definition that cannot be read is reported, and only the
tasks of that version are set aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocols.environment import PACKAGE, packages_of
from ..protocols.errors import EngineClosed
from ..protocols.tree import Node
from ..protocols.values import Value
from .faults import report
from .ports.journal import Journal, Note
from .running.dispatch import Dispatcher
from .settings import Governance
from .shards import is_tier, tier_shard
from .tasks.plan import Plan, TierPlan, code_for

_DEFINITION, _CURRENT, CHILDREN = "definition:", "current", "children"
KEPT_VERSIONS = 8
"""The packages of so many versions, those deployed last, stay also when nothing of them is open: a client that deployed
one of them may submit more to it."""


class Versions:
    def __init__(self, journal: Journal, shard: str, resources: list[object], settings: Governance) -> None:
        """`resources` are those of `PermitClient`; they are passed on to nested supervisors."""
        self._journal, self._shard, self._resources, self._settings = journal, shard, resources, settings
        self.dispatcher: Dispatcher
        self.plans: dict[str, Plan] = {}
        """Plans of all known versions, by version hash."""
        self.code: dict[str, bytes] = {}
        """The code that clients brought: pickles by `carried_key`, and packages. Pools share it."""
        self._noted: set[str] = set()
        """Keys of the packages that are in the notes of the shard."""
        self.current = ""
        """Hash of the version in force."""
        self._roots: dict[str, Node] = {}
        """Root nodes, by hash of the tree."""

    def go_with(self, dispatcher: Dispatcher) -> None:
        """Set the dispatcher that runs these versions."""
        self.dispatcher = dispatcher
        dispatcher.children_changed = self.note_children

    def recall(self, notes: Mapping[str, Any], newer: list[object], code: Mapping[str, bytes]) -> None:
        """Define the versions that the shard has on record, the one in force last, and then the `newer` ones."""
        packages = {name: bytes(value) for name, value in notes.items() if name.startswith(PACKAGE)}
        self._noted = set(packages)
        code = {**packages, **code}
        stored = [value for name, value in notes.items() if name.startswith(_DEFINITION)]
        stored.sort(key=lambda definition: bool(definition["hash"] == notes.get(_CURRENT)))
        for definition in [*stored, *newer]:
            try:
                self.define(definition, code)
            except Exception as error:  # its tasks are set aside, and those of other versions go on
                report(f"version {definition.get('hash')} cannot be governed", error)

    def define(self, definition: Mapping[str, Any], code: Mapping[str, bytes], in_force: bool = True) -> Plan:
        """Record a version and prepare its pools; `in_force` makes it the version for new tasks.

        Versions with the same tree share their node objects, so that an open task can change between them.
        """
        plan = self.plans.get(definition["hash"])
        if plan is None or plan.definition != definition:
            plan = self._planned(definition)
        self.plans.pop(plan.hash, None)
        self.plans[plan.hash] = plan  # the one deployed last is the last
        self.code.update(code)
        self.dispatcher.prepare(plan, code)
        if in_force:
            self.current = plan.hash
        current = [Note(_CURRENT, plan.hash)] if in_force else []
        self._journal.write([Note(_DEFINITION + plan.hash, plan.definition), *current, *self._packages_of(plan)])
        self.note_children()
        return plan

    def _packages_of(self, plan: Plan) -> list[Note]:
        """Return notes of the packages that a version needs and that are not noted yet.

        A nested supervisor gets its packages from the supervisor above, and keeps none.
        """
        wanted = set() if is_tier(self._shard) else packages_of(plan.definition["protocols"])
        new = sorted((wanted & self.code.keys()) - self._noted)
        self._noted |= set(new)
        return [Note(key, self.code[key]) for key in new]

    def _drop_packages(self, needed: list[Plan]) -> None:
        """Forget the packages that no version needs, neither `needed` nor one of those deployed last."""
        if not any(key.startswith(PACKAGE) for key in self.code):
            return
        last = list(self.plans.values())[-KEPT_VERSIONS:]
        kept = code_for([plan.definition for plan in (*needed, *last)], self.code)
        gone = sorted(self.code.keys() - kept.keys())
        for key in gone:
            del self.code[key]
        noted = [key for key in gone if key in self._noted]
        self._noted.difference_update(noted)
        if noted:
            self._journal.write([Note(key, None) for key in noted])

    def note_children(self) -> None:
        """Record the addresses of all children: the next owner of the shard has to end these actors first."""
        self._journal.write([Note(CHILDREN, self.dispatcher.child_addresses)])

    def _planned(self, definition: Mapping[str, object]) -> Plan:
        tree = str(definition.get("tree") or definition["hash"])
        plan = Plan(definition, self._roots.get(tree))
        self._roots[tree] = plan.root
        return plan

    def newest(self, plan: Plan) -> Plan:
        """Return the version in force if it has the same tree as `plan`, else `plan`.

        Parked work that begins again thus begins with the newest code.
        """
        current = self.plans.get(self.current)
        return current if current is not None and current.tree == plan.tree else plan

    async def retire(self, in_use: set[str]) -> None:
        """End the idle hosts that only old versions need: versions not in force and without open tasks.

        Args:
            in_use: hashes of the versions that have open tasks.
        """
        needed = [plan for hash, plan in self.plans.items() if hash in in_use or hash == self.current]
        self._drop_packages(needed)
        await self.dispatcher.retire(needed, EngineClosed(reason="a newer version took its place"))

    def tier_setup(self, tier: TierPlan) -> dict[str, object]:
        """Return the setup for starting a nested supervisor, with all versions of its Hierarchy that are known now."""
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
        """Describe all versions for `status`; `in_use` are the hashes of the versions that have open tasks."""
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
