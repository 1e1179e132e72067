"""McpTool against servers of all kinds: each call's fault is its own, and what has run is not called again."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import podium
from podium.protocols.library import mcp_connection, mcp_content, mcp_tool
from podium.protocols.library.mcp_tool import McpTool, ToAsk
from tests.support import ROOT

pytestmark = pytest.mark.timeout(60)

SERVER = ROOT / "tests/support/odd_mcp_server.py"


class Bench:
    """One McpTool, and a server that does as it is told."""

    def __init__(self, folder, **settings):
        command = [sys.executable, str(SERVER), str(folder)]
        grants = {"*": {"tools": ["*"]}}
        servers = {"s": {"command": command, **settings}} if "url" not in settings else {"s": settings}
        self.context = podium.Context(user="ada", config={"mcp": servers, "requests": {"grants": grants}})
        self.tool, self.folder = McpTool(), folder

    async def call(self, name, arguments=None, timeout_s=5.0, **more):
        asked = ToAsk(server="s", tool=name, arguments=arguments or {}, timeout_s=timeout_s, **more)
        return await self.tool.run(self.context, asked)

    def count(self, name):
        path = Path(self.folder, name)
        return len(path.read_text().split()) if path.exists() else 0


def bench(work, folder, **settings):
    async def whole():
        made = Bench(folder, **settings)
        try:
            return made, await work(made)
        finally:
            await made.tool.stop()

    return asyncio.run(asyncio.wait_for(whole(), 50))


FAULTS = {
    "untold": ("McpAnswerUnfit", "it has an output schema, and gave no data but text"),
    "unfit": ("McpAnswerUnfit", r"its data does not fit its own schema: \$\.x: 'one' is not of type 'integer'"),
    "odd": ("McpAnswerUnfit", "'#/\\$defs/none' leads nowhere|leads nowhere"),
    "null": ("McpAnswerUnfit", "no message"),
    "list": ("McpAnswerUnfit", "no message"),
    "cut": ("McpAnswerUnfit", "no message: .*EOF"),
    "pair": ("McpAnswerUnfit", "no message"),
    "halftext": ("McpAnswerUnfit", r"none of the protocol's: \$\.content"),
    "long": ("McpAnswerUnfit", "at most 4096 are taken"),
    "rpc": ("McpToolFailed", "quota of the day is used up"),
    "internal": ("McpToolFailed", "KeyError: 'x'"),
    "wrong": ("McpToolFailed", '"why": "locked", "until": 7'),
    "nocontent": ("McpToolFailed", '"why": "no content key"'),
    "nothing": ("McpToolFailed", "no tool nothing"),
    "mute": ("McpTooSlow", "no answer in 0.5 s"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_call_that_ran_fails_once_and_leaves_the_others_alone(tmp_path, name):
    kind, says = FAULTS[name]

    async def work(on):
        await on.call("ok")
        patient = asyncio.create_task(on.call("slow"))
        await asyncio.sleep(0.05)
        with pytest.raises(Exception, match=says) as caught:
            await on.call(name, timeout_s=0.5 if name == "mute" else 5.0)
        assert type(caught.value).__name__ == kind
        assert kind not in (*McpTool.retry.only, *McpTool.breaker.counts)
        assert await patient == "slow" and await on.call("ok") == "fine"

    on, _ = bench(work, tmp_path, max_message_bytes=4096)
    assert on.count("starts") == 1 and on.count(f"ran-{name}") == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("print", "printed"),
        ("noise", "after noise"),
        ("latin1", "caf\ufffd"),
        ("unknown", "after unknown"),
        ("widget", "[widget, left out]\nbeside\n[int, left out]"),
        ("data", {"x": 1}),
        ("fits", {"x": 1}),
    ],
)
def test_what_can_be_read_of_an_answer_is_read(tmp_path, name, found):
    async def work(on):
        patient = asyncio.create_task(on.call("slow"))
        assert await on.call(name) == found
        assert await patient == "slow"

    assert bench(work, tmp_path)[0].count("starts") == 1


def test_tools_that_change_are_listed_again(tmp_path):
    async def work(on):
        assert [await on.call("late"), await on.call("grow")] == ["late", "grown"]
        with pytest.raises(mcp_tool.McpAnswerUnfit, match="gave no data"):
            await on.call("late")

    assert bench(work, tmp_path)[0].count("starts") == 1


def test_a_call_that_is_given_up_leaves_the_others_alone(tmp_path):
    async def work(on):
        await on.call("ok")
        patient, given_up = asyncio.create_task(on.call("slow")), asyncio.create_task(on.call("mute"))
        await asyncio.sleep(0.1)
        given_up.cancel()
        return await patient, await on.call("ok")

    on, found = bench(work, tmp_path)
    assert found == ("slow", "fine") and on.count("starts") == 1


def test_arguments_are_in_jsons_forms(tmp_path):
    given = {"b": b"\xff", "at": datetime(2026, 1, 2, tzinfo=UTC), "n": [math.nan, 1e22], "t": "🚀\u2028\x00"}

    async def work(on):
        return json.loads(await on.call("echo", given))

    assert bench(work, tmp_path)[1] == {"b": "/w==", "at": "2026-01-02T00:00:00Z", "n": ["NaN", 1e22], "t": given["t"]}


def test_what_is_left_out_beside_data_is_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO, "podium.protocol")
    bench(lambda on: on.call("fits"), tmp_path)
    assert "s.fits: left out beside its data: image image/png 3 bytes" in caplog.text


def test_a_server_whose_list_cannot_be_read_is_called_all_the_same(tmp_path):
    assert bench(lambda on: on.call("ok"), tmp_path, env={"BROKEN_LIST": "1"})[1] == "fine"


@pytest.mark.parametrize(("name", "kind"), [("die", "McpInterrupted"), ("dieread", "McpUnreachable")])
def test_a_server_that_dies_in_a_call_is_said_to_and_only_what_does_no_harm_is_called_again(tmp_path, name, kind):
    async def work(on):
        await on.call("ok")
        with pytest.raises(ConnectionError, match=r"exit code 3; it said: out of memory") as caught:
            await on.call(name)
        assert type(caught.value).__name__ == kind
        return await on.call("ok")

    on, found = bench(work, tmp_path)
    assert found == "fine" and on.count("starts") == 2
    assert "McpInterrupted" not in McpTool.retry.only and kind in McpTool.breaker.counts


DEAD = {
    "import no_such_module": "exit code 1; it said: .*ModuleNotFoundError: No module named 'no_such_module'",
    "import sys; sys.exit('no such key \\x1b[31mred')": "exit code 1; it said: no such key red",
    "import os; os.kill(os.getpid(), 9)": "ended by SIGKILL",
    "print('hello'); import sys; sys.stderr.write('z' * 100_000 + 'end')": "exit code 0; it said: z+end",
    "raise SystemExit(3)": "exit code 3",
}


@pytest.mark.parametrize("program", DEAD)
def test_what_a_server_says_that_does_not_start_is_the_error(tmp_path, program):
    async def work(on):
        with pytest.raises(mcp_tool.McpUnreachable, match=f"(?s)^s: .*{DEAD[program]}"):
            await on.call("ok")

    bench(work, tmp_path, command=[sys.executable, "-c", program])


def test_a_server_that_says_nothing_is_given_up_with_what_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(mcp_connection, "CONNECT_S", 0.5)
    program = "import sys, time; sys.stderr.write('waiting for a licence'); sys.stderr.flush(); time.sleep(60)"

    async def work(on):
        with pytest.raises(mcp_tool.McpUnreachable, match=r"no answer within 0.5 s \(it said: waiting for a licence\)"):
            await on.call("ok")

    bench(work, tmp_path, command=[sys.executable, "-c", program])


def test_a_command_that_is_not_there_is_named(tmp_path):
    async def work(on):
        with pytest.raises(mcp_tool.McpUnreachable, match="no-such-command"):
            await on.call("ok")

    bench(work, tmp_path, command=["no-such-command"])


# content


def block(**fields):
    from mcp_types import CallToolResult

    return CallToolResult.model_validate({"content": [fields]}, by_name=False).content[0]


TEXT = block(type="text", text="hello")
DOCUMENT = block(type="resource", resource={"uri": "repo://a.md", "mimeType": "text/markdown", "text": "# A"})
IN_BYTES = block(type="resource", resource={"uri": "f://b.txt", "mimeType": "text/plain", "blob": "w6Q="})
NO_TEXT = block(type="resource", resource={"uri": "f://c.txt", "mimeType": "text/plain", "blob": "/w=="})
BINARY = block(type="resource", resource={"uri": "f://d.pdf", "mimeType": "application/pdf", "blob": "AAAA"})
IMAGE = block(type="image", data="AAAAAAAA", mimeType="image/png")
SOUND = block(type="audio", data="AAAA", mimeType="audio/wav")
LINK = block(type="resource_link", uri="https://x.example/r", name="report", description="of May", mimeType="text/csv")


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([], ""),
        ([TEXT], "hello"),
        ([DOCUMENT], "# A"),
        ([TEXT, DOCUMENT], "hello\n[resource repo://a.md]\n# A"),
        ([IN_BYTES], "ä"),
        ([NO_TEXT], "[resource f://c.txt text/plain 3 bytes, left out]"),
        (
            [BINARY, SOUND],
            "[resource f://d.pdf application/pdf 3 bytes, left out]\n[audio audio/wav 3 bytes, left out]",
        ),
        ([IMAGE], "[image image/png 6 bytes, left out]"),
        ([LINK], "[link https://x.example/r report: of May, text/csv]"),
    ],
)
def test_content_of_any_kind_is_there_or_named_as_left_out(blocks, text):
    assert mcp_content.text_of(blocks) == text


def test_everything_of_an_answer_may_be_had():
    from types import SimpleNamespace

    whole = mcp_content.everything(SimpleNamespace(structured_content={"x": 1}, content=[TEXT, IMAGE, BINARY, LINK]))
    assert whole["structured"] == {"x": 1} and whole["text"].startswith("hello\n[image")
    assert whole["blocks"][1]["data"] == base64.b64decode("AAAAAAAA")
    assert whole["blocks"][2]["resource"] == {"uri": "f://d.pdf", "mimeType": "application/pdf", "blob": b"\0\0\0"}
    assert whole["blocks"][3]["uri"] == "https://x.example/r"


# over HTTP

SEEN = []
SESSIONS = []


async def endpoint(request):
    """A server of the older protocol, one response a request; what goes wrong is said by the tool's name."""
    if request.method != "POST":
        return Response(status_code=405)
    if request.url.path == "/closed":
        return PlainTextResponse("no token", 401)
    session = request.headers.get("mcp-session-id")
    if request.url.path == "/short" and session not in (None, SESSIONS[-1]):
        return Response(status_code=404)
    asked = await request.json()
    method, id = asked["method"], asked.get("id")
    if id is None:
        return Response(status_code=202)
    tools = [{"name": "reads", "inputSchema": {"type": "object"}, "annotations": {"idempotentHint": True}}]
    version = asked.get("params", {}).get("protocolVersion")
    results = {
        "initialize": {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "h", "version": "1"},
        },
        "tools/list": {"tools": tools},
    }
    if method == "initialize":
        SESSIONS.append(f"session-{len(SESSIONS)}")
    if method in results:
        headers = {"Mcp-Session-Id": SESSIONS[-1]} if request.url.path == "/short" else None
        return JSONResponse(headers=headers, content={"jsonrpc": "2.0", "id": id, "result": results[method]})
    if method != "tools/call":
        return JSONResponse({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})
    name = asked["params"]["name"]
    SEEN.append(name)
    return await ANSWERS[name](id)


async def fine(id, delay_s=0.0, text="fine"):
    await asyncio.sleep(delay_s)
    return JSONResponse({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})


async def broken_body(id):
    async def parts():
        yield b'{"jsonrpc": "2.0", "id": 1, "resu'
        raise RuntimeError("the server dies here")

    return StreamingResponse(parts(), media_type="application/json", headers={"content-length": "9999"})


async def broken_stream(id):
    async def parts():
        yield b": hello\n\n"

    return StreamingResponse(parts(), media_type="text/event-stream")


def answers(response):
    async def answer(_id):
        return response

    return answer


ERROR = {"jsonrpc": "2.0", "id": None, "error": {"code": -32050, "message": "too much", "data": {"retryAfterMs": 1500}}}
ANSWERS = {
    "ok": fine,
    "slow": lambda id: fine(id, 0.6, "slow"),
    "body": broken_body,
    "reads": broken_body,
    "stream": broken_stream,
    "html": answers(PlainTextResponse("<html>Bad gateway</html>", 502)),
    "later": answers(PlainTextResponse("slow down", 429, headers={"Retry-After": "7"})),
    "later_ms": answers(JSONResponse(ERROR, 400)),
    "secret": answers(PlainTextResponse("who are you?", 401)),
    "nojson": answers(Response(b"{not json", media_type="application/json")),
    "gzip": answers(Response(b"no gzip", media_type="application/json", headers={"content-encoding": "gzip"})),
    "much": answers(Response(b" " * 10_000, media_type="application/json")),
    "taken": answers(Response(status_code=202)),
}


@asynccontextmanager
async def over_http():
    app = Starlette(routes=[Route("/{path}", endpoint, methods=["GET", "POST", "DELETE"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("body", "McpInterrupted", "s.body: "),
        ("reads", "McpUnreachable", "s.reads: "),
        ("stream", "McpInterrupted", "without a response"),
        ("html", "McpInterrupted", "HTTP 502 Bad Gateway: <html>Bad gateway"),
        ("later", "McpBusy", "HTTP 429 Too Many Requests: slow down"),
        ("later_ms", "McpBusy", "too much"),
        ("secret", "McpToolFailed", "HTTP 401 Unauthorized: who are you"),
        ("nojson", "McpAnswerUnfit", "JSON"),
        ("much", "McpAnswerUnfit", "more than 4096 bytes"),
        ("taken", "McpToolFailed", "202"),
        ("gzip", "McpInterrupted", "DecodingError"),
    ],
)
def test_over_http_too_a_calls_trouble_is_its_own(name, kind, says, tmp_path):
    async def whole():
        async with over_http() as url:
            on = Bench(tmp_path, url=url, max_message_bytes=4096)
            SEEN.clear()
            await on.call("ok")
            patient = asyncio.create_task(on.call("slow"))
            await asyncio.sleep(0.1)
            with pytest.raises(Exception, match=says) as caught:
                await on.call(name)
            assert type(caught.value).__name__ == kind
            assert await patient == "slow" and await on.call("ok") == "fine"
            await on.tool.stop()
            return caught.value

    error = asyncio.run(asyncio.wait_for(whole(), 40))
    assert SEEN.count(name) == 1
    if kind == "McpBusy":
        from podium.protocols.retry_after import retry_after_s

        assert retry_after_s(error, 0.0) == (7.0 if name == "later" else 1.5)


def test_a_server_that_lets_nobody_in_is_not_asked_again(tmp_path):
    async def whole():
        async with over_http() as url:
            with pytest.raises(mcp_tool.McpToolFailed, match="s: HTTP 401 Unauthorized: no token"):
                await Bench(tmp_path, url=url.replace("/mcp", "/closed")).call("ok")

    asyncio.run(asyncio.wait_for(whole(), 40))


def test_a_session_that_the_server_has_forgotten_is_made_anew(tmp_path):
    async def whole():
        async with over_http() as url:
            on = Bench(tmp_path, url=url.replace("/mcp", "/short"))
            assert await on.call("ok") == "fine"
            SEEN.clear()
            SESSIONS.append("another")
            with pytest.raises(mcp_tool.McpUnreachable, match="has ended the session"):
                await on.call("ok")
            assert SEEN == [] and await on.call("ok") == "fine"
            await on.tool.stop()

    asyncio.run(asyncio.wait_for(whole(), 40))


def test_a_server_that_is_not_there_is_unreachable_and_one_that_comes_later_is_reached(tmp_path):
    async def whole():
        on = Bench(tmp_path, url="http://127.0.0.1:9/mcp")
        with pytest.raises(mcp_tool.McpUnreachable, match="ConnectError"):
            await on.call("ok")
        async with over_http() as url:
            there = Bench(tmp_path, url=url)
            on.context = there.context
            assert await on.call("ok") == "fine"
            await on.tool.stop()

    asyncio.run(asyncio.wait_for(whole(), 40))
