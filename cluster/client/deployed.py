"""Reads the deployed workflows and their definitions from the journal, so that clients need no cluster for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...protocols.errors import NotFound
from ...protocols.workflow import Workflow
from ...supervisors.shards import shards_of
from ...supervisors.tasks.plan import tree_of
from ..store.contract import Reader


@dataclass(frozen=True, slots=True)
class DeployedWorkflow:
    """A deployed workflow, in the version that new tasks get."""

    name: str
    """The workflow's name."""
    version: str
    """The workflow's `version`, a label for people."""
    hash: str
    """The content hash of this version."""
    description: str
    """The workflow's description."""
    open: int
    """The number of tasks that have not ended, of all its versions."""
    definition: Mapping[str, Any]
    """Everything that the cluster knows of this version, as plain data."""

    @property
    def workflow(self) -> Workflow:
        """The tree with its settings, as it was deployed. Its protocols are not imported."""
        return tree_of(self.definition)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        facts = {key: getattr(self, key) for key in ("name", "version", "hash", "description", "open")}
        interface = self.definition.get("interface") or {}
        return {**facts, **interface, "workflow": self.workflow.to_dict()}


def deployed_workflows(reader: Reader) -> list[DeployedWorkflow]:
    """Return the deployed workflows, sorted by name. Undeployed workflows are left out."""
    found = [_described(reader, definition) for definition in reader.definitions()]
    return sorted(found, key=lambda each: each.name)


def deployed_workflow(reader: Reader, name: str) -> DeployedWorkflow:
    """Return a deployed workflow. Raises NotFound, which names the deployed ones."""
    found = {each.name: each for each in deployed_workflows(reader)}
    if name not in found:
        raise NotFound(what="workflow", name=name, hint=f"deployed: {', '.join(found) or 'none'}")
    return found[name]


def _described(reader: Reader, definition: Mapping[str, Any]) -> DeployedWorkflow:
    name = str(definition["name"])
    shards = shards_of(name, int(definition.get("shards", 1)))
    is_open = sum(reader.open_count(shard) for shard in shards)
    version, about = str(definition["version"]), str(definition.get("description") or "")
    return DeployedWorkflow(name, version, str(definition["hash"]), about, is_open, definition)
