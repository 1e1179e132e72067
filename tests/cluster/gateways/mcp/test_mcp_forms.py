"""What clients of MCP are given: schemas they can use, results they can hold, and refusals at the door."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from datetime import UTC, datetime

import httpx2
import jsonschema
import numpy as np
import pytest
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

import podium
from podium import Sequence, Workflow
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.gateways.mcp import server as gateway
from podium.cluster.gateways.mcp.pages import page_of
from podium.cluster.gateways.mcp.tools import Published
from podium.cluster.gateways.mcp.wrapping import given_out, plain_object
from podium.cluster.tokens import Tokens
from podium.errors import InvalidDefinition, InvalidInput
from podium.protocols.schemas import misfit
from podium.protocols.values import check_value
from tests import sample
from tests.support.mcp_service import DOUBLE, GENERATIONS, client_of, post, run, served, token_of

pytestmark = pytest.mark.timeout(90)
CHOICES = {"anyOf", "oneOf", "allOf", "not", "enum", "const", "$ref", "if"}


def tool_of(schema, output=None):
    return Published({"name": "w", "interface": {"input": schema, "output": output or {}}}).tool()


# schemas

NODE = {"type": "object", "properties": {"v": {}, "next": {"$ref": "#/$defs/Node"}}, "required": ["v"]}
WRAPPED = [
    ({"$defs": {"s": {"type": "string"}}, "$ref": "#/$defs/s"}, "x", 1),
    ({"$defs": {"s": {"type": "array", "items": {"$ref": "#"}}}, "$ref": "#/$defs/s"}, [[]], [1]),
    ({"definitions": {"a b": {"type": "null"}}, "anyOf": [{"$ref": "#/definitions/a%20b"}]}, None, 1),
    ({"definitions": {"a/b": {"type": "null"}}, "items": {"$ref": "#/definitions/a~1b"}}, [None], [1]),
    ({"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]}}, [[1], 2], ["x"]),
    ({"type": "array", "prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}]}, [1, 1], [1, 2]),
    ({"$id": "urn:x", "type": ["array", "null"], "items": {"$ref": "#"}}, [None, [None]], [1]),
    ({"items": {"$id": "urn:y", "type": ["array", "null"], "items": {"$ref": "#"}}}, [[None]], [1]),
    ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 2}),
    ({"type": "object", "not": {"required": ["a"]}}, {"b": 1}, {"a": 1}),
    ({"type": "object", "allOf": [{"required": ["a"]}]}, {"a": 1}, {}),
    ({"enum": [{"$ref": "#"}, 2]}, {"$ref": "#"}, 3),
    ({"type": "string", "default": {"$ref": "#/nowhere"}}, "x", 1),
    (
        {"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/properties/%24ref"}}},
        {"$ref": "x", "a": "y"},
        {"a": 1},
    ),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "integer"}, 1, "x"),
    ({}, [1], None),
]


@pytest.mark.parametrize(("schema", "good", "bad"), WRAPPED)
def test_an_input_that_is_no_plain_object_is_wrapped_with_its_references(schema, good, bad):
    assert misfit(good, schema) is None
    listed = tool_of(schema).input_schema
    assert listed["type"] == "object" and not CHOICES & set(listed)
    jsonschema.Draft202012Validator.check_schema(listed)
    assert misfit({"input": good}, listed) is None
    assert Published({"name": "w", "input": schema}).input_of({"input": good}) == good
    if schema:
        assert misfit(bad, schema) is not None
        with pytest.raises(InvalidInput, match=r"arguments\.input"):
            Published({"name": "w", "input": schema}).input_of({"input": bad})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
        {"$defs": {"Node": NODE}, "$ref": "#/$defs/Node"},
        {"definitions": {"Node": {**NODE, "properties": {"next": {"$ref": "#"}}}}, "$ref": "#/definitions/Node"},
    ],
)
def test_an_object_that_may_hold_itself_is_the_arguments(schema):
    listed = tool_of(schema).input_schema
    assert listed["type"] == "object" and not CHOICES & set(listed)
    value = {"v": 1, "n": 2, "next": {"v": 2, "next": {"v": 3}}}
    assert Published({"name": "w", "input": schema}).input_of(value) == value
    if "$ref" in schema:
        assert misfit({"v": 1, "next": {"next": {}}}, listed) is not None


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}])
def test_a_schema_without_an_end_is_said_to_be_one(schema):
    assert plain_object(schema) is None
    assert "without end" in misfit(1, schema)[1]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/nowhere"},
        {"properties": {"a": {"items": {"$ref": "#/definitions/x"}}}},
        {"prefixItems": [{"$ref": "#/prefixItems/7"}]},
    ],
)
def test_a_reference_that_leads_nowhere_is_found_when_the_workflow_is_made(schema):
    with pytest.raises(InvalidDefinition, match="there is no '#/"):
        Workflow("w", Sequence(sample.add), input=schema)


def test_no_reference_is_fetched():
    assert "leads nowhere" in misfit(1, {"$ref": "http://127.0.0.1:1/schema.json"})[1]
    assert "leads nowhere" in misfit(1, {"$ref": "file:///etc/passwd"})[1]


OUTPUTS = [
    ({"type": "number", "minimum": 0}, math.inf),
    ({"type": "number", "minimum": 0}, 1.5),
    ({"type": "array", "items": {"type": "number"}}, [1, math.nan]),
    ({"anyOf": [{"type": "number"}, {"type": "null"}]}, -math.inf),
    ({"type": ["number", "null"]}, math.nan),
    ({"type": "string", "format": "binary"}, b"\xff"),
    ({"$defs": {"P": {"properties": {"x": {"type": "number"}}}}, "$ref": "#/$defs/P"}, {"x": math.nan}),
    ({"type": "string", "format": "date-time"}, datetime(2026, 1, 2, tzinfo=UTC)),
]


@pytest.mark.parametrize(("schema", "value"), OUTPUTS)
def test_results_fit_the_schema_that_the_tool_says(schema, value):
    from podium.cluster.gateways.mcp.tools import said

    listed = tool_of({}, schema).output_schema
    answer = said("", {"task_id": "t", "status": "completed", "result": value}).structured_content
    checker = jsonschema.Draft202012Validator(listed, format_checker=jsonschema.FormatChecker())
    checker.validate(json.loads(json.dumps(answer, allow_nan=False)))
    assert misfit("no such number", given_out({"type": "number"})) is not None


# results


class Measured(BaseModel):
    mean: float
    raw: bytes
    at: datetime


@podium.protocol
async def measure(input) -> Measured:
    return Measured(mean=math.nan, raw=b"\xff\x00", at=datetime(2026, 1, 2, tzinfo=UTC))


@podium.protocol
async def worst(input) -> float:
    return -math.inf


@podium.protocol
async def long(input):
    return {"rows": [{"n": n, "text": "x" * 50} for n in range(input["n"])]}


@pytest.mark.parametrize("mode", GENERATIONS)
def test_no_result_is_lost_for_what_json_cannot_hold(tmp_path, mode):
    flows = [Workflow("measure", Sequence(measure)), Workflow("worst", Sequence(worst))]

    async def work():
        async with served(tmp_path, *flows) as (url, _), client_of(url, token_of(tmp_path, "ada"), mode) as client:
            await client.list_tools()
            measured = await client.call_tool("measure", {"input": None})
            worst = await client.call_tool("worst", {"input": None})
            return measured, worst

    measured, lowest = run(work())
    assert measured.structured_content["result"] == {"mean": "NaN", "raw": "/wA=", "at": "2026-01-02T00:00:00Z"}
    assert json.loads(measured.content[0].text) == measured.structured_content["result"]
    assert lowest.structured_content["result"] == "-Infinity" and lowest.content[0].text == '"-Infinity"'


def test_pages_are_the_whole_one_after_the_other():
    whole = {"a": ["é" * 7, 1, None]}
    pages = page_of(whole, 5).pages
    assert "".join(page_of(whole, 5, number).text for number in range(1, pages + 1)) == '{"a": ["ééééééé", 1, null]}'
    assert page_of("x" * 10, 10).pages == 1 and page_of("x" * 11, 10).pages == 2 and page_of("", 10).pages == 1
    assert page_of("x" * 11, 0).text == "x" * 11
    for number in (0, 3):
        with pytest.raises(InvalidInput, match="has 2 pages"):
            page_of("x" * 11, 10, number)


@pytest.mark.parametrize("mode", GENERATIONS)
def test_a_large_result_comes_in_pages(tmp_path, mode):
    flow = Workflow("long", Sequence(long), input={"type": "object"})

    async def work():
        async with (
            served(tmp_path, flow, mcp_page_chars=1000) as (url, _),
            client_of(url, token_of(tmp_path, "ada"), mode) as client,
        ):
            await client.list_tools()
            first = await client.call_tool("long", {"n": 50})
            assert "result" not in first.structured_content
            pages, id = first.structured_content["pages"], first.structured_content["task_id"]
            assert pages == 4 and f"get_task with task_id {id} and page 2" in first.content[1].text
            texts = [first.content[0].text]
            for page in range(2, pages + 1):
                texts.append((await client.call_tool("get_task", {"task_id": id, "page": page})).content[0].text)
            assert len(json.loads("".join(texts))["rows"]) == 50
            last = await client.read_resource(f"task://{id}/result?page=4")
            assert json.loads(last.contents[0].text)["text"] == texts[3]
            assert json.loads((await client.read_resource(f"task://{id}")).contents[0].text)["pages"] == 4
            beyond = await client.call_tool("get_task", {"task_id": id, "page": 5})
            assert beyond.is_error and "has 4 pages" in beyond.content[0].text
            with pytest.raises(MCPError, match="at most 15 digits"):
                await client.read_resource(f"task://{id}/result?page={'9' * 5000}")
            small = await client.call_tool("long", {"n": 1})
            assert small.structured_content["result"]["rows"][0]["n"] == 0

    run(work())


# browsers, and changes of the list


@pytest.mark.parametrize(
    ("origin", "is_told"),
    [
        ("http://localhost:6274", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("http://localhost.evil.example", False),
        ("http://evil.example", False),
        ("null", False),
    ],
)
def test_a_browser_is_told_which_pages_may_talk_to_the_server(tmp_path, origin, is_told):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _), httpx2.AsyncClient() as http:
            wanted = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,mcp-protocol-version,mcp-method,mcp-name",
            }
            preflight = await http.options(url, headers=wanted)
            assert preflight.is_success == is_told
            assert preflight.headers.get("access-control-allow-origin") == (origin if is_told else None)
            if is_told:
                assert "mcp-method" in preflight.headers["access-control-allow-headers"]
                assert "DELETE" in preflight.headers["access-control-allow-methods"]
            refused = await http.post(url, headers={"Origin": origin}, json={})
            assert refused.status_code in (401, 403)
            assert refused.headers.get("access-control-allow-origin") == (origin if is_told else None)
            status, _ = await post(url, token_of(tmp_path, "ada"), "tools/list", Origin=origin)
            assert status == (200 if is_told else 403)

    run(work())


@pytest.mark.parametrize("mode", GENERATIONS)
def test_what_the_server_says_of_itself_is_true(tmp_path, mode):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            if mode == "legacy":
                async with client_of(url, token_of(tmp_path, "ada"), mode) as client:
                    return client.server_capabilities.model_dump(by_alias=True, exclude_none=True)
            _, body = await post(url, token_of(tmp_path, "ada"), "server/discover")
            return body["result"]["capabilities"]

    said = run(work())
    assert said["tools"] == {"listChanged": True}
    assert said["resources"] == {"subscribe": False, "listChanged": False}


def test_clients_that_listen_are_told_once_of_a_change_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "LOOK_S", 0.1)

    async def work():
        heard = []

        async def hear(message):
            heard.append(str(getattr(message, "method", "")))

        async with served(tmp_path, DOUBLE) as (url, engine):
            token = token_of(tmp_path, "ada")
            async with (
                client_of(url, token, message_handler=hear) as first,
                client_of(url, token, message_handler=hear) as second,
                client_of(url, token, message_handler=hear),
            ):
                await asyncio.gather(first.list_tools(), second.list_tools())
                await engine.deploy(Workflow("double", DOUBLE.root, input=DOUBLE.input, description="says more"))
                await asyncio.sleep(1.5)
        return heard

    assert run(work()) == ["notifications/tools/list_changed"] * 2


# numbers at the door


@pytest.mark.parametrize("priority", [10**30, -(10**30), 2**53 + 1, 1.5, "high", True, [1], math.nan])
def test_a_priority_that_fits_no_message_is_refused_and_harms_nobody(tmp_path, priority):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            async with (
                client_of(url, token_of(tmp_path, "ada")) as ada,
                client_of(url, token_of(tmp_path, "bob")) as bob,
            ):
                calls = [bob.call_tool("double", {"n": n}) for n in range(5)]
                wrong = ada.call_tool("double", {"n": 1}, meta={"podium/priority": priority})
                found = await asyncio.gather(*calls, wrong, return_exceptions=True)
        return found

    *good, wrong = run(work())
    assert [each.structured_content["result"]["n"] for each in good] == [1, 2, 3, 4, 5]
    assert isinstance(wrong, MCPError) and "_meta.podium/priority" in str(wrong)


@pytest.mark.parametrize("priority", [2**53 + 1, -(10**30)])
def test_a_token_has_no_priority_that_fits_no_message(tmp_path, priority):
    with pytest.raises(InvalidInput, match="max_priority"):
        Tokens(tmp_path).create("ada", max_priority=priority)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("wait_task", {"task_id": "t-1", "timeout_s": 10**400}),
        ("wait_task", {"task_id": "t-1", "timeout_s": -1}),
        ("list_tasks", {"limit": 10**30}),
        ("get_task", {"task_id": "t-1", "page": 10**30}),
        ("double", {"n": 10**30}),
    ],
)
def test_numbers_of_any_size_end_their_own_call(tmp_path, tool, arguments):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _), client_of(url, token_of(tmp_path, "ada")) as client:
            wrong = await asyncio.wait_for(client.call_tool(tool, arguments), 20)
            assert wrong.is_error
            assert (await client.call_tool("double", {"n": 1})).structured_content["result"] == {"n": 2}

    run(work())


@pytest.mark.parametrize(
    ("tool", "arguments", "where"),
    [
        ("double", '{"n": NaN}', "arguments.n"),
        ("double", '{"n": 1, "more": [{"x": -Infinity}]}', "arguments.more[0].x"),
        ("wait_task", '{"task_id": "t-1", "timeout_s": NaN}', "arguments.timeout_s"),
        ("double", '{"n": 1e999}', "arguments.n"),
    ],
)
def test_a_number_that_json_has_not_is_refused_with_its_place(tmp_path, tool, arguments, where):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            ours = "io.modelcontextprotocol"
            meta = json.dumps({f"{ours}/protocolVersion": "2026-07-28", f"{ours}/clientCapabilities": {}})
            params = f'{{"name": "{tool}", "arguments": {arguments}, "_meta": {meta}}}'
            headers = {
                "Authorization": f"Bearer {token_of(tmp_path, 'ada')}",
                "Accept": "application/json, text/event-stream",
                "Content-Type": "application/json",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/call",
                "Mcp-Name": tool,
            }
            body = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'
            async with httpx2.AsyncClient(timeout=30) as http:
                return (await http.post(url, content=body, headers=headers)).text

    assert where in run(work())


def test_the_schemas_of_the_shipped_tools_have_no_choice_at_the_top(tmp_path):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _), client_of(url, token_of(tmp_path, "ada")) as client:
            for tool in (await client.list_tools()).tools:
                assert tool.input_schema["type"] == "object" and not CHOICES & set(tool.input_schema)

    run(work())


def test_an_array_in_a_result_is_described():
    from podium.cluster.gateways.mcp.tools import said

    value = check_value({"image": np.zeros((2, 3))}, "output")
    answer = said("", {"task_id": "t", "status": "completed", "result": value})
    described = answer.structured_content["result"]["image"]
    assert described["$type"] == "numpy.ndarray" and described["shape"] == [2, 3]


# large texts


@podium.protocol
async def large(input):
    array = np.zeros((100, 100))
    told = {"text": "é" * 3_000, "list": [podium.Lazy(["n"] * 2_000)], "array": array, "raw": b"r" * 5_000}
    return told if input["all"] else told["text"]


LARGE = Workflow("large", Sequence(large), input={"type": "object"})


async def pages_of(client, first):
    id, texts = first.structured_content["task_id"], [first.content[0].text]
    for page in range(2, first.structured_content["pages"] + 1):
        texts.append((await client.call_tool("get_task", {"task_id": id, "page": page})).content[0].text)
    return "".join(texts)


@pytest.mark.parametrize("mode", GENERATIONS)
def test_a_stored_text_is_given_as_the_text_and_an_array_as_its_description(tmp_path, monkeypatch, mode):
    threads = set()
    read = FolderBlobs.get

    def get(store, key):
        threads.add(threading.current_thread())
        return read(store, key)

    monkeypatch.setattr(FolderBlobs, "get", get)

    async def work():
        async with (
            served(tmp_path, LARGE, mcp_page_chars=1000, inline_bytes=1024) as (url, _),
            client_of(url, token_of(tmp_path, "ada"), mode) as client,
        ):
            text = await client.call_tool("large", {"all": False})
            assert text.structured_content["chars"] == 3_000
            assert await pages_of(client, text) == "é" * 3_000
            id = text.structured_content["task_id"]
            waited = await client.call_tool("wait_task", {"task_id": id, "page": 3})
            read = await client.read_resource(f"task://{id}/result?page=3")
            assert waited.content[0].text == json.loads(read.contents[0].text)["text"] == "é" * 1_000
            assert json.loads((await client.read_resource(f"task://{id}")).contents[0].text)["pages"] == 3
            whole = json.loads(await pages_of(client, await client.call_tool("large", {"all": True})))
            assert (whole["text"], whole["list"]) == ("é" * 3_000, [["n"] * 2_000])
            assert [whole[name]["$type"] for name in ("array", "raw")] == ["numpy.ndarray", "bytes"]
            assert whole["array"]["shape"] == [100, 100]

    run(work())
    assert threads and threading.main_thread() not in threads


def test_a_client_that_knows_tasks_gets_a_stored_text_whole(tmp_path):
    async def work():
        async with served(tmp_path, LARGE, mcp_page_chars=0, inline_bytes=1024) as (url, engine):
            token = token_of(tmp_path, "ada")
            task = await engine.submit(LARGE, {"all": False}, user="ada")
            await task.wait()
            _, body = await post(url, token, "tasks/get", {"taskId": task.id})
            return body["result"]["result"]

    told = run(work())
    assert told["structuredContent"]["result"] == told["content"][0]["text"] == "é" * 3_000


def test_what_is_too_large_for_an_answer_is_described(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "MAX_READ_BYTES", 7_000)

    async def work():
        async with (
            served(tmp_path, LARGE, mcp_page_chars=0, inline_bytes=1024) as (url, _),
            client_of(url, token_of(tmp_path, "ada")) as client,
        ):
            return (await client.call_tool("large", {"all": True})).structured_content["result"]

    told = run(work())
    assert told["text"] == "é" * 3_000 and told["list"][0]["$type"] == "podium.value"


def test_a_lost_text_is_an_error_without_the_place_of_the_store(tmp_path):
    async def work():
        async with (
            served(tmp_path, LARGE, inline_bytes=1024) as (url, engine),
            client_of(url, token_of(tmp_path, "ada")) as client,
        ):
            task = await engine.submit(LARGE, {"all": False}, user="ada")
            await task.wait()
            for path in (tmp_path / "data" / "blobs").glob("??/*"):
                path.unlink()
            for call in (
                client.call_tool("get_task", {"task_id": task.id}),
                client.read_resource(f"task://{task.id}/result"),
            ):
                with pytest.raises(MCPError, match=r"^blob_missing: see the log of the server$"):
                    await call

    run(work())
