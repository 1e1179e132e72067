"""A workflow: a named, versioned tree, checked as a whole whenever one is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Unpack, assert_never, overload

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from .binding import check_input, input_of
from .check import check_tree, walk
from .codecs.registry import decoded
from .errors import InvalidInput
from .options import WorkflowOptions
from .policy import Supervision
from .protocol import resolve
from .quantities import Count, Seconds
from .results import Reader, reader_of
from .schemas import check_own, misfit
from .tree import Adaptive, Hierarchy, Node, Parallel, Sequence, Sleep, Step, Wait
from .typed_nodes import A, B, In, Out, Runs, Text, Typed
from .values import MAX_VALUE_BYTES, NotPlain, Value, check_value, digest
from .wording import Definition, place
from .yaml_core import dumped

RESERVED = frozenset({"coordinator", "resources"})
"""Names that are Podium's own: its journal of that name is not a workflow's."""
WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Workflow(Typed[In, Out], Definition):
    """A tree of nodes with a name: `Workflow("digest", Sequence(fetch, summarise))`.

    The whole tree is checked when the object is made. Equal trees have equal hashes, written in Python or in YAML.

    Raises:
        InvalidDefinition: Something in the tree is wrong; names the path.
    """

    name: Annotated[str, Field(pattern=f"^{WORKFLOW_NAME.pattern}$")]
    """The workflow's name: letters, digits, `_` and `-`, at most 64."""
    root: Node
    """The tree."""
    version: Annotated[str, Field(min_length=1, max_length=64)] = "1"
    """A label for people. Podium itself tells versions apart by the tree and the code (docs/versions.md)."""
    description: str = ""
    """A text for people and for MCP clients."""
    input: Mapping[str, Any] | None = None
    """The JSON Schema of a task's input. In Python a pydantic model may be given instead."""
    timeout_s: Seconds | None = None
    """The longest time of a task, in seconds from its acceptance. `submit(timeout_s=…)` goes before it. None is no
    bound."""
    undo_on_cancel: bool = False
    """If true, every `undo` also runs when a task is cancelled, and not only when it fails."""
    when_left: Literal["go_on", "cancel"] = "go_on"
    """The fate of a task when the MCP client that called it cancels the call, or hangs up while it waits."""
    needs_tasks: bool = False
    """If true, only MCP clients that know tasks may call the workflow; others are told so."""
    elicit: bool = False
    """If true, an MCP client that can ask its user is sent a form for required fields of the input that a call leaves
    out. Otherwise, and for fields that no form has, the call is refused with the field."""
    supervision: Supervision | None = None
    """The rules by which the workflow's supervisor starts its hosts again. A Hierarchy at the root may replace them."""
    quotas: Mapping[str, Count] = {}
    """Permits that each task holds from its first step to its end. The task is `pending` until it has all of them. Its
    steps need no more permits of these quotas."""
    when_down: Literal["wait", "fail"] = "wait"
    """The fate of open tasks when the workflow is down, because its supervisor died too often: they wait until the
    workflow is deployed again, or fail as `workflow_down`."""

    starts: Literal["at_once", "as_needed"] = "at_once"
    """The time at which actors start: `at_once`, all before the first task is accepted, so that `submit` tells of one
    that cannot start; or `as_needed`, each when something waits for it, and the others one by one behind it."""
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    """The number of supervisors that share the tasks, each with its own journal and hosts. `concurrency`, `replicas`
    and what a protocol keeps in memory are then per shard. The first deployment under a name decides the number."""

    @overload
    def __init__(self: Workflow[A, B], name: str, root: Runs[A, B], **settings: Unpack[WorkflowOptions]) -> None: ...
    @overload
    def __init__(
        self: Workflow[Any, Any], name: str | None = None, root: Text | None = None, **settings: Unpack[WorkflowOptions]
    ) -> None: ...
    def __init__(self, name: str | None = None, root: Any = None, **settings: Unpack[WorkflowOptions]) -> None:
        super().__init__(**{"name": name, "root": root, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("input", mode="before")
    @classmethod
    def _schema(cls, schema: object) -> object:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_json_schema()
        if schema is not None:
            check_own(schema)
        return schema

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"'{name}' is a name that Podium uses for itself; give the workflow another")
        return name

    @model_validator(mode="after")
    def _sound(self, info: ValidationInfo) -> Workflow:
        check_tree(self.root, resolve_protocols=not (info.context or {}).get("trusted"))
        return self

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the tree's canonical form, as hexadecimal digits."""
        return digest(self.to_dict())

    @cached_property
    def refs(self) -> tuple[str, ...]:
        """The references (`module:name`) of all protocols in the tree, sorted."""
        return tuple(sorted({node.step for _, node in walk(self.root, ("root",)) if isinstance(node, Step)}))

    @cached_property
    def reader(self) -> Reader:
        """The function that makes a result of plain data what the type hints of the steps say."""
        return reader_of(self.root) or decoded

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain data, as a YAML or JSON file holds it: names filled in, defaults left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def to_yaml(self) -> str:
        """The tree as the text of a YAML file."""
        return dumped(self.to_dict())

    @classmethod
    def from_trusted(cls, data: Mapping[str, object]) -> Workflow:
        """Make a workflow of a tree that was checked when it was deployed. No protocol is imported."""
        return cls.model_validate(data, context={"trusted": True})

    def check_input(self, value: Value) -> None:
        """Check an input against the schema and the first step's type.

        Raises:
            InvalidInput: The value does not fit; names the field.
        """
        if self.input is not None:
            _validate(self.input, value)
        if self._takes_input is not None:
            check_input(resolve(self._takes_input), value)

    def plain_input(self, value: object, name: str = "input", max_bytes: int = MAX_VALUE_BYTES) -> Value:
        """Return an input as plain data, by the type hint of a step that gets the input as it is.

        Raises:
            InvalidInput: No such hint makes an equal value of it again, or it is too large.
        """
        try:
            return check_value(value, name, max_bytes, by_hint=True)
        except InvalidInput as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            return self._plain_by_hint(value, max_bytes, error)

    def _plain_by_hint(self, value: object, max_bytes: int, without_hint: InvalidInput) -> Value:
        """Return plain data by the first hint that fits. Raises the error of the first, if a hint could help at all."""
        hints = [hint for ref in _takers(self.root) if (hint := input_of(resolve(ref))).adapter is not None]
        refused: list[InvalidInput] = []
        for hint in hints:
            try:
                return hint.plain(value, max_bytes)
            except InvalidInput as error:
                refused.append(error)
        raise refused[0] if refused and isinstance(without_hint.__cause__, NotPlain) else without_hint

    @cached_property
    def _takes_input(self) -> str | None:
        """The protocol of the step that gets the workflow's input as it is, if there is one."""
        first = self.root
        while isinstance(first, Sequence) and first.with_ is None:
            first = _first(first)
        return first.step if isinstance(first, Step) and first.with_ is None else None


def _first(node: Sequence) -> Node:
    """Return the first child that does something with its input: a Sleep gives it on as it is."""
    return next((child for child in node.sequence if not isinstance(child, Sleep)), node.sequence[0])


def _takers(node: Node) -> list[str]:
    """Return the protocols of the steps that get the input of a node as it is, or may get it from a lead."""
    if node.with_ is not None:
        return []
    if isinstance(node, Step):
        return [node.step]
    return [ref for child in _first_children(node) for ref in _takers(child)]


def _first_children(node: Node) -> list[Node]:
    match node:
        case Sequence():
            return [_first(node)]
        case Parallel():
            return list((node.parallel or {}).values())
        case Hierarchy():
            return list(node.team.values())
        case Adaptive():
            return [node.adaptive[node.start]]
        case Wait():
            return [child for _, child in node.own_children()]
        case Step() | Sleep():
            return []
        case _:
            assert_never(node)


def _validate(schema: Mapping[str, object], value: Value) -> None:
    found = misfit(value, schema)
    if found is not None:
        raise InvalidInput(problem=found[1], path=place("input", found[0]))
