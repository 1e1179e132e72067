"""A deployed definition in the form that its supervisor works with: node objects, step settings, pools to build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...protocols.check import children, walk
from ...protocols.environment import PACKAGE, packages_of
from ...protocols.outcomes import TaskRecord
from ...protocols.policy import NO_RETRY, Retry, Supervision
from ...protocols.protocol import Declaration
from ...protocols.recovery import Actions, Category
from ...protocols.requests.machine import has_stages
from ...protocols.tree import Hierarchy, Node, Step, Wait
from ...protocols.values import digest
from ...protocols.workflow import Workflow
from .fold import begin
from .state import Effect, TaskState

BACKGROUND = "background"
"""Quota of which each task with a priority below 0 holds one permit."""
_OF_THE_LEAF = ("fallback", "otherwise", "missing", "undo", "timeout_s")
"""Settings of a nested Hierarchy that the supervisor above applies, not the nested supervisor."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """The effective settings of one step: its own settings, else those that its protocol declares."""

    ref: str
    timeout_s: float | None
    idle_timeout_s: float | None
    retry: Retry
    quotas: Mapping[str, int]
    on_error: Mapping[Category, Actions]
    at_most_once: bool
    limit_key: str | None


def carried_key(ref: str, fingerprint: str) -> str:
    """Key of a protocol's code in the code that clients bring: unique for each reference and fingerprint."""
    return f"{ref}@{fingerprint}"


def code_for(definitions: Iterable[Mapping[str, Any]], code: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the code without the packages (see `PACKAGE`) that none of these definitions needs."""
    needed = {key for definition in definitions for key in packages_of(definition["protocols"])}
    return {key: packed for key, packed in code.items() if key in needed or not key.startswith(PACKAGE)}


class Build(NamedTuple):
    """A build is a protocol with its declaration and its code. Each build has its own pool of hosts."""

    ref: str
    declared: str
    code: str

    @property
    def carried(self) -> str:
        """Key of this build's code in the code that clients bring."""
        return carried_key(self.ref, self.code)


@dataclass(frozen=True, slots=True)
class TierPlan:
    """A nested Hierarchy, with the definition that its nested supervisor gets."""

    name: str
    """Static position in the tree; the shard of the nested supervisor is named after it."""
    definition: dict[str, object]


class Plan:
    """One version of a workflow, ready to be governed.

    The definition is plain data: name, version, hash, tree (hash of the tree alone), root (a node), protocols ({ref:
    declaration}), code ({ref: fingerprint}), search_path (folders from which the protocols import), and quotas (permits
    that each task holds). The definition of a nested Hierarchy also has held: the quotas that the task above holds.
    """

    def __init__(self, definition: Mapping[str, Any], root: Node | None = None) -> None:
        """`root`: the nodes of another version with the same tree, so that tasks can change between both versions."""
        self.definition = dict(definition)
        self.name, self.version = str(definition["name"]), str(definition["version"])
        self.hash = str(definition["hash"])
        self.timeout_s: float | None = definition.get("timeout_s")
        self.starts_as_needed = definition.get("starts") == "as_needed"
        self.undo_on_cancel = bool(definition.get("undo_on_cancel"))
        self.quotas: Mapping[str, int] = definition.get("quotas") or {}
        self._held_above: list[str] | None = definition.get("held")
        self.tree = str(definition.get("tree") or definition["hash"])
        self.code: Mapping[str, str] = definition.get("code") or {}
        self.root: Node = root or Workflow.from_trusted({"name": self.name, "root": definition["root"]}).root
        self.declarations = {
            ref: Declaration.model_validate(declared) for ref, declared in definition["protocols"].items()
        }
        self._builds = {ref: _build(declared, self.code) for ref, declared in self.declarations.items()}
        self._steps: dict[int, StepSettings] = {}
        self._tiers: dict[int, TierPlan] = {}
        self.supervision = _supervision(definition, self.root)
        self.waits = waits_by_name(self.root)
        """A Wait for each name for which a task may wait."""
        self.has_stages = has_stages(self.root)
        """Whether the tasks of this version are requests."""
        for place, node in _governed(self.root, ""):
            if isinstance(node, Step):
                self._steps[id(node)] = _settings(node, self.declarations[node.step])
            elif isinstance(node, Hierarchy) and node is not self.root:
                self._tiers[id(node)] = TierPlan(place, self._tier_definition(node))

    def begin(self, record: TaskRecord) -> tuple[TaskState, list[Effect]]:
        """Return the state of a new task of this version, and its first effects."""
        return begin(record, self.root, record.task_id.partition("/")[2], self.timeout_s)

    def build(self, ref: str) -> Build:
        """Return the build of a protocol in this version."""
        return self._builds[ref]

    def settings(self, step: Step) -> StepSettings:
        return self._steps[id(step)]

    def needs_of(self, record: TaskRecord) -> Mapping[str, int]:
        """Permits that a task holds while something of it runs, by quota.

        A run of a nested Hierarchy holds none, because the task above holds them.
        """
        if self._held_above is not None:
            return {}
        return {BACKGROUND: 1, **self.quotas} if record.priority < 0 else self.quotas

    def settings_in(self, step: Step, record: TaskRecord) -> StepSettings:
        """Return the settings of a step in a task, without the quotas that the task already holds as a whole."""
        settings = self.settings(step)
        held = {*self.quotas, *(self._held_above or ()), *([BACKGROUND] if record.priority < 0 else [])}
        if held.isdisjoint(settings.quotas):
            return settings
        return replace(settings, quotas={name: count for name, count in settings.quotas.items() if name not in held})

    def tier(self, node: Hierarchy) -> TierPlan:
        return self._tiers[id(node)]

    @property
    def tiers(self) -> list[TierPlan]:
        return list(self._tiers.values())

    @property
    def refs(self) -> list[str]:
        """References of the protocols that this supervisor itself hosts, in the order of the tree."""
        return list(dict.fromkeys(settings.ref for settings in self._steps.values()))

    @property
    def children(self) -> list[str]:
        """References of the protocols hosted here and names of nested supervisors, in the order of the tree."""
        found = [
            self._steps[id(node)].ref if isinstance(node, Step) else self._tiers[id(node)].name
            for _, node in _governed(self.root, "")
            if id(node) in self._steps or id(node) in self._tiers
        ]
        return list(dict.fromkeys(found))

    @property
    def uses_quotas(self) -> bool:
        return bool(self.quotas) or any(settings.quotas for settings in self._steps.values())

    def _tier_definition(self, node: Hierarchy) -> dict[str, object]:
        root = node.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"with": None}
        root = {key: value for key, value in root.items() if key not in _OF_THE_LEAF}
        below = [each for _, own in node.own_children() for _, each in walk(own, ())]
        used = {child.step for child in below if isinstance(child, Step)}
        protocols = {ref: self.definition["protocols"][ref] for ref in sorted(used)}
        code = {ref: self.code[ref] for ref in protocols if ref in self.code}
        tree = digest(root)
        own = {"root": root, "protocols": protocols, "supervision": None, "timeout_s": None, "tree": tree, "code": code}
        own["hash"] = version_hash(tree, protocols, code)
        held = sorted({*self.quotas, *(self._held_above or ())})
        return {**self.definition, **own, "undo_on_cancel": True, "quotas": {}, "held": held}


def _supervision(definition: Mapping[str, object], root: Node) -> Supervision:
    """Return the supervision of the Hierarchy at the root if it has one, else that of the workflow."""
    own = root.supervision if isinstance(root, Hierarchy) else None
    return own or Supervision.model_validate(definition.get("supervision") or {})


def _settings(step: Step, declared: Declaration) -> StepSettings:
    at_most_once = declared.at_most_once if step.at_most_once is None else step.at_most_once
    return StepSettings(
        ref=step.step,
        timeout_s=step.timeout_s or declared.timeout_s,
        idle_timeout_s=step.idle_timeout_s or declared.idle_timeout_s,
        retry=NO_RETRY if at_most_once else step.retry or declared.retry or NO_RETRY,
        quotas=step.quotas if step.quotas is not None else declared.quotas,
        on_error={**declared.on_error, **step.on_error},
        at_most_once=at_most_once,
        limit_key=declared.limit_key,
    )


def _build(declared: Declaration, code: Mapping[str, str]) -> Build:
    settings = digest(declared.model_dump(mode="json", exclude_defaults=True))
    return Build(declared.ref, settings, code.get(declared.ref, ""))


def version_hash(tree: str, protocols: Mapping[str, object], code: Mapping[str, str]) -> str:
    """Compute the hash of a version from its tree, the declarations of its protocols, and their code.

    Declarations count without defaults, so that a later Podium with more settings computes the same hash. Definitions
    from before 0.1 have no code: their hash is the hash of the tree.
    """
    if not code:
        return tree
    spare = {
        ref: Declaration.model_validate(declared).model_dump(mode="json", exclude_defaults=True)
        for ref, declared in protocols.items()
    }
    return digest([tree, spare, code])


def tree_of(definition: Mapping[str, object]) -> Workflow:
    """Build the workflow of a definition. Raises pydantic's ValidationError, or InvalidDefinition."""
    fields = Workflow.model_fields.keys() & definition.keys()
    return Workflow.from_trusted({name: definition[name] for name in fields})


def waits_by_name(root: Node) -> dict[str, Wait]:
    """Return a Wait for each name for which a tree waits. All of one name agree in what counts as an answer."""
    return {node.wait: node for _, node in walk(root, ()) if isinstance(node, Wait)}


def has_breakers(definition: Mapping[str, Any]) -> bool:
    return any(declared.get("breaker") for declared in definition["protocols"].values())


def all_quotas(definition: Mapping[str, Any]) -> list[Mapping[str, int]]:
    """Return the quotas of the tasks and of every step in the whole definition, nested Hierarchies included."""
    plan_root = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    needs: list[Mapping[str, int]] = [definition.get("quotas") or {}]
    for _, node in walk(plan_root, ()):
        if isinstance(node, Step):
            declared = Declaration.model_validate(definition["protocols"][node.step])
            needs.append(_settings(node, declared).quotas)
    return [quotas for quotas in needs if quotas]


def _governed(node: Node, place: str) -> Iterator[tuple[str, Node]]:
    """Yield the nodes that one supervisor governs, with their static positions.

    Of a nested Hierarchy only the node itself and its fallbacks are yielded; its own supervisor governs the rest.
    """
    yield place, node
    own = node.own_children() if isinstance(node, Hierarchy) and place else []
    for loc, child in [each for each in children(node) if each not in own]:
        name = f"fallback:{int(loc[1]) + 1}" if loc[0] == "fallback" else child.name or str(loc[-1])
        yield from _governed(child, f"{place}-{name}" if place else name)
