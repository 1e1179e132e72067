"""Tools of other MCP servers as steps: ours is the other server here, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace

import pytest

import podium
from podium import Sequence, Step, Workflow
from podium.errors import TaskFailed
from podium.protocols.library.mcp_tool import McpTool
from tests.support import ROOT
from tests.support.mcp_service import DOUBLE, run, served, token_of

pytestmark = pytest.mark.timeout(90)
CALL = Step(McpTool, with_={"server": "input.server", "tool": "input.tool", "arguments": "input.arguments"})
WORKFLOW = Workflow("calls", Sequence(CALL))


def asked(tool="flow", arguments=None, server="other"):
    return {"server": server, "tool": tool, "arguments": arguments if arguments is not None else {"n": 1}}


@pytest.fixture
def engine(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "flow.yaml").write_text("name: flow\nroot: {sequence: [tests.sample:add]}\n")
    (other / "bad.yaml").write_text("name: bad\nroot: {sequence: [tests.sample:fail]}\n")
    command = [sys.executable, "-m", "podium", "mcp", str(other / "flow.yaml"), str(other / "bad.yaml"), "--in-process"]
    where = {"command": [*command, "--data", str(other / "data")], "env": {"PYTHONPATH": str(ROOT), "HOME": str(other)}}
    broken = {"command": [sys.executable, "-c", "raise SystemExit(3)"]}
    grants = {"bob": {"tools": ["other.flow"]}}
    config = {"mcp": {"other": where, "broken": broken}, "requests": {"grants": grants}}
    with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config) as engine:
        yield engine


def test_a_tool_of_a_server_on_stdio_is_a_step(engine):
    task = engine.submit(WORKFLOW, asked())
    assert task.result(timeout_s=60)["result"] == {"n": 2}
    again = [each.result(timeout_s=60)["result"]["n"] for each in engine.submit_many(WORKFLOW, [asked()] * 10)]
    assert again == [2] * 10


def test_what_the_tool_says_of_its_failure_is_the_steps(engine):
    with pytest.raises(TaskFailed, match=r"McpToolFailed: other.bad: ValueError in step 'fail'"):
        engine.submit(WORKFLOW, asked("bad", {"input": 1})).result(timeout_s=60)


def test_a_call_that_takes_too_long_leaves_the_others_on_its_connection_alone(monkeypatch):
    from podium.protocols.library import mcp_connection, mcp_tool

    class Slow:
        session = property(lambda self: self)

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_error):
            pass

        async def list_tools(self, params):
            pass

        async def send_request(self, request, _kind):
            await asyncio.sleep(request.params.arguments["s"])
            return SimpleNamespace(content=[], is_error=False, structured_content=request.params.arguments)

    async def client(_self, _stack):
        return Slow()

    monkeypatch.setattr(mcp_connection.Connection, "_client", client)
    grants = {"*": {"tools": ["*"]}}
    context = podium.Context(user="ada", config={"mcp": {"s": {"command": ["x"]}}, "requests": {"grants": grants}})

    async def work():
        tool = McpTool()
        asked = [mcp_tool.ToAsk(server="s", tool="t", arguments={"s": s}, timeout_s=t) for s, t in ((0.4, 5), (9, 0.1))]
        found = await asyncio.gather(*(tool.run(context, each) for each in asked), return_exceptions=True)
        await tool.stop()
        return found

    patient, hasty = asyncio.run(work())
    assert patient == {"s": 0.4}
    assert str(hasty) == "s.t gave no answer in 0.1 s"


def test_a_server_that_does_not_come_up_is_tried_again_and_told_of(engine):
    task = engine.submit(WORKFLOW, asked(server="broken"), priority=1)
    kinds = [event.kind for event in task.events()]
    assert kinds.count("retrying") == 2
    with pytest.raises(TaskFailed, match="McpUnreachable: broken"):
        task.result(timeout_s=60)


@pytest.mark.parametrize(
    ("wish", "user", "says"),
    [
        (asked(server="nowhere"), None, "no server 'nowhere' in config.mcp; there are other, broken"),
        (asked("bad"), "bob", "the tool 'other.bad' is not granted to user 'bob'"),
        (asked(), "eve", "the tool 'other.flow' is not granted to user 'eve'"),
    ],
)
def test_only_what_is_configured_and_granted_is_called(engine, wish, user, says):
    with pytest.raises(TaskFailed, match=says):
        engine.submit(WORKFLOW, wish, user=user).result(timeout_s=60)


def test_a_tool_of_a_server_over_http_is_called_with_its_token(tmp_path, monkeypatch):
    async def work():
        async with served(tmp_path, DOUBLE) as (url, _):
            monkeypatch.setitem(os.environ, "OTHER_TOKEN", token_of(tmp_path, "ada"))
            config = {"mcp": {"other": {"url": url, "token_env": "OTHER_TOKEN"}}}
            async with podium.connect_async(data=tmp_path / "own", cluster="inprocess", config=config) as engine:
                task = await engine.submit(WORKFLOW, asked("double", {"n": 4}))
                return await asyncio.wait_for(task.result(), 30)

    assert run(work())["result"] == {"n": 5}
