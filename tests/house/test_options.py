"""The keywords that editors and type checkers know are those that exist, with their types."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Required, Union, get_args, get_origin, get_overloads, get_type_hints

import pytest
from pydantic import BaseModel

from podium.cluster.client.ask_input import request_of
from podium.cluster.config import Settings
from podium.cluster.connect_options import ConnectOptions
from podium.protocols import options
from podium.protocols.policy import Retry
from podium.protocols.protocol import Declaration, Protocol, protocol
from podium.protocols.requests.request import AskFields, Attachment, Limits, Request
from podium.protocols.tree import NODES, Adaptive, Hierarchy, Parallel, Sleep, Step, Wait
from podium.protocols.tree import Sequence as SequenceNode
from podium.protocols.workflow import Workflow

WRITTEN = {
    (Step, "retry"): Retry | str | int | None,
    (Step, "on_error"): Mapping[str, Any],
    (Hierarchy, "team"): Mapping[str, Any],
    (Parallel, "parallel"): Mapping[str, Any] | None,
    (Adaptive, "rules"): Sequence[Any],
    (Adaptive, "jumps"): Sequence[str],
    (SequenceNode, "sequence"): Sequence[Any],
    (Wait, "schema"): Any,
    (Wait, "who"): Sequence[str],
    (Workflow, "input"): Mapping[str, Any] | type[BaseModel] | None,
}
"""Where more may be written in Python than what is kept."""
CONTENT = {
    Step: {"step"},
    Hierarchy: {"hierarchy"},
    Adaptive: {"adaptive"},
    Wait: {"wait"},
    Sleep: {"sleep"},
    Workflow: {"name", "root"},
}
"""What is given by place."""
TAKES_NODES = ("fallback", "otherwise", "undo", "on_cancel", "do", "on_timeout")
OTHERWISE = {"schema_": "schema"}
"""Fields that have another name as a keyword."""
SPREAD = {Sleep: {"for_s", "until"}}
"""The content of a node that is given as several keywords."""


def plain(hint: Any) -> Any:
    """A type without bounds, so that two can be compared."""
    if get_origin(hint) in (Annotated, Required):
        return plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return frozenset(plain(each) for each in get_args(hint))
    if get_origin(hint) is not None:
        return (get_origin(hint), *(each if isinstance(each, str) else plain(each) for each in get_args(hint)))
    return hint


def or_none(hint: Any) -> frozenset[Any]:
    found = plain(hint)
    return (found if isinstance(found, frozenset) else frozenset({found})) | {NoneType}


def test_connect_takes_every_setting_and_only_these():
    wanted = {name: or_none(hint) for name, hint in get_type_hints(Settings).items() if name != "sources"}
    wanted["data"] = wanted["working_dir"] = or_none(str | PathLike[str])
    assert {name: plain(hint) for name, hint in get_type_hints(ConnectOptions).items()} == wanted
    assert get_type_hints(Settings)["data"] is Path


@pytest.mark.parametrize("node", [*NODES, Workflow])
def test_a_node_takes_every_setting_and_only_these(node: type[BaseModel]):
    taken = get_type_hints(getattr(options, f"{node.__name__}Options"), include_extras=True)
    hints = get_type_hints(node, include_extras=True)
    by_place, spread = CONTENT.get(node, set()), SPREAD.get(node, set())
    hints = {OTHERWISE.get(name, name): hint for name, hint in hints.items()}
    fields = {OTHERWISE.get(name, name) for name in node.model_fields}
    assert taken.keys() == fields - by_place | spread, (
        f"{node.__name__}Options in protocols/options.py has other keys than the class has fields. "
        "A field that is only given by place belongs in CONTENT, in this test"
    )
    for name in taken.keys() - spread - (set(TAKES_NODES) - ({"on_timeout"} if node is Parallel else set())):
        assert plain(taken[name]) == plain(WRITTEN.get((node, name), hints[name])), f"{node.__name__}.{name}"


@pytest.mark.parametrize("node", NODES)
def test_what_a_node_must_have_is_required_of_type_checkers_too(node: type[BaseModel]):
    taken = getattr(options, f"{node.__name__}Options")
    needed = {name for name, field in node.model_fields.items() if field.is_required()} - CONTENT.get(node, set())
    by_place = {"sequence"}
    assert {
        name for name, hint in get_type_hints(taken, include_extras=True).items() if get_origin(hint) is Required
    } == needed - by_place


def test_the_settings_of_a_protocol_are_the_same_above_a_function_and_in_a_class():
    declared = Declaration.model_fields.keys() - {"ref"}
    with_settings = max(get_overloads(protocol), key=lambda each: len(inspect.signature(each).parameters))
    assert inspect.signature(with_settings).parameters.keys() == declared
    assert {name for name in Protocol.__annotations__ if not name.startswith("_")} == declared


def test_ask_takes_every_field_of_a_request_and_only_these():
    wanted = get_type_hints(Request) | {
        "attachments": Sequence[Attachment | Mapping[str, str]],
        "tools": Sequence[str],
        "answer_schema": Mapping[str, object] | None,
        "limits": Limits | Mapping[str, int],
    }
    own = {name: plain(wanted[name]) for name in Request.model_fields if name not in ("text", "user")}
    assert {name: plain(hint) for name, hint in get_type_hints(AskFields).items()} == own


def test_what_type_checkers_take_for_a_request_is_taken_when_it_runs():
    fields: AskFields = {
        "attachments": [{"name": "n.md", "text": "t"}, Attachment(name="m.md", text="u")],
        "tools": ["grep"],
        "answer_schema": {"type": "object"},
        "limits": {"answer_tokens": 77},
    }
    request = request_of("what?", Settings(data=Path("there")), fields)
    assert [each.name for each in request.attachments] == ["n.md", "m.md"]
    assert (request.tools, request.limits.answer_tokens) == (("grep",), 77)
