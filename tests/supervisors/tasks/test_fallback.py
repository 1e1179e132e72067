"""What runs when a node has failed for good, and what comes out when that fails, too."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Adaptive, Constant, Goto, Hierarchy, Parallel, Retry, Rule, Sequence, Step, Workflow, read_workflow
from podium.errors import InvalidDefinition, TaskFailed
from podium.testing import Simulation
from tests import sample

FAIL = "tests.sample:fail"


def run(root, input=None, **options):
    """The result, and the events as (kind, step)."""

    async def work(engine):
        task = await engine.submit(Workflow("w", root), input)
        result = await task.result()
        return result, [(event.kind, event.step) async for event in task.events() if event.step]

    return Simulation(**options).run(work)


def test_the_fallback_gets_the_same_input_after_all_retries():
    result, events = run(Step(FAIL, retry=Retry(attempts=2), fallback=sample.add), {"n": 1})
    assert result == {"n": 2}
    ended = [event for event in events if event[0] in ("retrying", "failed", "finished")]
    assert ended == [("retrying", "fail"), ("failed", "fail"), ("finished", "fail/fallback:1")]


def test_it_sees_the_error_that_it_stands_in_for():
    fallback = Step(sample.echo, with_={"asked": "input", "why": "error.kind", "step": "error.step"})
    result, _ = run(Sequence(Step(FAIL, fallback=[fallback]), sample.echo), 3)
    assert result == {"asked": 3, "why": "ValueError", "step": "fail"}


def test_a_chain_is_tried_in_order_and_a_constant_ends_it():
    chain = [Step(FAIL), Sequence(sample.echo, sample.fail)]
    result, events = run(Step(FAIL, fallback=chain, otherwise=Constant(value=None)), 1)
    assert result is None
    failed = [step for kind, step in events if kind == "failed"]
    assert failed == ["fail", "fail/fallback:1", "fail/fallback:2/fail"]


def test_without_a_constant_the_last_failure_stands_and_names_its_step():
    with pytest.raises(TaskFailed, match="failed in step 'fail/fallback:1'"):
        run(Step(FAIL, fallback=[FAIL]), 1)


def test_a_fallback_of_a_whole_subtree_sees_what_was_done_in_it():
    inner = Sequence(Step(sample.add, name="first"), Step(FAIL, name="second"), name="inner")
    inner = inner.model_copy(update={"fallback": (Step(sample.echo, with_="outputs.first"),)})
    assert run(Sequence(inner, sample.add), {"n": 1})[0] == {"n": 3}


def test_of_a_parallel_only_the_branch_falls_back_and_the_others_go_on():
    root = Parallel({"a": sample.add, "b": Step(FAIL, otherwise={"value": "none"})})
    assert run(root, {"n": 1})[0] == {"a": {"n": 2}, "b": "none"}
    late = Parallel({"a": sample.slow}, timeout_s=1, otherwise={"value": "late"})
    assert run(late, {"s": 50})[0] == "late"


def test_a_fallback_may_be_a_hierarchy_and_a_hierarchy_may_have_one():
    team = Hierarchy(sample.lead, team={"x": sample.add}, name="team")
    assert run(Sequence(Step(FAIL, fallback=[team])), {"n": 1})[0] == {"x": {"n": 2}}
    failing = Hierarchy(sample.fail, team={"x": sample.add}, name="team", fallback=sample.add)
    assert run(Sequence(failing), {"n": 1})[0] == {"n": 2}


def test_a_fallback_of_an_adaptive_node_may_go_to_another():
    @podium.protocol
    async def jump(_input):
        return Goto("b", {"n": 7})

    nodes = {"a": Step(FAIL, fallback=[jump]), "b": sample.add}
    assert run(Adaptive(nodes, start="a", rules=[Rule(to="end")], jumps=["b"]), 1)[0] == {"n": 8}


@pytest.mark.parametrize("victim", ["supervisor/w", "supervisor/w/slow-0", "coordinator"])
def test_a_crash_during_a_fallback_goes_on_with_the_fallback(victim):
    simulation = Simulation(1)

    async def work(engine):
        root = Sequence(Step(FAIL, fallback=[sample.slow]), sample.echo)
        task = await engine.submit(Workflow("w", root), {"s": 20})
        await asyncio.sleep(5)
        simulation.kill(victim)
        assert await task.result() == {"s": 20}
        return [event.step async for event in task.events() if event.kind == "failed"]

    assert simulation.run(work) == ["fail"]


def test_in_yaml_it_is_the_same():
    text = """
    name: w
    root:
      sequence:
        - step: tests.sample:fail
          fallback:
            - tests.sample:echo
            - step: tests.sample:add
              with: {n: "input.n", why: "error.message"}
          otherwise: {value: [1, null]}
    """
    add = Step(sample.add, with_={"n": "input.n", "why": "error.message"})
    step = Step(FAIL, fallback=[sample.echo, add], otherwise=Constant(value=[1, None]))
    assert read_workflow(text) == Workflow("w", Sequence(step))


def test_errors_are_known_only_in_a_fallback():
    with pytest.raises(InvalidDefinition, match=r"undeclared reference to 'error.kind'"):
        Workflow("w", Sequence(Step(FAIL, with_="error.kind")))
    with pytest.raises(InvalidDefinition, match=r"fallback\[0\]\.with.*undeclared reference to 'eror.kind'"):
        Workflow("w", Sequence(Step(FAIL, fallback=[Step(sample.echo, with_="eror.kind")])))


# degraded


def degraded(root, input=None, **options):
    """What the record says is missing, with the step and the kind of error of each."""

    async def work(engine):
        task = await engine.submit(Workflow("w", root), input)
        await task.result()
        return {what: (why["step"], why["error"]["kind"]) for what, why in (await task.read_record()).degraded.items()}

    return Simulation(**options).run(work)


def test_a_result_that_lacks_something_says_what_and_why():
    tools = Step(FAIL, name="tools", otherwise=Constant(value=[]))
    context = Step(FAIL, name="context", fallback=Step(sample.echo, missing="full context"))
    assert degraded(Sequence(tools, context), 1) == {
        "tools": ("tools", "ValueError"),
        "full context": ("context/fallback:1", "ValueError"),
    }
    named = Step(FAIL, otherwise=Constant(value=1, missing="the weather"))
    assert list(degraded(Sequence(named), 1)) == ["the weather"]
    assert degraded(Step(FAIL, fallback=sample.echo), 1) == {}
    assert degraded(sample.add, {"n": 1}) == {}


def test_what_a_failed_node_lacked_does_not_matter_if_something_else_stood_in_for_it():
    broken = Sequence(Step(FAIL, name="a", otherwise=Constant(value=1)), Step(FAIL, name="b"), fallback=sample.echo)
    assert degraded(Sequence(broken), 1) == {}


def test_what_a_branch_lacks_counts_when_it_is_used():
    lesser = Step(FAIL, otherwise=Constant(value=0))
    assert list(degraded(Parallel({"a": lesser, "b": sample.echo}), 1)) == ["a"]
    assert degraded(Parallel({"a": Step(sample.echo), "b": sample.slow}, join="any"), {"s": 5}) == {}


def test_a_nested_hierarchy_passes_on_what_it_lacks():
    team = Hierarchy(sample.lead, team={"x": Step(FAIL, otherwise=Constant(value=0, missing="x's part"))}, name="team")
    assert degraded(Sequence(team), 1) == {"x's part": ("team/x", "ValueError")}


def test_only_what_stands_in_for_something_can_lack_it():
    with pytest.raises(InvalidDefinition, match="only what stands in for another node"):
        Workflow("w", Step(sample.echo, missing="all"))
