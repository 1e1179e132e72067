"""The catalogue of deployed workflows: the version in force of each, and its number of shards.

The notes in the coordinator's journal are authoritative; the catalogue in memory is a copy of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..protocols.errors import FixTheCall, NotFound
from ..protocols.limits import Amount
from ..protocols.values import Value
from ..supervisors.limits.holding import Needs, check_order, needs_of
from ..supervisors.ports.journal import WITHDRAWN, Change, Note
from ..supervisors.shards import shards_of, workflow_of

_NOTE = "workflow:"
_FACTS = ("hash", "version", "when_down", "shards")
_DEFINITION = "definition"


class Catalogue:
    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Value]] = {}
        self._definitions: dict[str, Value] = {}
        self._needs: dict[str, tuple[str, Needs]] = {}
        """By workflow: the version hash, and the quotas that the tasks of that version hold and need."""

        self._withdrawn: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all workflows, undeployed ones included."""
        return iter(self._entries)

    def recall(self, notes: Mapping[str, Any]) -> None:
        self._withdrawn = {name.removeprefix(WITHDRAWN) for name, is_so in notes.items() if name.startswith(WITHDRAWN)}
        for name, entry in notes.items():
            if name.startswith(_NOTE):
                facts = dict(entry)
                self._set(name.removeprefix(_NOTE), facts.pop(_DEFINITION, None), facts)

    def enter(self, definition: Mapping[str, Any], quotas: bool) -> list[Change]:
        """Put a version in force; returns the changes to be stored. Raises FixTheCall for another number of shards."""
        workflow = str(definition["name"])
        self._check_shards(workflow, definition["shards"])
        earlier = self._entries.get(workflow, {}).get("quotas", False)
        facts = {name: definition[name] for name in _FACTS} | {"quotas": quotas or earlier}
        self._set(workflow, definition, facts)
        back = [self.restore(workflow)] if workflow in self._withdrawn else []
        return [Note(_NOTE + workflow, facts | {_DEFINITION: definition}), *back]

    def withdraw(self, workflow: str) -> Note:
        """Unlist a workflow, so that it is not started any more; its entry stays. Returns the change to be stored."""
        self._withdrawn.add(workflow)
        return Note(WITHDRAWN + workflow, True)

    def restore(self, workflow: str) -> Note:
        self._withdrawn.discard(workflow)
        return Note(WITHDRAWN + workflow, None)

    def is_listed(self, shard: str) -> bool:
        workflow = workflow_of(shard)
        return workflow in self._entries and workflow not in self._withdrawn

    def check(self, shard: str) -> None:
        """Raise NotFound if the workflow of this shard is not deployed."""
        if not self.is_listed(shard):
            is_known = workflow_of(shard) in self._withdrawn
            known = ", ".join(filter(self.is_listed, self)) or "none"
            hint = "it was undeployed; deploy it again" if is_known else f"deployed: {known}"
            raise NotFound(what="workflow", name=shard, hint=hint)

    def note_quotas(self, workflow: str) -> Note:
        """Note that the tasks of a workflow need the ResourceActor; returns the change to be stored."""
        facts = self._entries[workflow] = self._entries[workflow] | {"quotas": True}
        return Note(_NOTE + workflow, facts | {_DEFINITION: self._definitions.get(workflow)})

    def _check_shards(self, workflow: str, count: int) -> None:
        """Raise FixTheCall if the number of shards differs: a key is looked up in one shard, and has to stay there."""
        there = self._entries.get(workflow, {"shards": count}).get("shards", 1)
        if there != count:
            raise FixTheCall(
                f"workflow '{workflow}' has shards={there} since it was first deployed here, and not {count}: "
                "keep that, or give the other one another name"
            )

    def _set(self, workflow: str, definition: Value, facts: dict[str, Value]) -> None:
        self._entries[workflow] = facts
        if definition is not None:
            self._definitions[workflow] = definition

    def entry(self, shard: str) -> dict[str, Value]:
        """Return the entry of a workflow: hash, version, when_down, shards, and quotas.

        `quotas` tells whether this version or an earlier one needs the ResourceActor.
        """
        return self._entries[workflow_of(shard)]

    def definitions(self, shard: str) -> list[Value]:
        """Return the definition in force, for the start of a supervisor whose shard may not have it on record."""
        found = self._definitions.get(workflow_of(shard))
        return [] if found is None else [found]

    def in_force(self) -> list[Value]:
        """Return the definitions in force of all workflows."""
        return list(self._definitions.values())

    def check_order(self, definition: Mapping[str, object], limits: Mapping[str, Amount]) -> None:
        """Raise InvalidDefinition if tasks of this version could wait in a ring with those of other workflows."""
        name = str(definition["name"])
        others = [self._needs_of(each) for each in self._definitions if each != name and self.is_listed(each)]
        check_order(name, needs_of(definition), others, limits)

    def _needs_of(self, workflow: str) -> Needs:
        definition: Any = self._definitions[workflow]
        known = self._needs.get(workflow)
        if known is None or known[0] != definition["hash"]:
            known = self._needs[workflow] = (definition["hash"], needs_of(definition))
        return known[1]

    def is_current(self, definition: Mapping[str, Any]) -> bool:
        """Whether this version is in force, or no version of its workflow is."""
        entry = self._entries.get(str(definition["name"]))
        return entry is None or bool(entry["hash"] == definition["hash"])

    def shards(self, workflow: str) -> list[str]:
        return shards_of(workflow, self._entries[workflow].get("shards", 1))
