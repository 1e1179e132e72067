"""Every kind of node is known in the places that `make check` does not name. What fails says which place lacks it."""

from __future__ import annotations

import copy
import json
from random import Random
from types import SimpleNamespace

import jsonschema
import pytest
from hypothesis import given, settings

import podium
from podium.errors import FixTheCall, InvalidDefinition, TaskFailed
from podium.protocols.check import children, walk
from podium.protocols.tree import NODES, Adaptive, Hierarchy, Parallel, Sequence, Sleep, Step, Wait
from podium.protocols.wording import place
from podium.protocols.workflow_schema import workflow_schema
from podium.testing import Simulation
from tests.support import differential, storm
from tests.support.fold_play import TREES

S = "tests.sample:add"
AROUND = {"fallback": [S, S], "undo": {"step": S}}
EXAMPLES = [
    (Step, {"step": S}),
    (Sequence, {"sequence": [S, S]}),
    (Parallel, {"parallel": {"a": S, "b": S}}),
    (Parallel, {"each": "input", "do": S}),
    (Hierarchy, {"hierarchy": S, "team": {"a": S, "b": S}}),
    (Adaptive, {"adaptive": {"a": S}, "start": "a", "rules": [{"to": "end"}]}),
    (Wait, {"wait": "x", "timeout_s": 1, "on_timeout": S}),
    (Sleep, {"sleep": {"for_s": 1}}),
]
"""Each form of each kind, with children in all places that it has."""
BY_KEY = pytest.mark.parametrize(
    "example", [example for _, example in EXAMPLES], ids=lambda example: next(iter(example))
)
EVERY = pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.__name__)


def kinds_in(root):
    return {type(node) for _, node in walk(root, ())}


SERVICE = SimpleNamespace(is_down=False)


@podium.protocol
async def call(input):
    """Stands for all steps of an example; as the lead of a Hierarchy it accepts at once."""
    if SERVICE.is_down:
        raise ConnectionError("down")
    return podium.verdict.accept(input) if isinstance(input, dict) and "round" in input else input


def lacking(kinds):
    return [kind.__name__ for kind in NODES if kind not in kinds]


@EVERY
def test_it_has_an_example_here_and_is_public(kind):
    assert any(kind is each for each, _ in EXAMPLES), f"EXAMPLES in this file has no {kind.__name__}"
    assert kind.__name__ in podium.__all__, f"podium/__init__.py has to export {kind.__name__}"


@BY_KEY
def test_the_schema_for_editors_knows_it(example):
    jsonschema.validate({"name": "w", "root": {**example, **AROUND}}, workflow_schema())


@BY_KEY
def test_a_wrong_key_in_a_child_is_reported_at_its_own_place(example):
    example = {**example, **AROUND}
    for loc, _ in children(podium.read_workflow(json.dumps({"name": "w", "root": example})).root):
        wrong = copy.deepcopy(example)
        holder = wrong
        for part in loc[:-1]:
            holder = holder[part]
        holder[loc[-1]] = {"step": S, "timeout": 3}
        with pytest.raises(InvalidDefinition) as caught:
            podium.read_workflow(json.dumps({"name": "w", "root": wrong}), "f")
        wanted = f"{place('root', loc)}.timeout: unknown key `timeout`"
        assert wanted in str(caught.value), "`_follows_node` in protocols/wording.py has to know where its children are"


@BY_KEY
def test_when_all_below_it_failed_a_redrive_runs_them_again(example, monkeypatch):
    if "sleep" in example:
        pytest.skip("nothing is below a Sleep")
    text = json.dumps({"name": "w", "root": example}).replace(S, f"{__name__}:call")

    async def work(engine):
        monkeypatch.setattr(SERVICE, "is_down", True)
        task = await engine.submit(podium.read_workflow(text), [1, 2])
        with pytest.raises(TaskFailed):
            await task.result()
        monkeypatch.setattr(SERVICE, "is_down", False)
        try:
            (again,) = await engine.redrive([task.id])
        except FixTheCall as error:
            pytest.fail(f"`_look` in supervisors/tasks/continuation.py has to know why it fails: {error}")
        await again.result()

    Simulation().run(work)


def test_every_storm_has_all_kinds():
    found = kinds_in(storm.workflow(Random(0), 1, {}).root)
    assert lacking(found) == [], "`workflow` in tests/support/storm.py has none of it"


def test_the_interpreter_of_the_docs_meets_all_kinds():
    drawn = set().union(*(kinds_in(differential.case(seed)[0].root) for seed in range(100)))
    assert lacking(drawn) == [], "`Trees` in tests/support/differential.py draws none of it"


def test_random_trees_for_the_fold_have_all_kinds():
    seen = {Hierarchy}  # its tree is that of another supervisor, and for the fold it is a leaf

    @settings(max_examples=200, database=None)
    @given(TREES)
    def draw(root):
        seen.update(kinds_in(root))

    draw()
    assert lacking(seen) == [], "`TREES` in tests/support/fold_play.py draws none of it"
