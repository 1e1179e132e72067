"""`podium schema` and `podium validate` say the same of a file."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from copy import deepcopy
from importlib.resources import files

import jsonschema
import pytest
import yaml

from podium.errors import InvalidDefinition
from podium.protocols.reading import read_workflow
from podium.protocols.workflow_schema import workflow_schema
from podium.protocols.yaml_core import Loader, value_of
from tests.support import ROOT

S = "tests.sample:add"
PIPELINES = [file.read_text() for file in files("podium.protocols.requests").iterdir() if file.name.endswith(".yaml")]
SHIPPED = [path.read_text() for path in (ROOT / "examples").rglob("*.yaml") if path.parent.name != "cluster"]
DOCS = re.findall(r"```yaml\n(name: .*?)```", (ROOT / "docs/workflows.md").read_text(), re.DOTALL)
CHECKER = jsonschema.Draft202012Validator(workflow_schema())


def root(**fields):
    return {"name": "w", "root": fields}


def step(**fields):
    return root(**{"step": S, **fields})


def parallel(**fields):
    return root(**{"parallel": {"a": S, "b": S}, **fields})


def adaptive(**fields):
    rules = [{"to": "b", "after": "a"}, {"to": "end"}]
    return root(**{"adaptive": {"a": S, "b": S}, "start": "a", "rules": rules, **fields})


def hierarchy(**fields):
    return root(**{"hierarchy": S, "team": {"a": S}, **fields})


GOOD = [
    {"name": "w", "root": S},
    root(sequence=[S, {"step": S}, {"sequence": [S]}]),
    step(name="a-b_C9", **{"with": "input"}),
    step(**{"with": {"a": "input", "b": "1"}}),
    step(with_="input"),
    step(**{"with": None}, name=None, undo=None, otherwise=None, retry=None, quotas=None, timeout_s=None),
    step(fallback=S),
    step(fallback=[S, {"step": S, "missing": "half"}]),
    step(fallback={"sequence": [S], "missing": "all"}),
    step(fallback=[]),
    step(otherwise={}),
    step(otherwise={"value": {"timeout_s": "5", "at_most_once": "yes", "n": [True, 1e5, None]}, "missing": "x"}),
    step(undo=S),
    step(undo={"step": S, "with": "input.output", "fallback": S}),
    step(on_error={"internal": "park"}),
    step(on_error={"internal": ["retry", "fallback", "degrade", "fail"], "timeout": ["retry"], "validation": "fail"}),
    step(on_error={}),
    step(retry="llm"),
    step(retry=3),
    step(retry=4.0),
    step(retry={"attempts": 5, "jitter": False, "only": ["ValueError"], "budget": None}),
    step(quotas={"llm": 1, "any name": 2.0}),
    step(timeout_s=1, idle_timeout_s=0.5, total_timeout_s=1e10, at_most_once=True),
    parallel(limit=3, join="quorum(2)", rest="wait", timeout_s=5, on_timeout="partial"),
    parallel(do=None),
    root(wait="yes"),
    root(wait="a.b-c_1", schema={"type": "boolean"}, show={"x": "input.a"}, who=["ann", "group:a", "role:b"], need=2),
    root(wait="yes", timeout_s=5, on_timeout={"value": False}, signed=True, not_starter=True, mailbox="each"),
    root(wait="yes", timeout_s=5, on_timeout=S),
    root(wait="yes", timeout_s=5, on_timeout={"sequence": [S]}, refusal="!answer", on_refusal="go_on"),
    root(wait="yes", on_timeout=None, schema=None),
    root(wait="yes", timeout_s=5, on_timeout={}),
    root(sleep=3),
    root(sleep="input.s"),
    root(sleep={"for_s": 3}),
    root(sleep={"for_s": "input.s", "until": None}),
    root(sleep={"until": "2026-12-24T18:00:00+01:00"}, undo=S),
    root(each="input", do=S),
    root(each="input.files", do={"parallel": {"a": S}}, join="settled"),
    hierarchy(max_rounds=3, supervision={"strategy": "one_for_all", "intensity": 3, "period_s": 5}),
    hierarchy(hierarchy={"step": S, "timeout_s": 5}, team={"a": {"sequence": [S]}}),
    adaptive(max_visits=3, jumps=["b"]),
    {**step(), "version": "2.0-beta", "description": "", "timeout_s": 9, "undo_on_cancel": True, "when_left": "cancel"},
    {**step(), "needs_tasks": True, "when_down": "fail", "shards": 64, "supervision": None, "input": None},
    {**step(), "input": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}},
    {**step(), "input": {}},
    {**step(), "elicit": True},
]
BAD = [
    root(wait="a b"),
    root(wait="yes", on_timeout={"value": 1}),
    root(wait="yes", timeout_s=5, on_timeout={"valu": 1}),
    root(wait="yes", timeout_s=5, on_timeout={"step": S, "timeout": 3}),
    root(wait="yes", on_refusal="finish"),
    root(wait="yes", need=0),
    root(wait="yes", who=["", "ann"]),
    root(wait="yes", schema=True),
    root(wait="yes", schema="bool"),
    root(wait="yes", schema={"type": "nothing"}),
    root(wait="yes", signed="yes"),
    root(wait="yes", sleep=3),
    root(sleep=0),
    root(sleep=True),
    root(sleep={}),
    root(sleep={"for_s": 3, "until": "input"}),
    root(sleep={"for_s": "3"}, timeout_s=3),
    None,
    [],
    "x",
    {},
    {"name": "w"},
    {"root": S},
    {"name": "", "root": S},
    {"name": "a b", "root": S},
    {"name": "w\n", "root": S},
    {"name": "x" * 65, "root": S},
    {"name": 1, "root": S},
    {"name": "w", "root": "no reference"},
    {"name": "w", "root": ":x"},
    {"name": "w", "root": "x:"},
    {"name": "w", "root": None},
    {"name": "w", "root": [S]},
    {"name": "w", "root": {}},
    {"name": "w", "root": {"fallback": S}},
    {**step(), "extra": 1},
    {**step(), "version": 1},
    {**step(), "version": ""},
    {**step(), "version": "v" * 65},
    {**step(), "shards": 0},
    {**step(), "shards": 65},
    {**step(), "shards": "2"},
    {**step(), "shards": True},
    {**step(), "undo_on_cancel": "yes"},
    {**step(), "undo_on_cancel": 1},
    {**step(), "needs_tasks": "on"},
    {**step(), "needs_tasks": None},
    {**step(), "when_left": "stay"},
    {**step(), "input": {"type": "text"}},
    {**step(), "input": True},
    {**step(), "timeout_s": 0},
    step(sequence=[S]),
    step(stepp=S),
    step(name="9a"),
    step(name="a\n"),
    step(name="a" * 65),
    step(**{"with": 5}),
    step(**{"with": {"a": 5}}),
    step(fallback=None),
    step(fallback=5),
    step(fallback=[None]),
    step(fallback=[[S]]),
    step(otherwise=5),
    step(otherwise={"valu": 5}),
    step(missing="x"),
    step(undo={"sequence": [S]}),
    step(undo={"step": S, "undo": S}),
    step(undo={"step": S, "missing": "x"}),
    step(on_error={"internal": []}),
    step(on_error={"internal": "again"}),
    step(on_error={"internal": ["fail", "retry"]}),
    step(on_error={"internal": ["retry", "retry"]}),
    step(on_error={"internal": ["park", "fail"]}),
    step(on_error={"bad": "fail"}),
    step(on_error=None),
    step(retry="often"),
    step(retry={"attempts": 0}),
    step(retry={"attempts": "3"}),
    step(retry={"attempts": 2.5}),
    step(retry={"tries": 3}),
    step(retry={"jitter": "false"}),
    step(retry=0),
    step(retry=2.5),
    step(retry=True),
    step(retry="3"),
    step(retry=1001),
    step(quotas={"llm": 0}),
    step(quotas={"llm": "1"}),
    step(timeout_s="5"),
    step(timeout_s=-1),
    step(timeout_s=1e11),
    step(timeout_s=True),
    step(at_most_once="true"),
    step(at_most_once=0),
    root(sequence=[]),
    root(sequence=S),
    root(parallel={}),
    root(parallel=[S]),
    root(parallel={"a b": S}),
    root(parallel={"a\n": S}),
    parallel(each="input"),
    parallel(each=None),
    parallel(do=S),
    root(each="input"),
    root(do=S),
    root(each=None, do=S),
    root(each="input", do=None),
    parallel(limit=0),
    parallel(limit="3"),
    parallel(join="most"),
    parallel(join="quorum(0)"),
    parallel(join="all\n"),
    parallel(on_timeout="partial"),
    parallel(on_timeout="partial", timeout_s=None),
    parallel(on_timeout="partial", timeout_s=5, join="any"),
    parallel(max_rounds=3),
    hierarchy(team={}),
    hierarchy(team={"lead": S}),
    hierarchy(team=None),
    hierarchy(hierarchy={"sequence": [S]}),
    hierarchy(max_rounds=0),
    hierarchy(supervision={"strategy": "all"}),
    adaptive(adaptive={"end": S}, start="end"),
    adaptive(rules=[]),
    adaptive(rules=[{"after": "a"}]),
    adaptive(rules=[{"to": "end", "if": "true"}]),
    adaptive(start=None),
    adaptive(jumps="b"),
    adaptive(max_visits="7"),
]
BEYOND = [
    step(step="tests.sample:nothing"),
    step(**{"with": "input +"}),
    step(**{"with": "nowhere"}),
    step(retry={"initial_delay_s": 5, "max_delay_s": 1}),
    root(sequence=[{"step": S, "name": "a"}, {"step": S, "name": "a"}]),
    root(parallel={"a": {"step": S, "name": "b"}}),
    parallel(join="quorum(3)"),
    adaptive(start="c"),
    adaptive(rules=[{"to": "b"}]),
    step(undo={"step": S, "fallback": {"step": S, "undo": S}}),
    {**step(), "input": {"$ref": "#/$defs/none"}},
]
"""What depends on several places of a file, or on code: only validate finds it."""


def is_valid(document):
    """By `podium validate`, written as JSON and as YAML, which have to agree."""
    found = set()
    for text in (json.dumps(document), yaml.safe_dump(document)):
        try:
            read_workflow(text, "f")
            found.add(True)
        except InvalidDefinition as error:
            assert str(error).startswith("f:"), error
            found.add(False)
    (agreed,) = found
    return agreed


@pytest.mark.parametrize("document", GOOD, ids=json.dumps)
def test_what_is_right_is_right_for_both(document):
    assert is_valid(document)
    assert [error.message for error in CHECKER.iter_errors(document)] == []


@pytest.mark.parametrize("document", BAD, ids=json.dumps)
def test_what_is_wrong_is_wrong_for_both(document):
    assert not is_valid(document)
    assert not CHECKER.is_valid(document)


@pytest.mark.parametrize("document", BEYOND, ids=json.dumps)
def test_what_no_schema_can_say_is_found_by_validate(document):
    assert CHECKER.is_valid(document)
    assert not is_valid(document)


@pytest.mark.parametrize("text", [*PIPELINES, *SHIPPED, *DOCS])
def test_files_that_we_ship_fit_the_schema(text):
    document = value_of(yaml.compose(text, Loader=Loader))
    assert [error.message for error in CHECKER.iter_errors(document)] == []


def test_the_schema_is_one_and_is_what_the_command_prints():
    jsonschema.Draft202012Validator.check_schema(workflow_schema())
    command = [sys.executable, "-m", "podium", "schema"]
    assert json.loads(subprocess.check_output(command, text=True)) == workflow_schema()


HOSTILE = [None, True, 0, 1, -1, 2.5, 1e300, "", "x", "5", "yes", S, "input", [], {}, [S], {"step": S}, {"a": S}]
KEYS = [
    "step",
    "name",
    "with",
    "fallback",
    "undo",
    "missing",
    "timeout_s",
    "retry",
    "on_error",
    "do",
    "each",
    "x",
    "join",
]
ONLY_VALIDATE = re.compile(
    "names? |no node|unknown protocol|`|larger than|can never be met|missing end|unreachable|cycle|never match|"
    "taken back|has an `undo`|is given to|also named|\\$ref"
)


def mutated(document, draw):
    """The document with one thing in it changed, added or taken away."""
    document = deepcopy(document)
    holders, ahead = [], [document]
    while ahead:
        holder = ahead.pop()
        if isinstance(holder, dict | list) and holder:
            holders.append(holder)
            ahead += holder.values() if isinstance(holder, dict) else holder
    holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if isinstance(holder, dict) and draw.random() < 0.3:
        holder[draw.choice(KEYS)] = draw.choice(HOSTILE)
    elif draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(HOSTILE)
    return document


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_changed_in_a_file_both_say_the_same(seed):
    draw = random.Random(seed)
    for _ in range(150):
        document = mutated(mutated(draw.choice(GOOD), draw), draw)
        fits = CHECKER.is_valid(document)
        try:
            read_workflow(json.dumps(document))
            assert fits, (document, [error.message for error in CHECKER.iter_errors(document)])
        except InvalidDefinition as error:
            assert not fits or ONLY_VALIDATE.search(str(error)), (document, str(error))


def test_a_text_where_a_number_belongs_is_refused_with_its_place():
    with pytest.raises(InvalidDefinition, match=r"f.yaml:2:34: root\.timeout_s: expected number, found '5'"):
        read_workflow(f"name: w\nroot: {{step: '{S}', timeout_s: '5'}}", "f.yaml")


def test_deep_fallbacks_are_checked_in_linear_time():
    node = {"step": S, "timeout_s": "5"}
    for _ in range(40):
        node = {"sequence": [S], "fallback": [node]}
    with pytest.raises(InvalidDefinition, match="expected number, found '5'"):
        read_workflow(json.dumps({"name": "w", "root": node}))
