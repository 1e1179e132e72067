"""Names that cannot be there, and undos that cannot be given what they need, are found when the workflow is read."""

from __future__ import annotations

import time

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

import podium
from podium import Adaptive, Hierarchy, Parallel, Sequence, Step, Workflow, read_workflow
from podium.errors import InvalidDefinition
from podium.protocols.references import fields_of
from tests import sample

A = sample.add


def see(source, **more):
    return Step(A, with_={"x": source}, **more)


def loop(*rules, **nodes):
    return Adaptive(nodes or {"a": A, "b": A}, start="a", rules=[*rules, {"to": "end"}])


def first(*nodes):
    return Sequence(Step(A, name="one"), *nodes)


WRONG = {
    "the first of all": (Sequence(see("outputs.one")), "root.sequence[0].with.x", "there are no outputs here"),
    "itself": (first(see("outputs.two", name="two")), "root.sequence[1].with.x", "there may be one"),
    "a later one": (first(see("outputs.two"), Step(A, name="two")), "root.sequence[1].with.x", "no node 'two'"),
    "misspelt": (first(see("outputs.oen.x + 1")), "root.sequence[1].with.x", "did you mean 'one'?"),
    "as an index": (first(see("outputs['oen']")), "root.sequence[1].with.x", "did you mean 'one'?"),
    "the whole with": (first(Step(A, with_="outputs.two")), "root.sequence[1].with", "no node 'two'"),
    "of a group": (first(Sequence(A, with_="outputs.two")), "root.sequence[1].with", "no node 'two'"),
    "a branch beside": (first(Parallel({"a": see("outputs.b"), "b": A})), "root.sequence[1].parallel.a.with.x", "'b'"),
    "inside another group": (Sequence(first(A), see("outputs.one")), "root.sequence[1].with.x", "may be sequence"),
    "each": (first(Parallel(each="outputs.two", do=Step(A))), "root.sequence[1].each", "no node 'two'"),
    "in do": (
        first(Parallel(each="outputs.one", do=see("outputs.two"))),
        "root.sequence[1].do.with.x",
        "no node 'two'",
    ),
    "a rule": (loop({"when": "outputs.c.x > 1", "to": "b"}), "root.rules[0].when", "there may be a, b"),
    "a rule with and": (loop({"when": "visits.a < 3 && outputs.aa.x", "to": "b"}), "root.rules[0].when", "'a'?"),
    "in a loop": (loop({"to": "b", "after": "a"}, a=see("outputs.c"), b=Step(A)), "root.adaptive.a.with.x", "'c'"),
    "a fallback": (first(Step(A, fallback=see("outputs.two"))), "root.sequence[1].fallback[0].with.x", "'two'"),
    "an undo": (first(Step(A, undo=see("outputs.one"))), "root.sequence[1].undo.with.x", "no outputs here"),
    "in a nested hierarchy": (
        first(Hierarchy(A, team={"m": see("outputs.one")})),
        "root.sequence[1].team.m.with.x",
        "there are no outputs here",
    ),
    "a guard of another": (
        first(see("has(outputs.one) ? outputs.two : 1")),
        "root.sequence[1].with.x",
        "no node 'two'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_name_that_cannot_be_there_is_found_with_its_place(case):
    root, path, says = WRONG[case]
    with pytest.raises(InvalidDefinition) as caught:
        Workflow("w", root)
    assert str(caught.value).startswith(path + ": ") and says in str(caught.value)


RIGHT = [
    first(see("outputs.one")),
    first(see("outputs['one'].x + outputs.one.y")),
    first(Sequence(see("outputs.one"), Parallel({"a": see("outputs.one"), "b": see("outputs.add")}))),
    first(Hierarchy(A, team={"m": Sequence(A, see("outputs.add"))}, with_="outputs.one")),
    Sequence(A, A, see("outputs.add + outputs.add_2")),
    loop({"when": "outputs.b.x", "to": "b"}, {"to": "end", "after": "b"}),
    loop({"to": "b", "after": "a"}, a=see("outputs.b"), b=see("outputs.a")),
    first(Step(A, fallback=[see("outputs.one"), see("error.code")])),
    first(Sequence(Step(A, name="inner"), A, fallback=[see("outputs.inner")])),
    first(see("has(outputs.two) ? outputs.two : outputs.one")),
    first(see("'two' in outputs && outputs.two.x")),
    first(see("outputs.?two.orValue(1)")),
    first(see("outputs[?'two'].orValue(1)")),
    first(see("outputs[input.which]")),
    first(see("outputs.size() + size(outputs)")),
    first(see("outputs.exists(k, outputs[k] == 1)")),
    first(see("'see outputs.two'")),
    first(see("input.outputs.two")),
    first(see("[1].map(outputs, outputs + 1)")),
    first(see("input // as outputs.two was")),
    Sequence(Step(A, name="a-b"), see("outputs['a-b']")),
]


@pytest.mark.parametrize("root", RIGHT)
def test_a_name_that_may_be_there_or_is_asked_for_is_no_flaw(root):
    assert Workflow("w", root).hash


def test_in_a_file_the_place_is_a_line():
    step = "tests.sample:add"
    text = f"name: w\nroot:\n  sequence:\n    - {{step: '{step}', name: one}}\n    - step: '{step}'\n"
    with pytest.raises(InvalidDefinition, match=r"f\.yaml:7:10: root\.sequence\[1\]\.with\.n: .*did you mean 'one'"):
        read_workflow(text + "      with:\n        {n: outputs.on}\n", "f.yaml")


def test_stored_definitions_are_taken_as_they_are():
    tree = {"sequence": [{"step": "tests.sample:add", "with": "outputs.nowhere"}]}
    assert Workflow.from_trusted({"name": "w", "root": tree}).name == "w"


@pytest.mark.alone
def test_long_sequences_are_looked_through_quickly():
    root = Sequence(*[Step(A, name=f"n{n}") for n in range(5000)], see("outputs.n4999"))
    began = time.perf_counter()
    Workflow("w", root)
    assert time.perf_counter() - began < 5


# undos


class Booking(BaseModel):
    booking: str
    reason: str = ""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    booking: str | None = None


class Renamed(BaseModel):
    booking: str = Field(alias="id")


class Free(BaseModel):
    booking: str

    @model_validator(mode="before")
    @classmethod
    def _any(cls, given):
        return {"booking": str(given)}


class Whole(BaseModel):
    input: int
    output: dict


@podium.protocol
async def by_model(input: Booking): ...


@podium.protocol
async def by_strict(input: Strict): ...


@podium.protocol
async def by_alias(input: Renamed): ...


@podium.protocol
async def by_any(input: Free): ...


@podium.protocol
async def by_whole(input: Whole): ...


@podium.protocol
async def by_text(input: str): ...


def taken_back(undo):
    return Workflow("w", Sequence(Step(A, undo=undo)))


@pytest.mark.parametrize(
    ("undo", "says"),
    [
        (Step(A, with_="input.outptu.id"), "no 'outptu'; did you mean 'output'?"),
        (Step(A, with_={"n": "input.result"}), "the fields input and output, no 'result'"),
        (Step(A, with_={"n": "input['in']"}), "no 'in'"),
        (
            Step(by_model, with_={"boking": "input.output"}),
            "needs booking, and not boking: Booking has",
        ),
        (Step(by_model, with_={"reason": "'late'"}), "needs booking"),
        (Step(by_model), "needs booking, and not input, output"),
        (Step(by_strict, with_={"boking": "input.output"}), "takes no boking"),
        (Step(by_strict), "takes no input, output"),
        (Step(by_text), "takes str, and gets a mapping with input, output"),
        (Step(by_text, with_={"id": "input.output"}), "takes str, and gets a mapping with id"),
    ],
)
def test_what_an_undo_would_be_given_and_cannot_take_is_found(undo, says):
    with pytest.raises(InvalidDefinition) as caught:
        taken_back(undo)
    assert str(caught.value).startswith("root.sequence[0].undo") and says in str(caught.value)


@pytest.mark.parametrize(
    "undo",
    [
        Step(A),
        Step(A, with_="input.output.id"),
        Step(A, with_="has(input.extra) ? input.extra : input.output"),
        Step(by_model, with_={"booking": "input.output.id"}),
        Step(by_model, with_={"booking": "input.output.id", "other": "1"}),
        Step(by_model, with_="input.output"),
        Step(by_strict, with_={}),
        Step(by_alias, with_={"id": "input.output"}),
        Step(by_any),
        Step(by_whole),
        Step(by_text, with_="input.output"),
    ],
)
def test_an_undo_that_may_take_what_it_is_given_is_no_flaw(undo):
    assert taken_back(undo).hash


def test_fields_are_those_of_the_variable_and_of_no_other():
    assert fields_of("input", "my_input.a + inputs.b + input . c + input[0] + x.input.d") == {"c"}
