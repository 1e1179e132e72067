"""An MCP server over HTTP with an engine behind it, and clients of both generations."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import httpx2
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

import podium
from podium import Sequence, Workflow
from podium.cluster.gateways.mcp import server as gateway
from podium.cluster.gateways.mcp.serving import http_app
from podium.cluster.gateways.mcp.tasks import EXTENSION
from podium.cluster.tokens import Tokens
from tests import sample

GENERATIONS = ["legacy", "2026-07-28"]
DOUBLE = Workflow("double", Sequence(sample.add), input={"type": "object", "properties": {"n": {"type": "integer"}}})


@contextlib.asynccontextmanager
async def served(tmp_path, *workflows, call_s=gateway.CALL_S, **settings):
    """A server over HTTP with an engine behind it: (url, engine)."""
    async with podium.connect_async(data=tmp_path / "data", cluster="inprocess", source="mcp", **settings) as engine:
        for workflow in workflows:
            await engine.deploy(workflow)
        with socket.create_server(("127.0.0.1", 0)) as place:
            config = uvicorn.Config(http_app(engine, call_s=call_s), log_level="error", lifespan="on")
            serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[place]))
            url = f"http://127.0.0.1:{place.getsockname()[1]}/mcp"
            try:
                yield url, engine
            finally:
                serving.cancel()
                await asyncio.wait([serving])


def token_of(tmp_path, user, **settings):
    return Tokens(tmp_path / "data").create(user, **settings)[0]


@contextlib.asynccontextmanager
async def client_of(url, token, mode="legacy", **settings):
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=40)
    async with http, Client(streamable_http_client(url, http_client=http), mode=mode, **settings) as client:
        yield client


async def post(url, token, method, params=None, tasks=True, asks=False, **headers):
    """One request of the newer generation, by hand: (HTTP status, body). Whether the client knows tasks, and forms."""
    capabilities = ({"extensions": {EXTENSION: {}}} if tasks else {}) | ({"elicitation": {}} if asks else {})
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    params = {**(params or {}), "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    named = params.get("name") or params.get("uri") or params.get("taskId")
    sent = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
        **({"Mcp-Name": named} if named else {}),
        **headers,
    }
    async with httpx2.AsyncClient(timeout=40) as http:
        answer = await http.post(url, json=body, headers=sent)
    text = answer.text
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        text = [line for line in text.splitlines() if line.startswith("data: {")][-1].removeprefix("data: ")
    return answer.status_code, json.loads(text) if text.startswith("{") else text


def run(work):
    return asyncio.run(asyncio.wait_for(work, 80))
