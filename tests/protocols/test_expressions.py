"""Expressions: CEL's meaning, whole values in and out, and no failure but ExpressionFailed, whatever the data is."""

from __future__ import annotations

import datetime as dt
import sys
import time

import pytest
from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st

import podium
from podium import Parallel, Rule, Sequence, Step, Workflow
from podium.errors import InvalidDefinition, InvalidInput, TaskFailed
from podium.protocols import cel_values, conditions
from podium.protocols.cel_values import given as given_as_data
from podium.protocols.conditions import ExpressionFailed, check_expression, evaluate, key_of
from podium.protocols.values import check_value
from podium.testing import Simulation
from tests import sample
from tests.support.hostile import EXPRESSIONS, nested, values


def given_by(source, input):
    return evaluate(source, "with", {"input": input, "task": None, "outputs": {}})


MOMENT = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "source, input, expected",
    [
        ("{'file': input}", b"\x89PNG\x00\x01\x02", {"file": b"\x89PNG\x00\x01\x02"}),
        ("size(input)", b"a\x00b", 3),
        ("[input, b'a\\000b']", b"\x00", [b"\x00", b"a\x00b"]),
        ("[input]", "a\x00b", ["a\x00b"]),
        ("size(input)", "a\x00b", 3),
        ("input == 'a\\000b'", "a\x00b", True),
        ("input.n > 1", {"n": 2, "at": MOMENT}, True),
        ("input < timestamp('2025-01-01T00:00:00Z')", MOMENT, True),
        ("[input]", MOMENT, [MOMENT]),
        ("input.n > 1", {"n": 2, "big": 2**64 - 1, "small": -(2**63)}, True),
        ("[input]", 2**64 - 1, [2**64 - 1]),
        ("input.n > 1", {"n": 2, "data": b"\xff\x00"}, True),
        ("input.n", {"n": float("inf")}, float("inf")),
        ("input.s.split(',').map(x, x.trim())", {"s": "a, b"}, ["a", "b"]),
        ("input.?a.?b.orValue(7)", {}, 7),
        ("math.greatest(input)", [3, 9, 4], 9),
        ("input.sort()", [3, 1, 2], [1, 2, 3]),
        ("input.flatten().distinct()", [[1], [1, 2]], [1, 2]),
        ("sets.contains(input, ['a'])", ["a", "b"], True),
        ("base64.encode(input)", b"a\x00b", "YQBi"),
        ("cel.bind(x, input.n, x * x)", {"n": 3}, 9),
        ("[null, input]", None, [None, None]),
        ("duration('90s')", None, "PT1M30S"),
    ],
)
def test_values_come_out_of_expressions_as_they_went_in(source, input, expected):
    assert given_by(source, input) == expected


@pytest.mark.parametrize(
    "source, input, reason",
    [
        ("{input.k: 1, 'a': 2}", {"k": "a"}, "duplicate key"),
        ("input.map(x, x)", list(range(3_001)), "3,001 items in one place: an expression with map or filter"),
        ("input . filter (x, x > 1)", {str(n): n for n in range(3_001)}, "an expression with map or filter"),
        ("input.all(x, x >= 0)", list(range(10_001)), "Iteration budget exceeded"),
        ("type(input)", 1, "no plain data"),
        ("[type(input)]", 1, "no plain data"),
        ("input.?a", {}, "say what stands for a missing one"),
        ("input.a.b", {"a": {}}, "Key not found"),
        ("input + 1", 2**63 - 1, "overflow"),
        ("1 / input", 0, "divide by zero"),
        ("int(input)", "x", "cannot convert string"),
        ("[input]", nested(150), "nested deeper than 100 levels"),
        ("size(input)", nested(250), "nested deeper than 200 levels"),
        ("size(input)", {"a\x00b": 1}, "has a NUL in it"),
        ("input[0]", [], "Index error"),
    ],
)
def test_what_the_data_does_not_allow_fails_the_expression(source, input, reason):
    with pytest.raises(ExpressionFailed, match=reason) as failed:
        given_by(source, input)
    assert source in str(failed.value)


def test_values_with_too_many_items_are_not_copied(monkeypatch):
    monkeypatch.setattr(cel_values, "MAX_ITEMS", 100)
    assert given_by("size(input)", [0] * 100) == 100
    with pytest.raises(ExpressionFailed, match="more than 100 items"):
        given_by("size(input)", [[0] * 50, [0] * 51])
    assert given_by("input", [0] * 1_000) == [0] * 1_000, "a plain path copies nothing"


def test_a_list_as_long_as_the_data_says_is_refused_when_the_workflow_is_defined():
    with pytest.raises(InvalidDefinition, match=r"lists\.range is not offered"):
        Workflow("w", Sequence(Step(sample.add, with_="lists . range(input.n)")))


def test_what_cel_says_is_cut():
    with pytest.raises(ExpressionFailed) as failed:
        given_by("int(input)", "x" * 100_000)
    assert len(str(failed.value)) < 1_000


@settings(max_examples=500)
@given(values(), st.sampled_from(EXPRESSIONS))
def test_no_value_makes_an_expression_raise_anything_else(value, source):
    check_expression(source, "with")
    try:
        result = given_by(source, value)
    except ExpressionFailed as failed:
        str(failed).encode()
    else:
        if source != "input":
            assert repr(check_value(result, "result", sys.maxsize)) == repr(result)


@settings(max_examples=200)
@given(values())
def test_a_key_is_a_text_or_the_expression_has_failed(value):
    try:
        assert len(key_of("input.key", {"key": value})) <= conditions.MAX_KEY_CHARS
    except ExpressionFailed as failed:
        str(failed).encode()


@podium.protocol(concurrency=10)
async def echo(input):
    return input


BAD = "{input.k: 1, 'a': 2}"


@pytest.mark.parametrize(
    "root, code",
    [
        (Sequence(Step(echo, with_=BAD)), "expression"),
        (Sequence(echo, Step(echo, with_=BAD)), "expression"),
        (Step(echo, with_={"x": BAD}), "expression"),
        (Parallel({"a": Step(echo, with_=BAD), "b": echo}), "expression"),
        (Parallel(each="input.items.map(x, x)", do=echo), "expression"),
        (Sequence(Parallel(each="[input].map(x, {x.k: 1, 'a': 2})", do=echo)), "expression"),
        (podium.Adaptive({"a": echo}, start="a", rules=[Rule(when=f"size({BAD}) > 0", to="end")]), "expression"),
        (Sequence(Step("tests.protocols.test_expressions:keyed")), "invalid_input"),
    ],
    ids=["first step", "second step", "mapping", "branch", "each", "each below", "rule", "limit_key"],
)
def test_an_expression_that_the_library_chokes_on_fails_its_task_and_no_other(root, code):
    bad, good = {"k": "a", "items": list(range(10_001))}, {"k": "b", "items": [1]}
    workflow = Workflow("w", root)

    async def work(engine):
        tasks = await engine.submit_many(workflow, [good, bad, good])
        await tasks[0].result()
        await tasks[2].result()
        with pytest.raises(TaskFailed) as failed:
            await tasks[1].result()
        return failed.value.cause_code

    assert Simulation().run(work, within_s=60) == code


@podium.protocol(limit_key="{input.k: 'x', 'a': 'y'}.b", concurrency=10)
async def keyed(input):
    return input


def test_a_fallback_stands_in_for_a_step_whose_expression_failed():
    workflow = Workflow("w", Sequence(Step(echo, with_=BAD, fallback=Step(echo, with_="error.code"))))

    async def work(engine):
        return await (await engine.submit(workflow, {"k": "a"})).result()

    assert Simulation().run(work) == "expression"


def test_nulls_that_expressions_give_cost_no_references_of_none():
    """cel-expr-python 0.1.3 takes one too few for each; some thousand of them end the process."""
    names = {"input": {"a": None, "b": [None, None]}, "task": None, "outputs": {}}
    evaluate("input", "with", names)
    before = sys.getrefcount(None)
    for _ in range(3_000):
        assert evaluate("input", "with", names) == names["input"]
    assert sys.getrefcount(None) > before - 100


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text("abc", max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), below, max_size=3),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4).map(lambda names: ".".join(["input", *names]))


@settings(max_examples=300)
@given(plain, paths | st.sampled_from(['"text"', "'text'", "true", "null"]))
def test_what_is_looked_up_without_cel_is_what_cel_gives(value, source):
    names = {"input": value, "task": 1, "outputs": {}}
    program = conditions._compile(source, "with")
    result = program.eval(data=names)
    if result.type() == cel.Type.ERROR:
        with pytest.raises(conditions.ExpressionFailed):
            evaluate(source, "with", names)
    else:
        assert evaluate(source, "with", names) == given_as_data(result.plain_value(), [])


@pytest.mark.parametrize(
    "source, used",
    [
        ("task.a.b + input", {"task": (("a", "b"),), "input": ((),)}),
        ("task.items.size()", {"task": (("items",),)}),
        ("task.size()", {"task": ((),)}),
        ("task . a . b", {"task": (("a", "b"),)}),
        ("task.?a.b", {"task": ((),)}),
        ("task['a']", {"task": ((),)}),
        ("has(task.a)", {"task": (("a",),)}),
        ("task.items.map(x, x.k)", {"task": (("items",),)}),
        ("'task.a' + task.b", {"task": (("a",), ("b",))}),
    ],
)
def test_only_what_an_expression_uses_is_copied(source, used):
    found = conditions._used(source)
    assert {name: tuple(sorted(found[name])) for name in used} == used


@settings(max_examples=500)
@given(values(), st.sampled_from(EXPRESSIONS))
def test_what_is_left_out_changes_nothing(value, source):
    names = {"input": {"k": value, "items": [value, 1, 2], "other": value}, "task": value, "outputs": {}}

    def outcome(pruned):
        with pytest.MonkeyPatch.context() as patch:
            if not pruned:
                patch.setattr(conditions, "_pruned", lambda value, _paths: value)
            try:
                return repr(evaluate(source, "with", names))
            except ExpressionFailed as failed:
                return str(failed)[:40]

    assert outcome(True) == outcome(False)


@pytest.mark.alone
def test_a_with_over_a_whole_task_costs_what_it_uses():
    names = {"input": 1, "task": {"items": ["x" * 100] * 50_000, "name": "n"}, "outputs": {}}
    began = time.perf_counter()
    for _ in range(200):
        assert evaluate("{'n': input, 'of': task.name}", "with", names) == {"n": 1, "of": "n"}
    assert time.perf_counter() - began < 2, "each copied 50,000 items"


FARTHEST = [
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=14))),
    dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=12))),
]


@pytest.mark.parametrize("moment", FARTHEST, ids=str)
def test_a_moment_that_is_none_in_utc_is_no_value(moment):
    with pytest.raises(InvalidInput, match="not a packed value: date value out of range"):
        check_value({"at": [moment]}, "input")
