"""Where a request is on its way: while it runs, after its end, and wherever it is shown."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

import podium
from podium import Sequence, Step, Workflow
from podium.cluster.gateways.cli.main import app
from podium.protocols.errors import TaskFailed
from podium.protocols.requests.pipelines import ask_workflow
from tests.support.served import Reply, serving

pytestmark = pytest.mark.timeout(60)


def shown(data, *arguments):
    done = CliRunner().invoke(app, [*arguments, "--data", str(data)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def waiting(tmp_path):
    """An engine with a request that waits for its model, until the test lets it go on."""
    asked, go_on = threading.Event(), threading.Event()

    def reply(_bodies):
        asked.set()
        go_on.wait(30)
        return Reply([b'{"choices": [{"message": {"content": "there"}, "finish_reason": "stop"}]}'])

    with serving(by=reply) as served:
        config = {"requests": {"model": {"base_url": served.url, "key_env": None}}}
        with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config) as engine:
            task = engine.ask("hello?", type="simple_query")
            assert asked.wait(30)
            yield engine, task, go_on.set, tmp_path / "data"
            go_on.set()


def test_a_request_that_runs_says_where_it_is_and_since_when(waiting):
    _, task, go_on, data = waiting
    state = task.read_request_state()
    assert state.state == "processing" and state.updated_at > task.read_record().accepted_at
    assert "request processing since" in shown(data, "show", task.id)
    assert json.loads(shown(data, "show", task.id, "-o", "json"))["request"] == state.to_json()
    assert json.loads(shown(data, "ps", "-o", "json"))[0]["request"] == state.to_json()
    assert "processing" in shown(data, "ps")
    go_on()
    task.result(timeout_s=30)


def test_a_request_that_has_ended_says_so_and_when(waiting):
    _, task, go_on, data = waiting
    go_on()
    task.result(timeout_s=30)
    state = task.read_request_state()
    assert (state.state, state.updated_at) == ("completed", task.read_record().finished_at)
    assert json.loads(shown(data, "ps", "-o", "json"))[0]["request"]["state"] == "completed"


def test_a_request_that_was_cancelled_says_so(waiting):
    _, task, _, _ = waiting
    task.cancel()
    assert task.read_request_state().state == "cancelled"
    assert task.read_request_state().updated_at == task.read_record().finished_at


def test_a_task_that_is_no_request_has_no_such_state(tmp_path):
    with podium.connect(data=tmp_path / "data", cluster="inprocess") as engine:
        task = engine.submit(Workflow("plain", Sequence(Step("tests.sample:echo"))), {"n": 1})
        task.result(timeout_s=30)
        assert task.read_request_state() is None
    assert "request" not in json.loads(shown(tmp_path / "data", "show", task.id, "-o", "json"))


def test_a_request_that_its_first_step_refuses_has_failed(tmp_path):
    with podium.connect(data=tmp_path / "data", cluster="inprocess") as engine:
        task = engine.submit(ask_workflow(), {"request": {"text": "x", "root": "/nowhere", "type": "context_query"}})
        with pytest.raises(TaskFailed):
            task.result(timeout_s=30)
        assert task.read_request_state().state == "failed"
