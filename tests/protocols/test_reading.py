"""Texts as values: YAML 1.2's core schema, JSON's own forms, and errors that always have their place."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from podium import Sequence, Step, Workflow
from podium.errors import InvalidDefinition
from podium.protocols.reading import read_workflow
from tests import sample

STEP = "tests.sample:add"


def value(text):
    """What a value is read as, within a block of YAML."""
    return read_workflow(f"name: w\nroot:\n  step: '{STEP}'\n  otherwise:\n    value: {text}\n").root.otherwise.value


def in_json(text):
    return read_workflow(
        f'{{"name": "w", "root": {{"step": "{STEP}", "otherwise": {{"value": {text}}}}}}}'
    ).root.otherwise.value


CORE = {
    "0": 0,
    "-0": 0,
    "+7": 7,
    "0099": 99,
    "0o0": 0,
    "0xFf": 255,
    "-9223372036854775808": -(2**63),
    "18446744073709551615": 2**64 - 1,
    "0o9": "0o9",
    "-0x1": "-0x1",
    "0X1": "0X1",
    "1.": 1.0,
    ".5": 0.5,
    "-1.5e-3": -0.0015,
    "+1E5": 1e5,
    "1e3": 1000.0,
    "1e": "1e",
    "e3": "e3",
    "1.2.3": "1.2.3",
    "190:20:30": "190:20:30",
    "190:20:30.15": "190:20:30.15",
    "685_230.15": "685_230.15",
    "1,000": "1,000",
    "0b1010_0111": "0b1010_0111",
    "true": True,
    "FALSE": False,
    "tRue": "tRue",
    "yes": "yes",
    "No": "No",
    "on": "on",
    "y": "y",
    "null": None,
    "~": None,
    "": None,
    "Null": None,
    "nULL": "nULL",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    ".iNf": ".iNf",
    "inf": "inf",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "2026-01-02": "2026-01-02",
    "2026-01-02T03:04:05Z": "2026-01-02T03:04:05Z",
    "=": "=",
    "<<": "<<",
    "[=, <<, 1e1]": ["=", "<<", 10.0],
    "{<<: 1, =: 2, 1: a, true: b, ~: c}": {"<<": 1, "=": 2, "1": "a", "true": "b", "~": "c"},
    "'017'": "017",
    '"1e3"': "1e3",
    r'"a\/b"': "a/b",
    r'"\ud83d\ude80 \\ud83d \uD834\uDD1E"': "🚀 \\ud83d 𝄞",
    r"'\ud83d\ude80'": r"\ud83d\ude80",
    '"🚀"': "🚀",
    "|-\n      22:22": "22:22",
}


@pytest.mark.parametrize("text", list(CORE))
def test_plain_texts_are_what_the_core_schema_says(text):
    found = value(text)
    assert found == CORE[text] and type(found) is type(CORE[text])


def test_not_a_number_is_one():
    assert math.isnan(value(".NaN"))


JSON_FORMS = [
    "0",
    "-0",
    "-0.0",
    "1E5",
    "1e-5",
    "12345678901234567890",
    "true",
    "null",
    '""',
    r'"\"\\\/\b\f\n\r\t"',
    r'"\ud834\udd1e\u0041"',
    '"\u2028\u2029\u0085\x7f"',
    '"\ufeff"',
    '"# no comment: really"',
    '{"a":1,"b":[{"c":[]},{}]}',
    '\t{\t"a"\t:\r\n\t[\t1\t,\t2\t]\t}',
    '{"' + "k" * 2000 + '": 1}',
    '{"<<": {"a": 1}, "=": 2, "on": 3}',
]


@pytest.mark.parametrize("text", JSON_FORMS)
def test_json_is_read_as_json(text):
    assert in_json(text) == json.loads(text)


@pytest.mark.parametrize("text", ["\t{}", '{\n\t"name": "w",\n\t"root": "tests.sample:add"\n}\n'])
def test_json_may_be_indented_with_tabs(text):
    if text.strip() == "{}":
        with pytest.raises(InvalidDefinition, match="name"):
            read_workflow(text)
    else:
        assert read_workflow(text).name == "w"


BAD = {
    "name: [": ":2:1",
    "name: w\nroot: {step: 'a\n": ":3:1",
    'name: "\\ud83d"\nroot: x:y': ":1:10",
    'name: "\\ude80\\ud83d"\nroot: x:y': ":1:10",
    "name: w\nroot: \x01": ":2:7",
    "näme: w\nroot: ü\x7f": ":2:8",
    "name: w\nroot: *a": ":2:7",
    "name: w\nroot: !!python/object:os.system x": ":2:7",
    "name: w\nname: v": ":2:1",
    "name: w\nroot: x:y\n---\nname: v": ":3:1",
    "name: w\nshards: 99999999999999999999": ":2:9",
    "name: w\ntimeout_s: 1e999": ":2:12",
    "name: w\ntimeout_s: " + "9" * 5000: ":2:12",
    "name: w\n? [a]\n: 1": ":2:3",
    "name: w\n\troot: x:y": ":2:1",
    "[" * 300 + "]" * 300: ":1:201",
    '{"name": "w", "name": "v"}': ":1:15",
    '{"name": "\\ud83d", "root": "x:y"}': ":1:10",
    '{"name": "w",\n "timeout_s": 1e400}': ":2:15",
    '{"name": "w",\n "shards": 123456789012345678901}': ":2:12",
    "": "",
    "\ufeff": "",
    "- 1": ":1:1",
    "name: \ud800": "",
}


@pytest.mark.parametrize("text", BAD)
def test_whatever_is_wrong_has_its_place(text):
    with pytest.raises(InvalidDefinition) as caught:
        read_workflow(text, "f.yaml")
    assert f"f.yaml{BAD[text]}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,, "b": 2}', r"f\.json:1:9.*not JSON: expected a text in double quotes"),
        ('{"a": 1', r"f\.json:1:8.*not JSON: expected }"),
        ('{"a": "x\ny" : }', r"f\.json:1:7.*not JSON: invalid control character"),
    ],
)
def test_a_json_file_that_is_neither_json_nor_yaml_is_told_what_is_no_json(text, says):
    with pytest.raises(InvalidDefinition, match=says):
        read_workflow(text, "f.json")


def test_a_json_file_may_have_what_yaml_adds():
    text = "{name: w, # a remark\n root: 'tests.sample:add',}"
    assert read_workflow(text, "f.json").name == "w"


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, (1, 2), datetime(2026, 1, 2, tzinfo=UTC)])
def test_a_constant_is_the_same_in_python_and_in_a_file(value):
    workflow = Workflow("w", Sequence(Step(sample.add, otherwise={"value": value})))
    again = read_workflow(workflow.to_yaml())
    assert again.hash == workflow.hash
    assert repr(again.root.sequence[0].otherwise) == repr(workflow.root.sequence[0].otherwise)


@pytest.mark.parametrize("value", [b"\xff", {"a": b""}, 2**70, "\ud800", object(), {("a", "b"): 1}])
def test_a_constant_that_no_file_can_hold_is_refused_when_it_is_made(value):
    with pytest.raises(InvalidDefinition, match="value"):
        Step(sample.add, otherwise={"value": value})


TEXTS = [
    "1e3",
    "0o17",
    "017",
    "22:22",
    "yes",
    "=",
    "<<",
    "~",
    "",
    ".inf",
    "+.inf",
    "1_000",
    "0b1",
    "2026-01-01",
    "0x1F",
]


@pytest.mark.parametrize("text", [*TEXTS, "null", "True", "- a", "a: b", "#", "🚀\u2028", " x ", "1.", "-.5", "NaN"])
def test_what_is_written_is_read_as_the_same(text):
    step = Step(sample.add, otherwise={"value": {text: [text, 1e22, 15, None, True]}})
    workflow = Workflow("w", Sequence(step))
    again = read_workflow(workflow.to_yaml())
    assert again == workflow and again.hash == workflow.hash
    assert read_workflow(json.dumps(workflow.to_dict())).hash == workflow.hash
