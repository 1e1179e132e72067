"""A long operation of a request has a bound, unless its step has one, or nobody wants one."""

from __future__ import annotations

import pytest

import podium
from podium import Adaptive, Hierarchy, Parallel, Rule, Sequence, Step
from podium.cluster.client.ask_input import workflow_of
from podium.cluster.config import load_settings
from podium.protocols.check import walk
from podium.protocols.errors import InvalidSetting
from podium.protocols.requests.grants import requests_config
from podium.protocols.requests.pipelines import ask_workflow, bounded
from tests.support.served import Reply, serving


@podium.protocol(timeout_s=90.0)
async def patient(input: dict) -> dict:
    return input


@podium.protocol(idle_timeout_s=90.0)
async def talkative(input: dict) -> dict:
    return input


def bounds(root):
    """Of all steps, by their protocol."""
    steps = [node for _, node in walk(root, ("",)) if isinstance(node, Step)]
    return {(node.step.rpartition(":")[2], node.timeout_s, node.idle_timeout_s) for node in steps}


def test_every_step_of_a_request_has_a_bound_and_a_stream_goes_on_as_long_as_it_says_something():
    found = bounds(ask_workflow().root)
    assert {timeout_s for _, timeout_s, _ in found} == {30.0, None}
    assert {each for each in found if each[1] is None} == {("Model", None, 60.0)}
    assert ("Model", 30.0, None) in found and ("Tools", 30.0, None) in found and ("lead", 30.0, None) in found


@pytest.mark.parametrize(("said", "bound_s"), [({}, 30.0), ({"operation_s": 7}, 7.0), ({"operation_s": 0}, None)])
def test_the_bound_is_a_setting(tmp_path, said, bound_s):
    settings = load_settings(data=tmp_path, config={"requests": said})
    assert ("Tools", bound_s, None) in bounds(workflow_of(settings).root)


@pytest.mark.parametrize("wrong", [-1, "soon", float("nan"), float("inf"), 1e9])
def test_a_bound_that_is_none_is_refused(wrong):
    with pytest.raises(InvalidSetting, match="operation_s"):
        requests_config({"requests": {"operation_s": wrong}})


def test_a_bound_of_a_steps_own_stays_wherever_it_stands():
    own = [Step(patient), Step(talkative), Step("tests.sample:add", timeout_s=5.0), Step("no.such:thing")]
    for group in (
        Sequence(*own),
        Parallel(*own),
        Parallel(each="input", do=Sequence(*own)),
        Hierarchy(patient, team={f"m{at}": step for at, step in enumerate(own)}),
        Adaptive({f"m{at}": step for at, step in enumerate(own)}, start="m0", rules=[Rule(to="end")]),
        Step(patient, fallback=own),
    ):
        assert bounds(bounded(group, 30.0)) == bounds(group)


def test_a_model_that_takes_too_long_is_stood_in_for_and_the_answer_says_so(tmp_path):
    slow = Reply([b": wait\n\n"] * 40, pause_s=0.1)
    with serving(slow) as served:
        model = {"base_url": served.url, "key_env": None}
        config = {"requests": {"model": model, "operation_s": 0.5}}
        with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config) as engine:
            task = engine.ask("hello?", type="simple_query", priority=1)
            answer = task.result(timeout_s=30)
    assert len(served.asked) > 1 and answer["model"] is None and "model" in task.read_record().degraded
    assert answer["missing"]["model"].startswith("it gave no answer: ") and "0.5" in answer["missing"]["model"]
