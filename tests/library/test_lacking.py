"""What an answer lacks makes its task degraded, whatever lacked it; a result that only looks like one does not."""

from __future__ import annotations

import pytest

import podium
from podium import Sequence, Step, Workflow
from tests.support.replays import DONE, chunk, data
from tests.support.served import Reply, serving

pytestmark = pytest.mark.timeout(60)


@podium.protocol
async def looks_like_one(input: dict) -> dict:
    return {"text": "x", "missing": {"everything": "is"}}


@pytest.fixture
def engine_of(tmp_path):
    def opened(**model):
        config = {"requests": {"owner": "ada", "model": model}}
        return podium.connect(data=tmp_path / "data", cluster="inprocess", user="ada", config=config)

    return opened


def ended(task):
    return task.result(timeout_s=30), task.read_record().degraded


def test_a_tool_that_is_missing_makes_the_task_degraded(engine_of, tmp_path):
    with engine_of() as engine:
        answer, degraded = ended(engine.ask("hello?", type="simple_query", tools=["nowhere"], root=str(tmp_path)))
    assert set(answer["missing"]) == set(degraded) == {"tool nowhere"}
    assert degraded["tool nowhere"]["error"]["message"] == answer["missing"]["tool nowhere"]


def test_an_answer_that_was_cut_off_makes_the_task_degraded(engine_of):
    cut = Reply([(data(chunk({"content": "so f"}), chunk(finish="length")) + DONE).encode()])
    with serving(cut) as served, engine_of(base_url=served.url, key_env=None) as engine:
        answer, degraded = ended(engine.ask("hello?", type="simple_query"))
    assert answer["text"] == "so f" and set(degraded) == {"end"}


def test_what_was_stood_in_for_keeps_its_failure(engine_of):
    with engine_of(base_url="http://127.0.0.1:9/v1", key_env=None) as engine:
        answer, degraded = ended(engine.ask("hello?", type="simple_query"))
    assert set(answer["missing"]) == set(degraded) == {"model"}
    assert degraded["model"]["error"]["kind"] == "ModelUnreachable"


def test_an_answer_that_lacks_nothing_is_not_degraded(engine_of):
    with engine_of() as engine:
        answer, degraded = ended(engine.ask("hello?", type="simple_query"))
    assert answer["missing"] == {} and degraded == {}


def test_a_result_of_another_workflow_is_not_looked_into(engine_of):
    with engine_of() as engine:
        _, degraded = ended(engine.submit(Workflow("plain", Sequence(Step(looks_like_one))), {}))
    assert degraded == {}
