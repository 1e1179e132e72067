"""Replies of many servers, replayed in pieces of any size: what comes out is what the documentation's table says."""

from __future__ import annotations

import json

import pytest

import podium
from tests.support import ROOT
from tests.support.replays import DONE, STOP, came_out, chunk, cut, data, replays, table
from tests.support.served import Reply, serving

ALL = replays()
DOCS = ROOT / "docs" / "requests.md"


@pytest.mark.parametrize("replay", ALL, ids=lambda each: f"{each.server}: {each.like}")
def test_a_reply_in_any_pieces_comes_out_as_it_should(replay):
    for seed in range(60):
        assert came_out(cut(replay.sent, seed)) == replay.out, seed


def test_the_table_in_the_documentation_is_what_was_replayed():
    assert table() in DOCS.read_text()


@pytest.fixture
def ask(tmp_path):
    """Asks one question of a model that replies so; gives the answer, and the task's events and record."""

    def asked(served, settings=None, text="hello?", **request):
        model = {"base_url": served.url, "name": "m", "key_env": None, "first_token_s": 5.0, **(settings or {})}
        config = {"requests": {"owner": "ada", "model": model}}
        with podium.connect(data=tmp_path / "data", cluster="inprocess", user="ada", config=config) as engine:
            task = engine.ask(text, priority=1, **{"type": "simple_query", **request})
            events = list(task.events())
            return task.result(timeout_s=30), events, task.read_record()

    return asked


TEXTS = [replay for replay in ALL if replay.out.startswith("text")]
CALLS = [replay for replay in ALL if replay.out.startswith("calls")]
NO_ANSWER = [replay for replay in ALL if replay.out.startswith("no text")]


def reply_of(replay, seed=2):
    return Reply(cut(replay.sent, seed))


@pytest.mark.parametrize("replay", TEXTS, ids=lambda each: f"{each.server}: {each.like}")
def test_a_request_is_answered_by_any_server(ask, replay):
    with serving(reply_of(replay)) as served:
        answer, events, record = ask(served)
    assert answer["text"] == "Hello, wörld 🌍" and answer["model"] == "m"
    assert set(record.degraded) == set(answer["missing"]) == ({"end"} if "model_length" in replay.out else set())
    assert "".join(event.value["text"] for event in events if event.kind == "chunk") == answer["text"]
    assert len(served.asked) == 1 and all(isinstance(count, int) for count in answer["tokens"].values())


@pytest.mark.parametrize("replay", CALLS, ids=lambda each: f"{each.server}: {each.like}")
def test_tools_run_that_any_server_calls_and_it_hears_of_them(ask, replay, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("x\n")
    with serving(reply_of(replay), Reply([data(chunk({"content": "done"}), STOP).encode()])) as served:
        answer, _, _ = ask(served, type="tool_execution", root=str(root), tools=["count_lines"])
    wanted = ["grep", "list_files"] if "list_files" in replay.out else ["grep"]
    assert [run["tool"] for run in answer["tools"]] == wanted and answer["text"] == "done"
    (called,) = [message for message in served.asked[-1]["messages"] if message["role"] == "assistant"]
    assert all(isinstance(json.loads(each["function"]["arguments"]), dict) for each in called["tool_calls"])
    told = [message["tool_call_id"] for message in served.asked[-1]["messages"] if message["role"] == "tool"]
    assert told == [each["id"] for each in called["tool_calls"]] and all(told) and len(set(told)) == len(told)


@pytest.mark.parametrize("replay", NO_ANSWER, ids=lambda each: f"{each.server}: {each.like}")
def test_a_reply_without_an_answer_is_stood_in_for_and_says_why(ask, replay):
    with serving(reply_of(replay)) as served:
        answer, _, record = ask(served, session="s")
    assert answer["model"] is None and "gave no answer" in answer["text"]
    assert "model" in record.degraded and answer["missing"]["model"].startswith("it gave no answer: ")


def test_many_cuts_of_one_stream_over_the_wire(ask):
    (replay,) = [each for each in ALL if each.like == "comments between events, usage after the end"]
    for seed in range(8):
        with serving(reply_of(replay, seed)) as served:
            assert ask(served)[0]["text"] == "Hello, wörld 🌍"


def test_comments_are_signs_of_life(ask):
    comments = Reply([b": still here\n\n"] * 8 + [data(chunk({"content": "late"}), STOP).encode()], pause_s=0.1)
    with serving(comments) as served:
        answer, _, _ = ask(served, {"first_token_s": 0.5})
    assert answer["text"] == "late" and len(served.asked) == 1


def test_a_connection_that_stays_open_after_the_end_holds_nothing_up(ask):
    said = (data(chunk({"content": "all"}), STOP) + DONE).encode()
    with serving(Reply([said, b": bye\n\n"], pause_s=3.0)) as served:
        answer, events, _ = ask(served)
    assert answer["text"] == "all" and events[-1].at - events[0].at < 2.0
