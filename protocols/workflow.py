"""A workflow: a named, versioned tree, checked as a whole whenever one is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from .binding import check_input
from .check import check_tree, walk
from .errors import InvalidInput
from .policy import Supervision
from .protocol import resolve
from .quantities import Count, Seconds
from .schemas import check_own, misfit
from .tree import Node, Sequence, Step
from .values import Value, digest
from .wording import Definition, place
from .yaml_core import dumped

RESERVED = frozenset({"coordinator", "resources"})
"""Names that are Podium's own: its journal of that name is not a workflow's."""
WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Workflow(Definition):
    """A named, versioned tree. Equal trees have equal hashes, however they were written."""

    name: Annotated[str, Field(pattern=f"^{WORKFLOW_NAME.pattern}$")]
    root: Node
    version: Annotated[str, Field(min_length=1, max_length=64)] = "1"
    description: str = ""
    input: Mapping[str, Any] | None = None
    """JSON Schema of the task's input; in Python a pydantic model may be given."""
    timeout_s: Seconds | None = None
    """Seconds from acceptance in which a task has to end; a submission may say otherwise. None is no bound."""
    undo_on_cancel: bool = False
    """Whether what has an `undo` is taken back when a task is cancelled, too, and not only when it fails."""
    when_left: Literal["go_on", "cancel"] = "go_on"
    """What becomes of a task when the MCP client that called it cancels the call, or hangs up while it waits: it goes
    on, or is cancelled."""
    needs_tasks: bool = False
    """Whether it is long, and only for MCP clients that know tasks; others are told so."""
    supervision: Supervision | None = None
    """How its supervisor treats the hosts and tiers below it when they die; a root Hierarchy's own goes before."""
    quotas: Mapping[str, Count] = {}
    """Permits that each of its tasks holds from its first step to its end: it is `pending` until it has all of them. A
    step of it needs no more of a quota that its task holds."""
    when_down: Literal["wait", "fail"] = "wait"
    """What becomes of the open tasks when the supervisor itself died too often: they wait until the workflow is
    deployed again, or fail as `workflow_down`."""

    starts: Literal["at_once", "as_needed"] = "at_once"
    """When its actors start: all of them before its first task is accepted, so that one that cannot start is said at
    once; or each when something waits for it, the others one by one behind it."""
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    """How many supervisors share its tasks, each with a journal and hosts of its own: more than one when that one's
    processor bounds the throughput. What a protocol keeps in memory, `concurrency` and `replicas` are then per shard.
    Laid down by the first deployment under this name."""

    def __init__(self, name: Any = None, root: Any = None, **settings: Any) -> None:
        super().__init__(**{"name": name, "root": root, **settings})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("input", mode="before")
    @classmethod
    def _schema(cls, schema: Any) -> Any:
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
        """SHA-256 of the tree's canonical form, hexadecimal."""
        return digest(self.to_dict())

    @cached_property
    def refs(self) -> tuple[str, ...]:
        """References of all protocols in the tree."""
        return tuple(sorted({node.step for _, node in walk(self.root, ("root",)) if isinstance(node, Step)}))

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: what YAML and JSON files hold, names filled in, defaults left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def to_yaml(self) -> str:
        return dumped(self.to_dict())

    @classmethod
    def from_trusted(cls, data: Mapping[str, Any]) -> Workflow:
        """A tree that was checked when it was deployed; user code is not imported again."""
        return cls.model_validate(data, context={"trusted": True})

    def check_input(self, value: Value) -> None:
        """Raise InvalidInput, naming the field, if `value` does not fit the schema or the first step."""
        if self.input is not None:
            _validate(self.input, value)
        if self._takes_input is not None:
            check_input(resolve(self._takes_input), value)

    @cached_property
    def _takes_input(self) -> str | None:
        """The protocol of the step that gets the workflow's input as it is, if there is one."""
        first = self.root
        while isinstance(first, Sequence) and first.with_ is None:
            first = first.sequence[0]
        return first.step if isinstance(first, Step) and first.with_ is None else None


def _validate(schema: Mapping[str, Any], value: Value) -> None:
    found = misfit(value, schema)
    if found is not None:
        raise InvalidInput(problem=found[1], path=place("input", found[0]))
