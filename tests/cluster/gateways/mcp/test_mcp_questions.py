"""Tasks that wait, as clients of MCP see them: requests for input, and a tool to answer with."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

import podium
from podium import Parallel, Sequence, Sleep, Step, Wait, Workflow
from podium.cluster.client.waits import OpenWait
from podium.cluster.gateways.mcp.questions import MAX_SHOWN_CHARS, answered, key_of, requests_of
from podium.cluster.gateways.mcp.server import Gateway
from podium.errors import InvalidInput, Overloaded
from tests import sample
from tests.support.mcp_service import client_of, post, run, served, token_of

pytestmark = pytest.mark.timeout(90)
OBJECT = {"type": "object"}
OPEN = OpenWait("t-1", "w", "ada", "yes", "yes", 1.0, None, None, "d" * 64, None, (), False, 1, 0)
FLAT = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "when": {"type": "string", "format": "date", "pattern": "x"}},
    "required": ["sure"],
}


def form_of(schema, shown=None):
    wait = replace(OPEN, schema=schema, shown=shown)
    (request,) = requests_of([wait]).values()
    return request["params"]["requestedSchema"], request["params"]["message"]


def test_an_answer_that_is_a_flat_object_is_the_form_itself():
    form, _ = form_of(FLAT)
    fields = {"sure": {"type": "boolean"}, "when": {"type": "string", "format": "date"}}
    assert form == {"type": "object", "properties": fields, "required": ["sure"]}
    content = {"sure": True}
    assert answered(replace(OPEN, schema=FLAT), {"action": "accept", "content": content}) == (content,)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "boolean"}, {"type": "boolean"}),
        ({"enum": ["yes", "no"]}, {"type": "string", "enum": ["yes", "no"]}),
        ({"type": "integer", "minimum": 1, "multipleOf": 2}, {"type": "integer", "minimum": 1}),
    ],
)
def test_an_answer_that_is_one_value_is_one_field(schema, field):
    assert form_of(schema)[0] == {"type": "object", "properties": {"answer": field}, "required": ["answer"]}
    assert answered(replace(OPEN, schema=schema), {"action": "accept", "content": {"answer": 2}}) == (2,)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object"},
        {"type": "object", "properties": {"deep": {"type": "object"}}},
        {"enum": [1, 2]},
        {"type": ["string", "null"]},
    ],
)
def test_any_other_answer_is_typed_as_json(schema):
    form, _ = form_of(schema)
    assert form["properties"]["answer"]["type"] == "string"
    wait = replace(OPEN, schema=schema)
    assert answered(wait, {"action": "accept", "content": {"answer": '{"a": [1, null]}'}}) == ({"a": [1, None]},)
    with pytest.raises(InvalidInput, match=r"inputResponses.yes:d+.content.answer: not JSON"):
        answered(wait, {"action": "accept", "content": {"answer": "{"}})
    with pytest.raises(InvalidInput, match="it is needed"):
        answered(wait, {"action": "accept", "content": {}})


@pytest.mark.parametrize("response", [None, "yes", {}, {"action": "decline"}, {"action": "cancel", "content": {}}])
def test_a_response_without_an_answer_answers_nothing(response):
    assert answered(OPEN, response) is None


def test_what_it_is_about_is_shown_bounded_and_without_orders_to_a_terminal():
    assert form_of(None, {"a": 1})[1] == "'w' waits for an answer: yes\n{\"a\": 1}"
    _, message = form_of(None, "\x1b[2J" + "x" * 9_000)
    assert "\x1b" not in message and len(message) < MAX_SHOWN_CHARS + 100


def test_the_key_changes_with_what_is_shown():
    assert key_of(OPEN) != key_of(replace(OPEN, digest="e" * 64))


AGREED = Workflow(
    "agreed",
    Sequence(
        Parallel(
            {
                "sure": Wait("sure", schema=FLAT, show="input"),
                "other": Wait("other", who=["bob"], timeout_s=2, on_timeout={"value": "nobody"}),
            }
        ),
        Step(sample.echo),
    ),
    input=OBJECT,
)


async def until_asked(url, token, id):
    while True:
        _, got = await post(url, token, "tasks/get", {"taskId": id})
        if got["result"]["status"] == "input_required":
            return got["result"]["inputRequests"]
        await asyncio.sleep(0.05)


def test_a_task_asks_its_user_only_what_the_user_may_answer_and_goes_on_with_the_answer(tmp_path):
    async def work():
        async with served(tmp_path, AGREED) as (url, engine):
            ada, bob = token_of(tmp_path, "ada"), token_of(tmp_path, "bob")
            _, made = await post(url, ada, "tools/call", {"name": "agreed", "arguments": {"doc": 7}})
            id = made["result"]["taskId"]
            ((key, request),) = (await until_asked(url, ada, id)).items()
            assert '{"doc": 7}' in request["params"]["message"]

            async def say(token, **responses):
                return (await post(url, token, "tasks/update", {"taskId": id, "inputResponses": responses}))[1]

            wrong = await say(ada, **{key: {"action": "accept", "content": {"sure": "perhaps"}}})
            assert wrong["error"]["code"] == -32602 and "sure" in wrong["error"]["message"]
            assert (await say(bob, **{key: {"action": "accept", "content": {"sure": True}}}))["error"]["code"] == -32602
            for _ in range(2):  # the same again is the same answer
                ack = await say(ada, **{key: {"action": "accept", "content": {"sure": True}}, "no such": {}})
                assert ack["result"] == {"resultType": "complete"} | ack["result"]
            while (got := (await post(url, ada, "tasks/get", {"taskId": id}))[1]["result"])["status"] != "completed":
                assert got["status"] == "working", got
                await asyncio.sleep(0.1)
            return await (await engine.task(id)).result()

    assert run(work()) == {"sure": {"sure": True}, "other": "nobody"}


def test_a_client_without_tasks_answers_with_a_tool(tmp_path):
    flow = Workflow(
        "flow", Sequence(Wait("yes", schema={"type": "boolean"}, show="input"), Sleep(for_s=0.1)), input=OBJECT
    )

    async def work():
        async with served(tmp_path, flow) as (url, _), client_of(url, token_of(tmp_path, "ada")) as client:
            began = time.monotonic()
            left = await client.call_tool("flow", {"doc": 7})
            id, (wait,) = left.structured_content["task_id"], left.structured_content["waits"]
            assert "Call answer_task" in left.content[0].text and wait["shown"] == {"doc": 7}
            again = await client.call_tool("wait_task", {"task_id": id})
            assert again.structured_content["waits"] == [wait] and time.monotonic() - began < 20, "it is told at once"
            asks = {"task_id": id, "name": "yes", "digest": wait["digest"]}
            wrong = await client.call_tool("answer_task", {**asks, "answer": "perhaps"})
            stale = await client.call_tool("answer_task", {**asks, "answer": True, "digest": "0" * 64})
            right = await client.call_tool("answer_task", {**asks, "answer": True})
            late = await client.call_tool("answer_task", {**asks, "answer": False})
            done = await client.call_tool("wait_task", {"task_id": id})
            return [each.is_error for each in (wrong, stale, right, late, done)], done.structured_content["result"]

    assert run(work()) == ([True, True, False, True, False], True)


def test_a_call_has_its_result_though_nobody_can_tell_whether_its_task_asks(tmp_path, monkeypatch):
    async def asks(*_):
        raise Overloaded(reason="too many events", retry_after_s=1.0)

    monkeypatch.setattr(Gateway, "_asks", asks)
    flow = Workflow("flow", Sequence(Sleep(for_s=1.5)), input=OBJECT)

    async def work():
        async with served(tmp_path, flow) as (url, _), client_of(url, token_of(tmp_path, "ada")) as client:
            return (await client.call_tool("flow", {"doc": 7})).structured_content["result"]

    assert run(work()) == {"doc": 7}


def test_a_token_that_may_only_read_answers_nothing(tmp_path):
    flow = Workflow("flow", Sequence(Wait("yes")), input=OBJECT)

    async def work():
        async with served(tmp_path, flow) as (url, engine):
            task = await engine.submit(flow, {}, user="ada")
            reader = token_of(tmp_path, "ada", scope="read")
            asked = await until_asked(url, reader, task.id)
            responses = {key: {"action": "accept", "content": {"answer": "1"}} for key in asked}
            _, refused = await post(url, reader, "tasks/update", {"taskId": task.id, "inputResponses": responses})
            assert "may only read" in refused["error"]["message"]
            assert len(await task.waits()) == 1

    run(work())


NEEDS = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}, "deep": {"type": "object"}},
    "required": ["name", "size"],
}


@podium.protocol
async def given(input):
    return [input["name"], input["size"]]


def flow_that_needs(schema=NEEDS, elicit=True):
    return Workflow("needs", Sequence(given), input=schema, elicit=elicit)


async def call(url, token, arguments, asks=True, **more):
    params = {"name": "needs", "arguments": arguments, **more}
    _, body = await post(url, token, "tools/call", params, tasks=False, asks=asks)
    return body["result"]


def test_a_call_that_lacks_something_asks_the_user_for_it_and_then_runs(tmp_path):
    async def work():
        async with served(tmp_path, flow_that_needs()) as (url, engine):
            ada = token_of(tmp_path, "ada")
            asks = await call(url, ada, {"size": 3})
            assert asks["resultType"] == "input_required" and "taskId" not in asks
            ((key, request),) = asks["inputRequests"].items()
            assert request["params"]["message"] == "'needs' needs name"
            assert list(request["params"]["requestedSchema"]["properties"]) == ["name"]
            assert await engine.tasks() == []
            typed = {"action": "accept", "content": {"name": "Ada", "size": 9}}
            done = await call(url, ada, {"size": 3}, inputResponses={key: typed})
            assert done["structuredContent"]["result"] == ["Ada", 3], "what the call says stands"
            declined = await call(url, ada, {"size": 3}, inputResponses={key: {"action": "decline"}})
            assert declined["isError"] and "name" in declined["content"][0]["text"]

    run(work())


@pytest.mark.parametrize(
    ("flow", "asks", "arguments"),
    [
        (flow_that_needs(), False, {"size": 3}),
        (flow_that_needs(elicit=False), True, {"size": 3}),
        (flow_that_needs({**NEEDS, "required": ["name", "deep"]}), True, {}),
        (flow_that_needs(), True, {"name": 1, "size": 3}),
    ],
)
def test_nobody_is_asked_who_cannot_be_or_need_not_be(tmp_path, flow, asks, arguments):
    async def work():
        async with served(tmp_path, flow) as (url, _):
            refused = await call(url, token_of(tmp_path, "ada"), arguments, asks)
            assert refused["isError"] and "name" in refused["content"][0]["text"]

    run(work())
