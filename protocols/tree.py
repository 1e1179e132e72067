"""The workflow tree: one frozen pydantic model, built in Python or read from YAML or JSON, equal either way.

In YAML a node is a mapping with exactly one of the keys `step`, `sequence`, `parallel`, `each`, `hierarchy`,
`adaptive`, and its settings beside it; a bare text is a step. In Python the classes take that content as their
positional argument, and protocols may stand for steps:

    Workflow("brief", Sequence(inventory, Parallel({"todo": todo, "churn": churn}), Step(report, timeout_s=5)))
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from .errors import InvalidDefinition
from .json_forms import writable
from .policy import RetryPolicy, Supervision
from .protocol import current_reference, is_protocol, plain_name
from .quantities import Count, Seconds
from .recovery import OnError
from .wording import NODE_KINDS, ONE_KIND, Definition, not_a_node

END = "end"
"""Where the rules of an Adaptive lead when it is done; no node may have this name."""
NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

Expression: TypeAlias = str
"""CEL; see conditions.py for what it may refer to."""


class Constant(Definition):
    """An output that is known beforehand."""

    value: Any = None
    missing: str | None = None
    """What a result lacks that was made with it: it says `degraded`, and this. By default the name of the node."""

    @field_validator("value")
    @classmethod
    def _is_writable(cls, value: Any) -> Any:
        return writable(value)


class _Node(Definition):
    name: Annotated[str, Field(pattern=f"^{NODE_NAME.pattern}$")] | None = None
    """Name among its siblings; in a sequence, unless given, the protocol's name."""
    with_: Annotated[Expression | Mapping[str, Expression] | None, Field(alias="with")] = None
    """Where the input comes from: CEL over `input` (what it would be otherwise), `outputs`, `task`; in a fallback also
    `error`, what it stands in for: {"code", "message", "kind", "step"}."""
    fallback: tuple[Node, ...] = ()
    """What runs instead, one after the other and with the same input, when this node has failed for good."""
    otherwise: Constant | None = None
    """The output when all of that has failed, too. The task is `degraded` then."""
    missing: str | None = None
    """Of a fallback: what a result lacks that was made with its output; the task is `degraded` then. None: nothing."""
    undo: Step | None = None
    """What takes this node back, once it has succeeded, when the task fails after all. Its input is this node's
    {"input", "output"}. It stands for the `undo` of everything in this node."""

    @field_validator("fallback", mode="before")
    @classmethod
    def _several(cls, fallback: Any) -> Any:
        return fallback if isinstance(fallback, list | tuple) else (fallback,)


class Step(_Node):
    """Run a protocol. The settings here override those that the protocol declares."""

    step: str
    """`module:name` of the protocol."""
    timeout_s: Seconds | None = None
    """Longest time of one attempt, from the moment it begins to run."""
    idle_timeout_s: Seconds | None = None
    """Longest time in which an attempt neither emits, nor logs, nor calls `ctx.heartbeat()`."""
    total_timeout_s: Seconds | None = None
    """Seconds from when the step is due until it has to have its outcome, all attempts and waits included."""
    retry: RetryPolicy | None = None
    """How often it runs again: a policy, its number of attempts, or a preset: llm, tool, storage."""
    quotas: Mapping[str, Count] | None = None
    on_error: OnError = {}  # noqa: RUF012  (pydantic gives each its own)
    """What follows a failure, by its category; over what the protocol declares. See recovery.py."""
    at_most_once: bool | None = None
    """Never run it again when nobody knows what a run has done: its failure is `uncertain`, and it is parked."""
    on_cancel: Step | None = None
    """What runs in place of `undo` when the task is cancelled after this step has succeeded, whatever the workflow's
    `undo_on_cancel` says."""

    def __init__(self, step: Any = None, **settings: Any) -> None:
        super().__init__(**{"step": step, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"step": value} if isinstance(value, str) or is_protocol(value) else value

    @field_validator("step", mode="before")
    @classmethod
    def _reference(cls, target: Any) -> Any:
        return current_reference(target) if is_protocol(target) else target

    @field_validator("step")
    @classmethod
    def _well_formed(cls, ref: str) -> str:
        module, _, name = ref.partition(":")
        if not module or not name or any(c.isspace() for c in ref):
            raise ValueError(f"'{ref}' is not of the form module:name")
        return ref


class _Group(_Node):
    on_cancel: ClassVar[None] = None
    timeout_s: Seconds | None = None
    """Seconds from its start until it has to have its outcome; None is no bound."""


class Sequence(_Group):
    """One after another; the output of each is the input of the next."""

    sequence: Annotated[tuple[Node, ...], Field(min_length=1)]

    def __init__(self, *sequence: Any, **settings: Any) -> None:
        settings.setdefault("sequence", sequence)
        super().__init__(**settings)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _names(self) -> Sequence:
        taken = [node.name for node in self.sequence if node.name]
        for name in taken:
            if taken.count(name) > 1:
                raise ValueError(f"the name '{name}' is given to {taken.count(name)} nodes of one sequence")
        named = []
        for node in self.sequence:
            if not node.name:
                node = node.model_copy(update={"name": _free_name(default_name(node), taken)})
                taken.append(str(node.name))
            named.append(node)
        object.__setattr__(self, "sequence", tuple(named))
        return self


class Parallel(_Group):
    """At once: named branches on the same input, or one node over each item of a list.

    The output is a mapping by branch name, or a list in the order of the items. A join of `any` gives the
    first success's own output; `settled` gives {"output": …} or {"error": …} for each.
    """

    parallel: Annotated[Mapping[str, Node], Field(min_length=1)] | None = None
    each: Expression | None = None
    """CEL (as in `with`) that gives the list; `do` runs once per item, with the item as its input."""
    do: Node | None = None
    limit: Count | None = None
    """At most so many branches of one task at once; None is no bound."""
    join: Annotated[str, Field(pattern=r"^(all|any|settled|quorum\([1-9][0-9]*\))$")] = "all"
    rest: Literal["cancel", "wait"] = "cancel"
    """What becomes of the branches that run when the join is decided: cancelled, or waited for."""
    on_timeout: Literal["fail", "partial"] = "fail"
    """What comes out after `timeout_s`: a failure, or what is there by then.

    With "partial" the output is always {"outputs": …, "missing": […]}, the missing by name or by index (their places in
    a list of outputs are null); under `settled` it is as usual, and the missing have an error with the code "timeout".
    """

    def __init__(self, *branches: Any, **settings: Any) -> None:
        if branches:
            settings["parallel"] = _by_name(branches)
        super().__init__(**settings)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("parallel")
    @classmethod
    def _names(cls, branches: Mapping[str, Node] | None) -> Mapping[str, Node] | None:
        return branches and _checked_names(branches)

    @model_validator(mode="after")
    def _one_form(self) -> Parallel:
        if (self.parallel is None) == (self.each is None) or (self.each is None) != (self.do is None):
            raise ValueError("give either `parallel` (named branches) or `each` with `do`")
        wanted = self.quorum
        if wanted and self.parallel and wanted > len(self.parallel):
            raise ValueError(f"{self.join} can never be met by {len(self.parallel)} branches")
        if self.on_timeout == "partial" and (self.timeout_s is None or self.join == "any"):
            raise ValueError("on_timeout: partial needs a timeout_s, and a join other than any")
        return self

    @property
    def quorum(self) -> int | None:
        return int(self.join[7:-1]) if self.join.startswith("quorum") else None


class Hierarchy(_Group):
    """A supervising protocol and its team.

    Each round the supervising protocol gets {"input", "round", "outcomes", "feedback"} and returns a verdict
    (podium.verdict). Its first call, round 1, comes before any member has run.
    """

    hierarchy: Step
    """The supervising protocol."""
    team: Annotated[Mapping[str, Node], Field(min_length=1)]
    supervision: Supervision | None = None
    """How its own supervisor treats the hosts and tiers below it when they die."""
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Calls of the supervising protocol; when the last brings no decision, the node fails."""

    def __init__(self, hierarchy: Any = None, **settings: Any) -> None:
        super().__init__(**{"hierarchy": hierarchy, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("team")
    @classmethod
    def _names(cls, team: Mapping[str, Node]) -> Mapping[str, Node]:
        if "lead" in team:
            raise ValueError("'lead' is the supervising protocol's own name, give the member another")
        return _checked_names(team)


class Rule(Definition):
    """After `after` (any node, if not given), when `when` holds, go to `to`.

    A failed node is handled only by a rule whose `when` mentions `error`; otherwise the failure stands.
    """

    after: str | None = None
    when: Expression = "true"
    to: str


class Adaptive(_Group):
    """Named nodes; after each, the first rule that matches says what follows, until one leads to `end`."""

    adaptive: Annotated[Mapping[str, Node], Field(min_length=1)]
    start: str
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    jumps: tuple[str, ...] = ()
    """Nodes that are reached only by a goto from a protocol, past the rules."""
    max_visits: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Visits of each node in one task; one more fails the node."""

    def __init__(self, adaptive: Any = None, **settings: Any) -> None:
        super().__init__(**{"adaptive": adaptive, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("adaptive")
    @classmethod
    def _names(cls, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        if END in nodes:
            raise ValueError(f"'{END}' is where rules lead when all is done; give the node another name")
        return _checked_names(nodes)


def _kind(value: Any) -> str | None:
    if isinstance(value, _Node):
        return type(value).__name__.lower()
    if isinstance(value, str) or is_protocol(value):
        return "step"
    if isinstance(value, Mapping):
        kinds = [kind for kind in NODE_KINDS if kind in value]
        if len(kinds) == 1:
            return "parallel" if kinds[0] == "each" else kinds[0]
    return None


Node: TypeAlias = Annotated[
    Annotated[Step, Tag("step")]
    | Annotated[Sequence, Tag("sequence")]
    | Annotated[Parallel, Tag("parallel")]
    | Annotated[Hierarchy, Tag("hierarchy")]
    | Annotated[Adaptive, Tag("adaptive")],
    Discriminator(
        _kind,
        custom_error_type="node",
        custom_error_message=ONE_KIND,
    ),
]


def quorum(n: int) -> str:
    """The join that is met by `n` successes."""
    return f"quorum({n})"


def time_limit_s(node: Node) -> float | None:
    """Seconds that a node has for everything in it, from when it is due."""
    return node.total_timeout_s if isinstance(node, Step) else node.timeout_s


def default_name(node: _Node) -> str:
    if isinstance(node, Step):
        return plain_name(node.step.rpartition(":")[2].partition("~")[0].rpartition(".")[2])
    return type(node).__name__.lower()


def _free_name(wanted: str, taken: Collection[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _by_name(branches: tuple[Any, ...]) -> Mapping[str, Any]:
    if len(branches) == 1 and isinstance(branches[0], Mapping) and _kind(branches[0]) is None:
        return branches[0]
    named: dict[str, Any] = {}
    for branch in branches:
        node = Step(branch) if isinstance(branch, str) or is_protocol(branch) else branch
        if not isinstance(node, _Node):
            raise InvalidDefinition(problem=not_a_node(branch), path="Parallel")
        named[_free_name(node.name or default_name(node), list(named))] = node.model_copy(update={"name": None})
    return named


def _checked_names(nodes: Mapping[str, Node]) -> Mapping[str, Node]:
    for name, node in nodes.items():
        if not NODE_NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a name (letters, digits, _ and -, at most 64)")
        if node.name not in (None, name):
            raise ValueError(f"node '{name}' is also named '{node.name}'; leave `name` out here")
    return {name: node.model_copy(update={"name": None}) if node.name else node for name, node in nodes.items()}


for _model in (Step, Sequence, Parallel, Hierarchy, Adaptive):
    _model.model_rebuild()


def takers_back(node: Node) -> dict[str, Step]:
    """The steps that take it back, by the key that they are under."""
    return {name: step for name, step in (("undo", node.undo), ("on_cancel", node.on_cancel)) if step is not None}
