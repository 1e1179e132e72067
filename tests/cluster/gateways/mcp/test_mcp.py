"""MCP with the official client, over stdio and HTTP, in both generations; users, tokens and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

import podium
from podium import Sequence, Step, Workflow
from podium.cluster.gateways.mcp import server as gateway
from podium.cluster.gateways.mcp.serving import MAX_BODY_BYTES, depth_of, serve_http
from podium.cluster.gateways.mcp.tasks import EXTENSION
from podium.cluster.tokens import Tokens
from podium.errors import EngineClosed
from tests import sample
from tests.support import ROOT, conformance
from tests.support.mcp_service import DOUBLE, GENERATIONS, client_of, post, run, served, token_of

pytestmark = pytest.mark.timeout(90)
SLOW = Workflow("slow", Sequence(sample.slow), description="sleeps", input={"type": "object"})
EITHER = Workflow("left", Sequence(sample.slow), input={"type": "object"}, when_left="cancel")


def test_tokens_made_at_once_are_all_there(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: Tokens(tmp_path).create(f"u{n}")[1].id, range(24)))
    assert {token.id for token in Tokens(tmp_path).all()} == set(made)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"limit": -1}, "arguments.limit"), ({"status": ["x"]}, "arguments.status"), ({"status": "odd"}, "'odd'")],
)
def test_the_arguments_of_task_tools_are_checked(tmp_path, arguments, says):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _), client_of(url, token_of(tmp_path, "ada")) as client:
            wrong = await client.call_tool("list_tasks", arguments)
            assert wrong.is_error and says in wrong.content[0].text

    run(work())


# what clients see


@pytest.mark.parametrize("mode", GENERATIONS)
def test_a_workflow_is_a_tool_over_http_in_both_generations(tmp_path, mode):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _), client_of(url, token_of(tmp_path, "ada"), mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"double", "ask", "get_task", "wait_task", "answer_task", "cancel_task", "list_tasks"}
            assert tools["double"].input_schema == DOUBLE.input
            result = await client.call_tool("double", {"n": 1})
            assert result.structured_content["result"] == {"n": 2}
            wrong = await client.call_tool("double", {"n": "one"})
            assert wrong.is_error and "arguments.n" in wrong.content[0].text
            failed = await client.call_tool("nothing", {})
            assert failed.is_error and "no tool 'nothing'" in failed.content[0].text

    run(work())


@pytest.mark.parametrize("mode", GENERATIONS)
def test_the_command_serves_on_stdio_in_both_generations(tmp_path, mode):
    (tmp_path / "flow.yaml").write_text("name: flow\nroot: {sequence: [tests.sample:add]}\n")

    async def work():
        command = ["-m", "podium", "mcp", "flow.yaml", "--in-process", "--data", "data"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = StdioServerParameters(command=sys.executable, args=command, cwd=tmp_path, env=environment)
        async with Client(server, mode=mode) as client:
            result = await client.call_tool("flow", {"n": 1})
            assert result.structured_content["result"] == {"n": 2}
            (tmp_path / "fence.py").write_text('"""How the journal is fenced."""\n')
            answer = await client.call_tool("ask", {"text": "how is the journal fenced?", "root": str(tmp_path)})
            assert "fence.py:1" in answer.content[0].text

    run(work())


def test_results_that_are_no_objects_and_failures_are_told(tmp_path):
    @podium.protocol
    async def shout(text: str) -> str:
        return text.upper()

    async def work():
        bad = Workflow("bad", Sequence(sample.fail))
        async with served(tmp_path, Workflow("shout", Sequence(shout)), bad) as (url, _):
            async with client_of(url, token_of(tmp_path, "ada")) as client:
                tool = next(tool for tool in (await client.list_tools()).tools if tool.name == "shout")
                assert tool.input_schema["properties"] == {"input": {"type": "string"}}
                assert tool.output_schema["properties"]["result"] == {"type": "string"}
                said = await client.call_tool("shout", {"input": "hello"})
                assert said.content[0].text == "HELLO"
                failed = await client.call_tool("bad", {"input": 1})
                assert failed.is_error and "ValueError in step 'fail': cannot do 1" in failed.content[0].text

    run(work())


def test_long_work_gives_an_id_and_progress_to_a_client_that_knows_no_tasks(tmp_path):
    told = []

    async def noted(progress, total, message):
        told.append(message)

    async def work():
        two = Workflow("two", Sequence(sample.echo, sample.slow), input={"type": "object"})
        async with served(tmp_path, two, call_s=1.0) as (url, _):
            async with client_of(url, token_of(tmp_path, "ada")) as client:
                result = await client.call_tool("two", {"s": 1.5}, progress_callback=noted)
                listed = (await client.call_tool("list_tasks", {})).structured_content["tasks"]
                waited = await client.call_tool("wait_task", {"task_id": listed[0]["task_id"], "timeout_s": 20})
                return result, listed, waited

    result, listed, waited = run(work())
    assert [row["workflow"] for row in listed] == ["two"] and waited.structured_content["status"] == "completed"
    assert any("1/2 steps" in message for message in told)
    assert result.structured_content["task_id"] == listed[0]["task_id"]


def test_the_list_of_tools_changes_when_something_is_deployed(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "LOOK_S", 0.1)

    async def work():
        changed = asyncio.Event()

        async def heard(message):
            if "list_changed" in str(getattr(getattr(message, "root", message), "method", "")):
                changed.set()

        async with served(tmp_path, DOUBLE) as (url, engine):
            async with client_of(url, token_of(tmp_path, "ada"), message_handler=heard) as client:
                await client.list_tools()
                await engine.deploy(SLOW)
                await asyncio.wait_for(changed.wait(), 10)
                assert "slow" in {tool.name for tool in (await client.list_tools()).tools}

    run(work())


# tasks, named after the scenarios of the conformance suite (`make conformance` runs that itself)


def test_tasks_lifecycle(tmp_path):
    async def work():
        async with served(tmp_path, *conformance.WORKFLOWS) as (url, _):
            token = token_of(tmp_path, "ada")
            _, quick = await post(url, token, "tools/call", {"name": "greet", "arguments": {"name": "World"}})
            assert quick["result"]["content"][0]["text"] == "Hello, World!" and "taskId" not in quick["result"]
            _, made = await post(url, token, "tools/call", {"name": "slow_compute", "arguments": {"seconds": 1}})
            made = made["result"]
            assert (made["resultType"], made["status"]) == ("task", "working") and made["pollIntervalMs"] == 500
            _, got = await post(url, token, "tasks/get", {"taskId": made["taskId"]})
            assert got["result"]["status"] == "working" and got["result"]["statusMessage"].startswith(
                "0/1 steps, running"
            )
            done = await ended(url, token, made["taskId"])
            assert done["status"] == "completed" and done["result"]["content"][0]["text"] == "computed "

    run(work())


def test_tasks_lifecycle_failures(tmp_path):
    async def work():
        async with served(tmp_path, *conformance.WORKFLOWS) as (url, _):
            token = token_of(tmp_path, "ada")
            tool_error = await called(url, token, "failing_job")
            assert tool_error["status"] == "completed" and tool_error["result"]["isError"]
            machinery = await called(url, token, "protocol_error_job")
            assert (
                machinery["status"] == "failed" and machinery["error"]["code"] == -32603 and "result" not in machinery
            )
            _, made = await post(url, token, "tools/call", {"name": "slow_compute", "arguments": {"seconds": 60}})
            id = made["result"]["taskId"]
            for _ in range(2):
                _, ack = await post(url, token, "tasks/cancel", {"taskId": id})
                assert ack["result"]["resultType"] == "complete" and "taskId" not in ack["result"]
            assert (await ended(url, token, id))["status"] == "cancelled"

    run(work())


def test_tasks_mrtr_input_of_what_is_parked(tmp_path):
    """A parked task asks what shall become of it, and goes on as it is told."""
    runs = []

    @podium.protocol(on_error={"internal": "park"})
    async def unsure(input: dict) -> str:
        runs.append(input)
        if len(runs) in (1, 3):
            raise ValueError("who knows")
        return "sure"

    async def work():
        async with served(tmp_path, Workflow("unsure", Sequence(unsure))) as (url, _):
            token, told = token_of(tmp_path, "ada"), []
            for decision in ("redrive", "drop"):
                _, made = await post(url, token, "tools/call", {"name": "unsure", "arguments": {}})
                id = made["result"]["taskId"]
                asks = await ended(url, token, id)
                assert asks["status"] == "input_required"
                ((key, request),) = asks["inputRequests"].items()
                assert request["params"]["requestedSchema"]["properties"]["decision"]["enum"] == ["redrive", "drop"]
                answer = {key: {"action": "accept", "content": {"decision": decision}}}
                _, ack = await post(url, token, "tasks/update", {"taskId": id, "inputResponses": answer})
                assert ack["result"]["resultType"] == "complete"
                told.append(await ended(url, token, id))
            return told

    again, dropped = run(work())
    assert again["result"]["content"][0]["text"] == "sure"
    assert dropped["result"]["isError"] and "who knows" in dropped["result"]["content"][0]["text"]


def test_tasks_capability_negotiation(tmp_path):
    async def work():
        async with served(tmp_path, *conformance.WORKFLOWS) as (url, _):
            token = token_of(tmp_path, "ada")
            _, found = await post(url, token, "server/discover", tasks=False)
            assert EXTENSION in found["result"]["capabilities"]["extensions"]
            for method in ("tasks/get", "tasks/update", "tasks/cancel"):
                _, refused = await post(url, token, method, {"taskId": "t-x"}, tasks=False)
                assert refused["error"]["code"] == -32021
            arguments = {"name": "slow_compute", "arguments": {"seconds": 0.5}}
            _, result = await post(url, token, "tools/call", arguments, tasks=False)
            assert "content" in result["result"] and result["result"].get("resultType") == "complete"
            _, needs = await post(url, token, "tools/call", {"name": "failing_job", "arguments": {}}, tasks=False)
            assert needs["error"]["code"] == -32021
            assert EXTENSION in needs["error"]["data"]["requiredCapabilities"]["extensions"]

    run(work())


def test_tasks_dispatch_and_request_headers(tmp_path):
    async def work():
        async with served(tmp_path, *conformance.WORKFLOWS) as (url, _):
            token = token_of(tmp_path, "ada")
            for method in ("tasks/result", "tasks/list"):
                _, gone = await post(url, token, method, {"taskId": "t-x"})
                assert gone["error"]["code"] == -32601
            _, unknown = await post(url, token, "tasks/get", {"taskId": "t-unknown"})
            assert unknown["error"]["code"] == -32602
            _, made = await post(url, token, "tools/call", {"name": "slow_compute", "arguments": {"seconds": 1}})
            id = made["result"]["taskId"]
            _, other = await post(url, token, "tasks/get", {"taskId": id}, **{"Mcp-Name": "t-other"})
            assert other["error"]["code"] == -32020

    run(work())


async def called(url, token, name):
    _, made = await post(url, token, "tools/call", {"name": name, "arguments": {}})
    return await ended(url, token, made["result"]["taskId"])


async def ended(url, token, id):
    while True:
        _, got = await post(url, token, "tasks/get", {"taskId": id})
        if got["result"]["status"] != "working":
            return got["result"]
        await asyncio.sleep(0.1)


# users


def test_nobody_sees_anothers_task_by_any_tool_method_or_resource(tmp_path):
    async def work():
        async with served(tmp_path, SLOW, DOUBLE) as (url, engine):
            ada, bob = token_of(tmp_path, "ada"), token_of(tmp_path, "bob")
            task = await engine.submit(SLOW, {"s": 30}, user="ada")
            done = await engine.submit(DOUBLE, {"n": 1}, user="ada")
            await done.result()
            for id in (task.id, done.id):
                for name in ("get_task", "wait_task", "answer_task", "cancel_task"):
                    more = {"name": "yes", "answer": True} if name == "answer_task" else {}
                    _, answer = await post(url, bob, "tools/call", {"name": name, "arguments": {"task_id": id, **more}})
                    assert answer["result"]["isError"] and f"no task '{id}'" in answer["result"]["content"][0]["text"]
                for method in ("tasks/get", "tasks/update", "tasks/cancel"):
                    _, answer = await post(url, bob, method, {"taskId": id})
                    assert answer["error"]["code"] == -32602 and f"no task '{id}'" in answer["error"]["message"]
                for uri in (f"task://{id}", f"task://{id}/events"):
                    _, answer = await post(url, bob, "resources/read", {"uri": uri})
                    assert answer["error"]["code"] == -32602 and f"no task '{id}'" in answer["error"]["message"]
                _, answer = await post(url, ada, "resources/read", {"uri": f"task://{id}"})
                assert json.loads(answer["result"]["contents"][0]["text"])["task_id"] == id
            _, listed = await post(url, bob, "tools/call", {"name": "list_tasks", "arguments": {}})
            assert listed["result"]["structuredContent"] == {"tasks": []}
            _, resources = await post(url, bob, "resources/list")
            assert not [each for each in resources["result"]["resources"] if each["uri"].startswith("task://")]
            assert await (await engine.task(task.id)).read_status() == "running"

    run(work())


def test_a_token_that_only_reads_starts_and_cancels_nothing(tmp_path):
    async def work():
        async with served(tmp_path, SLOW) as (url, engine):
            reader = token_of(tmp_path, "ada", scope="read")
            task = await engine.submit(SLOW, {"s": 30}, user="ada")
            answer = {"task_id": task.id, "name": "yes", "answer": True}
            for name, arguments in (("slow", {"s": 0}), ("cancel_task", {"task_id": task.id}), ("answer_task", answer)):
                _, refused = await post(url, reader, "tools/call", {"name": name, "arguments": arguments})
                assert "may only read" in refused["error"]["message"]
            _, refused = await post(url, reader, "tasks/cancel", {"taskId": task.id})
            assert "may only read" in refused["error"]["message"]
            _, got = await post(url, reader, "tasks/get", {"taskId": task.id})
            assert got["result"]["status"] == "working"

    run(work())


def test_priorities_are_capped_by_the_token(tmp_path):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, engine):
            token = token_of(tmp_path, "ada", max_priority=3)
            async with client_of(url, token) as client:
                await client.call_tool("double", {"n": 1}, meta={"podium/priority": 100})
            return (await (await engine.tasks())[0].read_record()).priority

    assert run(work()) == 3


def test_too_many_calls_are_refused_with_when_to_come_back(tmp_path):
    async def work():
        async with served(tmp_path, DOUBLE, rates={"mcp": "1/min burst 1"}) as (url, _):
            ada, bob = token_of(tmp_path, "ada"), token_of(tmp_path, "bob")
            call = {"name": "double", "arguments": {"n": 1}}
            await post(url, ada, "tools/call", call)
            _, refused = await post(url, ada, "tools/call", call)
            assert refused["error"]["code"] == gateway.OVERLOADED and refused["error"]["data"]["retryAfterMs"] > 1000
            _, other = await post(url, bob, "tools/call", call)
            assert other["result"]["structuredContent"]["result"] == {"n": 2}

    run(work())


# the door


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer podium_wrong"}, 401),
        ({"Authorization": ""}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_who_does_not_belong_here_is_let_in_nowhere(tmp_path, headers, status):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, engine):
            token = token_of(tmp_path, "ada")
            answer = await post(url, token, "tools/call", {"name": "double", "arguments": {"n": 1}}, **headers)
            assert answer[0] == status
            assert await engine.tasks() == []

    run(work())


def test_a_revoked_token_is_worthless_at_once(tmp_path):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            secret, made = Tokens(tmp_path / "data").create("ada")
            assert (await post(url, secret, "tools/list"))[0] == 200
            Tokens(tmp_path / "data").revoke(made.id)
            assert (await post(url, secret, "tools/list"))[0] == 401

    run(work())


def test_bodies_that_are_too_large_or_too_deep_are_refused(tmp_path):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            headers = {"Authorization": f"Bearer {token_of(tmp_path, 'ada')}", "Content-Type": "application/json"}
            async with httpx2.AsyncClient(timeout=40) as http:
                large = await http.post(url, content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
                deep = await http.post(url, content=b"[" * 100_000 + b"]" * 100_000, headers=headers)
                return large.status_code, deep.status_code

    assert run(work()) == (413, 400)


def test_depth_counts_brackets_outside_texts_only():
    assert depth_of(b'{"a": [1, "[[[[", "\\"[["], "b": {}}') == 2
    assert depth_of(b'"[') == 0  # no end: no JSON, whatever is in it
    assert depth_of(b'{"path": "C:\\\\", "more": [[]]}') == 3
    assert depth_of(b'{"text": "a\n[[[["}') == 1


@pytest.mark.alone
@pytest.mark.parametrize("body", [b'"\\' * 500_000, b'"' * 1_000_001, b"\\" * 1_000_000, b"[" * 1_000_000])
def test_counting_the_depth_takes_linear_time(body):
    began = time.process_time()
    depth_of(body)
    assert time.process_time() - began < 1.0


def test_serving_ends_when_the_cluster_does(tmp_path):
    async def work():
        async with podium.connect_async(data=tmp_path / "data", cluster="inprocess") as engine:
            serving = asyncio.create_task(serve_http(engine, "127.0.0.1", 0, []))
            await asyncio.sleep(0)
            engine.core._shut(EngineClosed(reason="the cluster was shut down"))
            with pytest.raises(EngineClosed, match="was shut down"):
                await serving

    run(work())


def test_tokens_are_kept_as_hashes_that_only_their_owner_may_read(tmp_path):
    tokens = Tokens(tmp_path)
    secret, made = tokens.create("ada", max_priority=5)
    assert tokens.find(secret) == made and tokens.find(secret + "x") is None
    for path in tmp_path.iterdir():
        assert secret.removeprefix("podium_") not in path.read_bytes().decode(errors="replace")
        assert path.stat().st_mode & 0o777 == 0o600


# leaving


@pytest.mark.parametrize(("name", "status"), [("left", "cancelled"), ("slow", "completed")])
def test_a_call_that_its_client_gives_up_cancels_or_goes_on_as_the_workflow_says(tmp_path, name, status):
    async def work():
        async with served(tmp_path, SLOW, EITHER) as (url, engine):
            async with client_of(url, token_of(tmp_path, "ada")) as client:
                with pytest.raises(MCPError):
                    await client.call_tool(name, {"s": 3}, read_timeout_seconds=1.0)
                for _ in range(100):
                    if await (await engine.tasks())[0].read_status() == status:
                        break
                    await asyncio.sleep(0.1)
                return await (await engine.tasks())[0].read_status()

    assert run(work()) == status


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_killed_server_loses_no_task_and_another_one_answers_for_it(tmp_path):
    """`podium up`, `podium mcp --http`, kill -9 in the middle of a task, and `podium mcp --http` again."""
    (tmp_path / "talk.yaml").write_text("name: talk\nroot: {sequence: [tests.sample:slow_speech]}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_NUM_CPUS": "2"}

    def command(*words):
        done = [sys.executable, "-m", "podium", *words]
        return subprocess.run(
            done, cwd=tmp_path, env=environment, check=True, timeout=90, capture_output=True, text=True
        )

    def serve(*words):
        started = [sys.executable, "-m", "podium", "mcp", "--http", "--port", str(port), *words]
        return subprocess.Popen(started, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    command("up")
    try:
        secret = command("token", "create", "ada").stdout.strip()
        with socket.create_server(("127.0.0.1", 0)) as place:
            port = place.getsockname()[1]
        url = f"http://127.0.0.1:{port}/mcp"
        with serve("talk.yaml") as first:
            id, before = run(begin(url, secret))
            os.kill(first.pid, signal.SIGKILL)
        with serve() as second:
            try:
                story, done = run(go_on(url, secret, id, before))
            finally:
                second.kill()
        assert 0 < len(before) < 40
        assert [event["offset"] for event in story] == list(range(len(story)))
        assert [event["value"] for event in story if event["kind"] == "chunk"] == [f"w{n}" for n in range(40)]
        assert done["status"] == "completed"
    finally:
        command("down")


async def begin(url, secret):
    """Start a task, and read a part of its stream."""
    await until_up(url, secret)
    _, made = await post(url, secret, "tools/call", {"name": "talk", "arguments": {"words": 40}})
    id = made["result"]["taskId"]
    while len(page := (await events_of(url, secret, id, 0))["events"]) < 5:
        await asyncio.sleep(0.1)
    return id, page


async def go_on(url, secret, id, story):
    await until_up(url, secret)
    is_over = False
    while not is_over:
        page = await events_of(url, secret, id, len(story))
        story, is_over = story + page["events"], page["ended"]
    return story, await ended(url, secret, id)


async def until_up(url, secret):
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        with contextlib.suppress(httpx2.TransportError):
            if (await post(url, secret, "tools/list"))[0] == 200:
                return
        await asyncio.sleep(0.2)
    raise AssertionError("the server does not come up")


async def events_of(url, secret, id, since):
    while True:
        _, answer = await post(url, secret, "resources/read", {"uri": f"task://{id}/events?from={since}"})
        page = json.loads(answer["result"]["contents"][0]["text"])
        if page["events"] or page["ended"]:
            return page
        await asyncio.sleep(0.1)


def test_a_step_of_a_tree_in_the_middle_is_named_in_the_progress(tmp_path):
    from podium.cluster.gateways.mcp.tools import progress_of

    async def work():
        tree = Workflow("tree", Sequence(sample.echo, Sequence(Step(sample.slow, name="files"), name="context")))
        async with podium.connect_async(data=tmp_path / "data", cluster="inprocess") as engine:
            task = await engine.submit(tree, {"s": 30})
            async for event in task.events():
                if event.kind == "started" and event.step == "context/files":
                    break
            return progress_of(engine.core.reader.find_task(task.id))

    assert run(work()) == (1, 2, "1/2 steps, running context.files")
