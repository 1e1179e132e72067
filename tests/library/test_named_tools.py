"""Tools that a request names run, or the answer says why not, whatever its type and whatever turn it was."""

from __future__ import annotations

import pytest

import podium
from podium.protocols.requests.request import REQUEST_TYPES
from tests.support.replays import DONE, STOP, chunk, data
from tests.support.served import Reply, serving

pytestmark = pytest.mark.timeout(60)
BROKEN = {"boom": {"about": "explodes", "command": ["false"]}}


@pytest.fixture
def ask(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("x\n")

    def asked(model=None, **request):
        config = {"requests": {"owner": "ada", "tools": BROKEN, "model": model or {}}}
        with podium.connect(data=tmp_path / "data", cluster="inprocess", user="ada", config=config) as engine:
            return engine.ask("what is here?", root=str(root), priority=1, **request).result(timeout_s=30)

    return asked


@pytest.mark.parametrize("type", REQUEST_TYPES)
@pytest.mark.parametrize("tool", ["list_files", "count_lines"])
def test_a_tool_that_is_named_has_run_or_is_missing(ask, type, tool):
    answer = ask(type=type, tools=[tool])
    ran = [run["tool"] for run in answer["tools"]]
    assert (tool in ran) != (f"tool {tool}" in answer["missing"])
    assert (tool in ran) == (type == "tool_execution")


def test_a_request_that_streams_says_which_tools_it_does_not_run(ask):
    answer = ask(stream=True, tools=["grep", "nowhere"])
    assert answer["missing"]["tool grep"] == "a request of the type 'streaming' runs no tools"
    assert "there is no such tool" in answer["missing"]["tool nowhere"]


def _turns(*calls):
    said = [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in calls]
    turns = [Reply([(data(chunk({"tool_calls": [call]}), STOP) + DONE).encode()]) for call in said]
    return [*turns, Reply([(data(chunk({"content": "done"}), STOP) + DONE).encode()])]


def test_a_tool_that_failed_in_an_earlier_turn_is_still_missing(ask):
    with serving(*_turns("list_files", "count_lines")) as served:
        answer = ask({"base_url": served.url, "key_env": None}, type="tool_execution", tools=["boom", "list_files"])
    assert answer["text"] == "done" and "exit code 1" in answer["missing"]["tool boom"]
    assert list(answer["missing"]) == ["tool boom"]


def test_a_tool_that_failed_and_then_ran_is_not_missing(ask):
    with serving(*_turns("list_files", "boom", "list_files")) as served:
        answer = ask({"base_url": served.url, "key_env": None}, type="tool_execution", tools=["count_lines"])
    assert set(answer["missing"]) == {"tool boom"}
