"""The settings of nodes and workflows as keywords, so that editors complete them and type checkers know them.

Each class has the fields of the node of that name in `tree.py`, or of the workflow. Their types allow everything that
may be given in Python: a list where the node keeps a tuple, the name of a preset for a `Retry`.
`tests/house/test_options.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypeAlias, TypedDict

from pydantic import BaseModel

from .policy import Retry, Supervision

NodeLike: TypeAlias = Any
"""A node, a protocol, or a text or mapping as in YAML. An exact type would refuse correct calls, because type checkers
infer a list or dict of objects from several protocols."""
WithInput: TypeAlias = str | Mapping[str, str] | None
"""The input of a node in CEL."""


class NodeSettings(TypedDict, total=False):
    """All settings but `with_`, which makes the type of a node's input another."""

    name: str | None
    fallback: NodeLike | Sequence[NodeLike]
    otherwise: NodeLike
    missing: str | None
    undo: NodeLike


class NodeOptions(NodeSettings, total=False):
    with_: WithInput


class StepSettings(NodeSettings, total=False):
    timeout_s: float | None
    idle_timeout_s: float | None
    total_timeout_s: float | None
    retry: Retry | str | int | None
    quotas: Mapping[str, int] | None
    on_error: Mapping[str, Any]
    at_most_once: bool | None
    on_cancel: NodeLike


class StepOptions(StepSettings, NodeOptions, total=False):
    pass


class GroupSettings(NodeSettings, total=False):
    timeout_s: float | None


class GroupOptions(GroupSettings, NodeOptions, total=False):
    pass


class SequenceSettings(GroupSettings, total=False):
    sequence: Sequence[NodeLike]


class SequenceOptions(SequenceSettings, GroupOptions, total=False):
    pass


class ParallelOptions(GroupOptions, total=False):
    parallel: Mapping[str, NodeLike] | None
    each: str | None
    do: NodeLike
    limit: int | None
    join: str
    rest: Literal["cancel", "wait"]
    on_timeout: Literal["fail", "partial"]


class HierarchyOptions(GroupOptions, total=False):
    team: Required[Mapping[str, NodeLike]]
    supervision: Supervision | None
    max_rounds: int


class AdaptiveOptions(GroupOptions, total=False):
    start: Required[str]
    rules: Required[Sequence[Any]]
    jumps: Sequence[str]
    max_visits: int


class WaitOptions(NodeOptions, total=False):
    schema: Any
    show: WithInput
    who: Sequence[str]
    not_starter: bool
    need: int
    refusal: str | None
    on_refusal: Literal["fail", "finish", "go_on"]
    mailbox: Literal["once", "each"]
    signed: bool
    timeout_s: float | None
    on_timeout: NodeLike


class SleepOptions(NodeOptions, total=False):
    for_s: float | str | None
    until: datetime | str | None


class WorkflowOptions(TypedDict, total=False):
    version: str
    description: str
    input: Mapping[str, Any] | type[BaseModel] | None
    timeout_s: float | None
    undo_on_cancel: bool
    when_left: Literal["go_on", "cancel"]
    needs_tasks: bool
    elicit: bool
    supervision: Supervision | None
    quotas: Mapping[str, int]
    when_down: Literal["wait", "fail"]
    starts: Literal["at_once", "as_needed"]
    shards: int
