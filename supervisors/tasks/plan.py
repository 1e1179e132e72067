"""What a deployed definition means to the supervisor that governs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...protocols.check import children, own_children, walk
from ...protocols.outcomes import TaskRecord
from ...protocols.policy import NO_RETRY, Retry, Supervision
from ...protocols.protocol import Declaration
from ...protocols.recovery import Actions, Category
from ...protocols.requests.machine import has_stages
from ...protocols.tree import Hierarchy, Node, Step
from ...protocols.values import digest
from ...protocols.workflow import Workflow
from .fold import begin
from .state import Effect, TaskState

BACKGROUND = "background"
"""Quota of which each task of a priority below 0 holds one."""
_OF_THE_LEAF = ("fallback", "otherwise", "missing", "undo", "timeout_s")
"""Settings of a nested Hierarchy that its own supervisor has nothing to do with."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What holds for one step: its own settings over those that its protocol declares."""

    ref: str
    timeout_s: float | None
    idle_timeout_s: float | None
    retry: Retry
    quotas: Mapping[str, int]
    on_error: Mapping[Category, Actions]
    at_most_once: bool
    limit_key: str | None


def carried_key(ref: str, fingerprint: str) -> str:
    """Key of the code of a protocol among what clients bring: each has its own, whatever its name is."""
    return f"{ref}@{fingerprint}"


class Build(NamedTuple):
    """What hosts share: a protocol with what it declares and its code. Another of these is another pool."""

    ref: str
    declared: str
    code: str

    @property
    def carried(self) -> str:
        """Key of its code among what clients bring."""
        return carried_key(self.ref, self.code)


@dataclass(frozen=True, slots=True)
class TierPlan:
    """A nested Hierarchy: what its own supervisor is told."""

    name: str
    """Static place in the tree; names the tier's shard."""
    definition: dict[str, Any]


class Plan:
    """One version of a workflow, ready to be governed.

    The definition is plain data: name, version, hash, tree (hash of the tree alone), root (a node), protocols ({ref:
    declaration}), code ({ref: fingerprint}), search_path (folders from which the protocols import), quotas (what each
    task holds), and in that of a nested Hierarchy held (quotas of which the task above has what there is to hold).
    """

    def __init__(self, definition: Mapping[str, Any], root: Node | None = None) -> None:
        """`root` are the nodes of another version with the same tree: tasks of both can then go by either."""
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
        self.has_stages = has_stages(self.root)
        """Whether its tasks are requests."""
        for place, node in _governed(self.root, ""):
            if isinstance(node, Step):
                self._steps[id(node)] = _settings(node, self.declarations[node.step])
            elif isinstance(node, Hierarchy) and node is not self.root:
                self._tiers[id(node)] = TierPlan(place, self._tier_definition(node))

    def begin(self, record: TaskRecord) -> tuple[TaskState, list[Effect]]:
        """The state of a new task of this version, and its first effects."""
        return begin(record, self.root, record.task_id.partition("/")[2], self.timeout_s)

    def build(self, ref: str) -> Build:
        """What hosts of a protocol have to be of, in this version."""
        return self._builds[ref]

    def settings(self, step: Step) -> StepSettings:
        return self._steps[id(step)]

    def needs_of(self, record: TaskRecord) -> Mapping[str, int]:
        """What a task holds as long as something of it runs; nothing in a nested Hierarchy, for the task above does."""
        if self._held_above is not None:
            return {}
        return {BACKGROUND: 1, **self.quotas} if record.priority < 0 else self.quotas

    def settings_in(self, step: Step, record: TaskRecord) -> StepSettings:
        """The settings of a step in a task, which needs no more of what the task holds."""
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
        """Protocols that this supervisor itself hosts, in the order of the tree."""
        return list(dict.fromkeys(settings.ref for settings in self._steps.values()))

    @property
    def children(self) -> list[str]:
        """Protocols hosted here and names of tiers, in the order in which they first appear in the tree."""
        found = [
            self._steps[id(node)].ref if isinstance(node, Step) else self._tiers[id(node)].name
            for _, node in _governed(self.root, "")
            if id(node) in self._steps or id(node) in self._tiers
        ]
        return list(dict.fromkeys(found))

    @property
    def uses_quotas(self) -> bool:
        return bool(self.quotas) or any(settings.quotas for settings in self._steps.values())

    def _tier_definition(self, node: Hierarchy) -> dict[str, Any]:
        root = node.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"with": None}
        root = {key: value for key, value in root.items() if key not in _OF_THE_LEAF}
        below = [each for _, own in own_children(node) for _, each in walk(own, ())]
        used = {child.step for child in below if isinstance(child, Step)}
        protocols = {ref: self.definition["protocols"][ref] for ref in sorted(used)}
        code = {ref: self.code[ref] for ref in protocols if ref in self.code}
        tree = digest(root)
        own = {"root": root, "protocols": protocols, "supervision": None, "timeout_s": None, "tree": tree, "code": code}
        own["hash"] = version_hash(tree, protocols, code)
        held = sorted({*self.quotas, *(self._held_above or ())})
        return {**self.definition, **own, "undo_on_cancel": True, "quotas": {}, "held": held}


def _supervision(definition: Mapping[str, Any], root: Node) -> Supervision:
    """A Hierarchy's own at the root, else the workflow's."""
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


def version_hash(tree: str, protocols: Mapping[str, Any], code: Mapping[str, str]) -> str:
    """Of a version: of its tree, of what its protocols declare, and of their code.

    Declarations count without defaults, so that a later Podium with more settings gives the same. Definitions of before
    0.1 knew no code: their hash is that of the tree.
    """
    if not code:
        return tree
    spare = {
        ref: Declaration.model_validate(declared).model_dump(mode="json", exclude_defaults=True)
        for ref, declared in protocols.items()
    }
    return digest([tree, spare, code])


def tree_of(definition: Mapping[str, Any]) -> Workflow:
    """The workflow that a definition is of. Raises pydantic's ValidationError, or InvalidDefinition."""
    fields = Workflow.model_fields.keys() & definition.keys()
    return Workflow.from_trusted({name: definition[name] for name in fields})


def has_breakers(definition: Mapping[str, Any]) -> bool:
    return any(declared.get("breaker") for declared in definition["protocols"].values())


def all_quotas(definition: Mapping[str, Any]) -> list[Mapping[str, int]]:
    """The needs of its tasks, and of every step in the whole definition, nested tiers included."""
    plan_root = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    needs: list[Mapping[str, int]] = [definition.get("quotas") or {}]
    for _, node in walk(plan_root, ()):
        if isinstance(node, Step):
            declared = Declaration.model_validate(definition["protocols"][node.step])
            needs.append(_settings(node, declared).quotas)
    return [quotas for quotas in needs if quotas]


def _governed(node: Node, place: str) -> Iterator[tuple[str, Node]]:
    """The nodes of this tier, with their static places; of a nested Hierarchy only itself and what stands in for it."""
    yield place, node
    own = own_children(node) if isinstance(node, Hierarchy) and place else []
    for loc, child in [each for each in children(node) if each not in own]:
        name = f"fallback:{int(loc[1]) + 1}" if loc[0] == "fallback" else child.name or str(loc[-1])
        yield from _governed(child, f"{place}-{name}" if place else name)
