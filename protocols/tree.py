"""The workflow tree: one frozen pydantic model, built in Python or read from YAML or JSON, equal either way.

In YAML a node is a mapping with exactly one of the keys `step`, `sequence`, `parallel`, `each`, `hierarchy`,
`adaptive`, `wait`, `sleep`, and its settings beside it; a bare text is a step. In Python the classes take that content
as their positional argument, and protocols may stand for steps:

    Workflow("brief", Sequence(inventory, Parallel({"todo": todo, "churn": churn}), Step(report, timeout_s=5)))
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, Unpack, get_args, overload

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from .errors import InvalidDefinition
from .options import (
    AdaptiveOptions,
    HierarchyOptions,
    NodeLike,
    ParallelOptions,
    SequenceOptions,
    SequenceSettings,
    SleepOptions,
    StepOptions,
    StepSettings,
    WaitOptions,
)
from .policy import RetryPolicy, Supervision
from .protocol import current_reference, is_protocol, plain_name
from .quantities import Count, Seconds
from .recovery import OnError
from .tree_parts import END, MAILBOX_NAME, NODE_NAME, AnswerSchema, Constant, Expression, Rule, Span, Who
from .typed_nodes import A, B, C, D, E, F, G, In, Out, Runs, Text, Typed
from .wording import A_NODE, A_VALUE, NODE_KINDS, ONE_KIND, Definition, Loc, not_a_node


class _Node(Typed[In, Out], Definition):
    name: Annotated[str, Field(pattern=f"^{NODE_NAME.pattern}$")] | None = None
    """The node's name among its siblings. In a Sequence it is by default the protocol's name."""
    with_: Annotated[Expression | Mapping[str, Expression] | None, Field(alias="with")] = None
    """The node's input as CEL, one expression or a mapping of them, over `input` (the input without `with`), `outputs`
    and `task`; in a fallback also `error`, the failure that it stands in for: {"code", "message", "kind", "step"}. In
    Python it is written `with_`."""
    fallback: tuple[Node, ...] = ()
    """Nodes that run when this node has failed for good: one after another, with the same input, until one succeeds."""
    otherwise: Constant | None = None
    """The output when the fallbacks have failed, too. The task is `degraded` then."""
    missing: str | None = None
    """For a fallback: the name under which `degraded` says what a result lacks that was made with its output. None
    means that the fallback is as good as the node itself."""
    undo: Step | None = None
    """A step that takes back the effects of this node. It runs if the node has succeeded and the task fails after all.
    Its input is this node's {"input", "output"}. It replaces every `undo` within this node."""

    @abstractmethod
    def own_children(self) -> list[tuple[Loc, Node]]:
        """Return the nodes that this node itself runs, each with its location relative to this node.

        Its fallbacks, `undo` and `on_cancel` are not among them.
        """

    def with_children(self, change: Callable[[Node], Node]) -> Self:
        """Return a copy in which `change` has been applied to each of its own children."""
        changed: dict[str, Any] = {}
        for (field, *at), child in self.own_children():
            if at:
                changed.setdefault(str(field), {})[at[0]] = change(child)
            else:
                changed[str(field)] = change(child)
        kept = {field: tuple(new.values()) for field, new in changed.items() if isinstance(getattr(self, field), tuple)}
        return self.model_copy(update=changed | kept)

    @field_validator("fallback", mode="before")
    @classmethod
    def _several(cls, fallback: Any) -> Any:
        return fallback if isinstance(fallback, list | tuple) else (fallback,)


class Step(_Node[In, Out]):
    """A node that runs a protocol: `Step(fetch, timeout_s=5)`. Its settings override those of the protocol."""

    step: str
    """The protocol; in YAML as `module:name`."""
    timeout_s: Seconds | None = None
    """The longest time of one attempt, in seconds, from the moment it begins to run."""
    idle_timeout_s: Seconds | None = None
    """The longest silence of an attempt, in seconds. `ctx.emit`, `ctx.log` and `ctx.heartbeat` end a silence."""
    total_timeout_s: Seconds | None = None
    """The longest time of the step, in seconds from when it is due, all attempts and waits included."""
    retry: RetryPolicy | None = None
    """When a failed attempt is repeated: a `Retry`, a number of attempts, or a preset's name (docs/workflows.md)."""
    quotas: Mapping[str, Count] | None = None
    """Permits that each run holds while it runs, by the name of the quota."""
    on_error: OnError = {}  # noqa: RUF012  (pydantic gives each its own)
    """The actions that follow a failure, by category of the failure. Categories that are not named are as the protocol
    says."""
    at_most_once: bool | None = None
    """If true, a run is never repeated by Podium. If nobody knows what a run has done, it fails as `uncertain`, and the
    step is parked until a person decides."""
    on_cancel: Step | None = None
    """A step that runs in place of `undo` when the task is cancelled after this step has succeeded. It does so whatever
    the workflow's `undo_on_cancel` says."""

    @overload
    def __init__(
        self: Step[Any, B],
        step: Runs[Any, B],
        *,
        with_: str | Mapping[str, str] | None,
        **settings: Unpack[StepSettings],
    ) -> None: ...
    @overload
    def __init__(self: Step[A, B], step: Runs[A, B], **settings: Unpack[StepSettings]) -> None: ...
    @overload
    def __init__(self: Step[Any, Any], step: Text | None = None, **settings: Unpack[StepOptions]) -> None: ...
    def __init__(self, step: Any = None, **settings: Any) -> None:
        super().__init__(**{"step": step, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        return []

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


class _Group(_Node[In, Out]):
    on_cancel: ClassVar[None] = None
    timeout_s: Seconds | None = None
    """The longest time of the node, in seconds from its start. None is no bound."""


class Sequence(_Group[In, Out]):
    """A node that runs its children one after another: `Sequence(first, second)`.

    The output of each is the input of the next; the output of the last is the Sequence's own.
    """

    sequence: Annotated[tuple[Node, ...], Field(min_length=1)]
    """The children, in their order; in Python the positional arguments."""

    @overload
    def __init__(
        self: Sequence[A, B],
        n1: Runs[A, B],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[A, C],
        n1: Runs[A, B],
        n2: Runs[B, C],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[A, D],
        n1: Runs[A, B],
        n2: Runs[B, C],
        n3: Runs[C, D],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[A, E],
        n1: Runs[A, B],
        n2: Runs[B, C],
        n3: Runs[C, D],
        n4: Runs[D, E],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[A, F],
        n1: Runs[A, B],
        n2: Runs[B, C],
        n3: Runs[C, D],
        n4: Runs[D, E],
        n5: Runs[E, F],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[A, G],
        n1: Runs[A, B],
        n2: Runs[B, C],
        n3: Runs[C, D],
        n4: Runs[D, E],
        n5: Runs[E, F],
        n6: Runs[F, G],
        /,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: Sequence[Any, Any],
        *nodes: Any,
        with_: str | Mapping[str, str] | None,
        **settings: Unpack[SequenceSettings],
    ) -> None: ...
    @overload
    def __init__(self: Sequence[Any, Any], n1: Text, /, *more: Any, **settings: Unpack[SequenceOptions]) -> None: ...
    @overload
    def __init__(
        self: Sequence[Any, Any],
        n1: Any,
        n2: Any,
        n3: Any,
        n4: Any,
        n5: Any,
        n6: Any,
        n7: Any,
        /,
        *more: Any,
        **settings: Unpack[SequenceOptions],
    ) -> None: ...
    @overload
    def __init__(self: Sequence[Any, Any], **settings: Unpack[SequenceOptions]) -> None: ...
    def __init__(self, *children: Any, **settings: Any) -> None:
        Definition.__init__(self, **{"sequence": children, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        return [(("sequence", index), child) for index, child in enumerate(self.sequence)]

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


class Parallel(_Group[Any, Any]):
    """A node that runs branches at the same time.

    Either named branches on the same input, `Parallel({"a": first, "b": second})`, or one node for each item of a
    list, `Parallel(each="input", do=fetch)`. The output is a mapping by branch name, or a list in the order of the
    items.
    """

    parallel: Annotated[Mapping[str, Node], Field(min_length=1)] | None = None
    """The branches, by name; in Python the positional argument. Several nodes may be given instead of a mapping."""
    each: Expression | None = None
    """A CEL expression, as in `with`, that gives the list. `do` runs once for each item, with the item as its input."""
    do: Node | None = None
    """The node that runs for each item of `each`."""
    limit: Count | None = None
    """The number of branches of one task that run at the same time. None is no bound."""
    join: Annotated[str, Field(pattern=r"^(all|any|settled|quorum\([1-9][0-9]*\))$")] = "all"
    """When the node is done: `all` (the first failure fails the node), `any` (the output is that of the first
    success), `quorum(n)` (n successes), or `settled` (all have ended; {"output": …} or {"error": …} for each)."""
    rest: Literal["cancel", "wait"] = "cancel"
    """The fate of the branches that still run when the join is decided: cancelled, or waited for."""
    on_timeout: Literal["fail", "partial"] = "fail"
    """The result after `timeout_s`: a failure, or the outputs that are there by then. With "partial" the output is
    always {"outputs": …, "missing": […]}; `missing` has names, or indexes, whose places in `outputs` are null. Under
    `settled` the output is as usual, and each missing one has an error with the code "timeout"."""

    def __init__(self, *branches: NodeLike, **settings: Unpack[ParallelOptions]) -> None:
        named = {"parallel": _by_name(branches)} if branches else {}
        Definition.__init__(self, **{**settings, **named})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        if self.do is not None:
            return [(("do",), self.do)]
        return [(("parallel", name), child) for name, child in (self.parallel or {}).items()]

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


class Hierarchy(_Group[Any, Any]):
    """A node with a supervising protocol and a team: `Hierarchy(editor, team={"intro": writer})`.

    In each round the supervising protocol gets {"input", "round", "team", "outcomes"} and returns a verdict
    (`podium.verdict`). Its first call, round 1, comes before any member has run.
    """

    hierarchy: Step
    """The supervising protocol; in Python the positional argument."""
    team: Annotated[Mapping[str, Node], Field(min_length=1)]
    """The members, by name. No member may be called `lead`."""
    supervision: Supervision | None = None
    """The rules by which the node's own supervisor starts its hosts again. At the root they replace the workflow's."""
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    """The number of calls of the supervising protocol. If the last brings no decision, the node fails."""

    def __init__(self, hierarchy: NodeLike = None, **settings: Unpack[HierarchyOptions]) -> None:
        super().__init__(**{"hierarchy": hierarchy, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        members: list[tuple[Loc, Node]] = [(("team", name), child) for name, child in self.team.items()]
        return [(("hierarchy",), self.hierarchy), *members]

    @field_validator("team")
    @classmethod
    def _names(cls, team: Mapping[str, Node]) -> Mapping[str, Node]:
        if "lead" in team:
            raise ValueError("'lead' is the supervising protocol's own name, give the member another")
        return _checked_names(team)


class Adaptive(_Group[Any, Any]):
    """A node with named children and rules: `Adaptive({"a": first, "b": second}, start="a", rules=[Rule(to="end")])`.

    After each child the first rule that fits says which one follows, until a rule leads to `end`. The output of the
    last child is the node's output.
    """

    adaptive: Annotated[Mapping[str, Node], Field(min_length=1)]
    """The children, by name; in Python the positional argument. No child may be called `end`."""
    start: str
    """The name of the first child."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """The rules, in the order in which they are tried."""
    jumps: tuple[str, ...] = ()
    """The names of children that are reached only by a `Goto` that a protocol returns, past the rules."""
    max_visits: Annotated[int, Field(ge=1, le=100_000)] = 100
    """The number of visits that each child may have in one task. One more fails the Adaptive."""

    def __init__(self, adaptive: NodeLike = None, **settings: Unpack[AdaptiveOptions]) -> None:
        super().__init__(**{"adaptive": adaptive, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        return [(("adaptive", name), child) for name, child in self.adaptive.items()]

    @field_validator("adaptive")
    @classmethod
    def _names(cls, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        if END in nodes:
            raise ValueError(f"'{END}' is where rules lead when all is done; give the node another name")
        return _checked_names(nodes)


class Wait(_Node[Any, Any]):
    """A node that waits for an answer: `Wait("approval", schema=bool, timeout_s=86400)`. Nothing runs meanwhile.

    The answer comes by its name, from `engine.answer`, `podium answer` or a client of another kind. An answer that
    comes before the node is reached is kept. The output of the node is the answer; if `need` is more than 1, the list
    of the answers in the order in which they came.
    """

    on_cancel: ClassVar[None] = None
    wait: Annotated[str, Field(pattern=f"^{MAILBOX_NAME.pattern}$")]
    """The name by which the answer comes; in Python the positional argument. All waits of one name in a workflow agree
    in the settings that say which answers count."""
    schema_: Annotated[AnswerSchema, Field(alias="schema")] = None
    """The JSON Schema of an answer, from which a form can be drawn. Other answers are refused to their sender. In
    Python it is written `schema`, and a type may be given instead. None allows any plain data."""
    show: Expression | Mapping[str, Expression] | None = None
    """The matter that the answer is about: CEL as in `with`, evaluated when the node begins to wait. An answer may name
    the digest of what its sender saw; it is refused as stale if that is something else."""
    who: tuple[Who, ...] = ()
    """The users who may answer: names, `group:<name>`, `role:<name>`. Empty allows everybody who can reach the task."""
    not_starter: bool = False
    """If true, the user whom the task belongs to may not answer."""
    need: Count = 1
    """The number of answers, each from another user."""
    refusal: Expression | None = None
    """A CEL condition over `answer` that tells which answers are refusals, such as `answer == false`."""
    on_refusal: Literal["fail", "finish", "go_on"] = "fail"
    """The effect of a refusal: `fail` (the node fails as `refused`), `finish` (the node is done at once), `go_on` (the
    refusal does not count, and others may still make up `need`)."""
    mailbox: Literal["once", "each"] = "once"
    """`once`: the first answers are those of all waits of this name, and later ones are refused. `each`: answers queue
    up, and each wait takes the next."""
    signed: bool = False
    """If true, an answer comes with its sender: {"value", "by", "at", "via"}, `at` in UTC seconds."""
    timeout_s: Seconds | None = None
    """The longest time of the wait, in seconds from when the node begins to wait. None is no bound."""
    on_timeout: AtTimeout | None = None
    """The output after `timeout_s`, {"value": …}, or a node that gives it; the node gets the input of the wait. Without
    it, the wait fails as `timeout`."""

    def __init__(self, wait: str | None = None, **settings: Unpack[WaitOptions]) -> None:
        Definition.__init__(self, **{"wait": wait, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        if self.on_timeout is None or isinstance(self.on_timeout, Constant):
            return []
        return [(("on_timeout",), self.on_timeout)]

    @model_validator(mode="after")
    def _sound(self) -> Wait:
        if self.on_timeout is not None and self.timeout_s is None:
            raise ValueError("on_timeout needs a timeout_s")
        if self.on_refusal != "fail" and self.refusal is None:
            raise ValueError(f"on_refusal: {self.on_refusal} needs a `refusal`, which says what a refusal is")
        if self.who and not self.has_groups and self.need > len(set(self.who)):
            raise ValueError(f"need: {self.need} can never be met by {len(set(self.who))} users")
        return self

    @property
    def has_groups(self) -> bool:
        """Whether groups or roles may answer, so that nobody knows how many people may."""
        return any(each.startswith(("group:", "role:")) for each in self.who)


class Sleep(_Node[In, Out]):
    """A node that waits for a time: `Sleep(for_s=3600)` or `Sleep(until="input.at")`. Its output is its input."""

    on_cancel: ClassVar[None] = None
    sleep: Span
    """The time: {"for_s": …} or {"until": …}; in Python one of the two as a keyword."""

    def __init__(self: Sleep[A, A], **settings: Unpack[SleepOptions]) -> None:
        span = {key: settings.pop(key) for key in ("for_s", "until") if key in settings}
        Definition.__init__(self, **({"sleep": span} if span else {}), **settings)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def own_children(self) -> list[tuple[Loc, Node]]:
        return []


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


def _value_or_node(value: Any) -> str:
    is_value = isinstance(value, Constant) or (isinstance(value, Mapping) and value.keys() <= {"value", "missing"})
    return A_VALUE if is_value else A_NODE


Node: TypeAlias = Annotated[
    Annotated[Step, Tag("step")]
    | Annotated[Sequence, Tag("sequence")]
    | Annotated[Parallel, Tag("parallel")]
    | Annotated[Hierarchy, Tag("hierarchy")]
    | Annotated[Adaptive, Tag("adaptive")]
    | Annotated[Wait, Tag("wait")]
    | Annotated[Sleep, Tag("sleep")],
    Discriminator(
        _kind,
        custom_error_type="node",
        custom_error_message=ONE_KIND,
    ),
]
AtTimeout: TypeAlias = Annotated[
    Annotated[Constant, Tag(A_VALUE)] | Annotated[Node, Tag(A_NODE)], Discriminator(_value_or_node)
]
"""The output of a Wait that has timed out, or the node that gives it."""


def quorum(n: int) -> str:
    """The `join` of a Parallel that is met by `n` successes: `Parallel(a, b, c, join=podium.quorum(2))`."""
    return f"quorum({n})"


def time_limit_s(node: Node) -> float | None:
    """Seconds that a node has for everything in it, from when it is due."""
    if isinstance(node, Step):
        return node.total_timeout_s
    return None if isinstance(node, Sleep) else node.timeout_s


def default_name(node: _Node) -> str:
    if isinstance(node, Step):
        return plain_name(node.step.rpartition(":")[2].partition("~")[0].rpartition(".")[2])
    if isinstance(node, Wait):
        return plain_name(node.wait)
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


NODES: tuple[type[_Node], ...] = tuple(get_args(kind)[0] for kind in get_args(get_args(Node)[0]))
"""The classes of all kinds of nodes. The key of a kind in YAML is the name of its class in small letters."""
for _class in NODES:
    _class.model_rebuild()


def takers_back(node: Node) -> dict[str, Step]:
    """Return the steps that take a node back, by their keys: `undo` and `on_cancel`."""
    return {name: step for name, step in (("undo", node.undo), ("on_cancel", node.on_cancel)) if step is not None}
