"""Serves MCP: on standard input and output for the user who started it, over HTTP for clients with a token.

HTTP listens on loopback by default. Host and Origin are checked: only pages of this host can talk to the server from a
browser, and the browser is told so (CORS, https://fetch.spec.whatwg.org). A client without a token of this data
directory has access to nothing. Bodies are bounded in size and depth before they are parsed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence

import uvicorn
from mcp.server.auth.settings import AuthSettings
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...client.engine_async import AsyncEngine
from ...tokens import Tokens
from .callers import Caller, Verifier, caller_of_token
from .server import CALL_S, MAX_SESSIONS, Gateway

PATH = "/mcp"
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
"""Deepest nesting of a body's JSON."""
LOOK_S = 0.5
"""Seconds between two checks that the cluster is still there."""
END_S = 5.0
_HOW = ("http", "https")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""Matches a text or a bracket, in linear time: a text that does not end takes the rest of the body."""


async def serve_stdio(engine: AsyncEngine) -> None:
    """Serve the engine's own user until standard input ends. Raises EngineClosed if the cluster ends."""
    user = engine.settings.user
    server = Gateway(engine, lambda: Caller(user)).server()
    async with stdio_server() as (reads, writes):
        serving = asyncio.create_task(server.run(reads, writes, server.create_initialization_options()))
        await _while_there(engine, serving, serving.cancel)


async def serve_http(engine: AsyncEngine, host: str, port: int, names: Sequence[str]) -> None:
    """Serve until SIGINT or SIGTERM. `names` are further host names that clients may use for this host. Raises
    EngineClosed if the cluster ends."""
    app = http_app(engine, [*_LOOPBACK, host, *names])
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", lifespan="on", server_header=False)
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    await _while_there(engine, asyncio.create_task(server.serve()), stop)


async def _while_there(engine: AsyncEngine, serving: asyncio.Task[None], stop: Callable[[], object]) -> None:
    """Serve as long as the cluster is there."""
    while not serving.done():
        await asyncio.wait({serving}, timeout=LOOK_S)
        if engine.core.closed is not None:
            stop()
            await asyncio.wait({serving}, timeout=END_S)
            raise engine.core.closed
    await serving


def http_app(engine: AsyncEngine, names: Sequence[str] = _LOOPBACK, call_s: float = CALL_S) -> ASGIApp:
    """Return the HTTP app. `names`: host names for clients to use. `call_s`: seconds that a call waits for its task."""
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[each for name in names for each in (name, f"{name}:*")],
        allowed_origins=[f"{how}://{name}{port}" for how in _HOW for name in names for port in ("", ":*")],
    )
    server, tokens = Gateway(engine, caller_of_token, call_s).server(), Tokens(engine.settings.data)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security,
        max_request_body_size=MAX_BODY_BYTES,
        max_sessions=MAX_SESSIONS,
        auth=AuthSettings(issuer_url=AnyHttpUrl("http://localhost"), resource_server_url=None),
        token_verifier=Verifier(tokens),
    )
    return CORSMiddleware(
        _Bounded(app, tokens),
        allow_origin_regex=f"(?:{'|'.join(_HOW)})://(?:{'|'.join(map(re.escape, names))})(?::[0-9]+)?",
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Mcp-Session-Id", "WWW-Authenticate"),
    )


class _Bounded:
    """Refuses bodies that are too large or too deep before they are parsed. Without a token no body is read."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self._knows(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                await _refuse(413, f"a body has at most {MAX_BODY_BYTES} bytes", scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        if depth_of(bytes(body)) > MAX_DEPTH:
            await _refuse(400, f"a body is nested at most {MAX_DEPTH} levels deep", scope, receive, send)
            return
        await self._app(scope, _once(bytes(body), receive), send)

    def _knows(self, scope: Scope) -> bool:
        """Whether the request has a token of ours. Without one, the app behind answers 401 and reads no body."""
        said = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        kind, _, secret = said.partition(" ")
        return kind.lower() == "bearer" and self._tokens.find(secret) is not None


def depth_of(body: bytes) -> int:
    """Return the deepest nesting of brackets and braces outside texts. Counting stops when it is too deep."""
    depth = deepest = 0
    for found in _TEXT_OR_BRACKET.finditer(body):
        if found[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif found[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def _once(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message


async def _refuse(status: int, problem: str, scope: Scope, receive: Receive, send: Send) -> None:
    error: dict[str, object] = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": problem}}
    await JSONResponse(json.loads(json.dumps(error)), status_code=status)(scope, receive, send)
