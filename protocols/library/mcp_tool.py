"""A tool of any MCP server as a step, through the official client: under our permits, time-outs, breakers and grants.

Servers are named in the cluster's setting `config`, and nowhere else, so no input can lead to another one:

    [config.mcp.files]
    command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv/data"]

    [config.mcp.tickets]
    url = "https://tickets.example/mcp"
    token_env = "TICKETS_TOKEN"

    steps:  {step: "podium.protocols.library.mcp_tool:McpTool", with: {server: '"files"', tool: '"read_file"', …}}

A connection is kept as long as its host lives, and made anew when it breaks. Needs `podium[mcp]`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..context import Context
from ..errors import InvalidInput
from ..policy import Breaker, Retry
from ..protocol import Protocol
from ..requests.grants import requests_config

CONNECT_S = 20.0
"""Longest time until a server has answered for the first time."""


class McpServer(BaseModel):
    """Where a server is: a command that speaks MCP on its standard input and output, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """Added to the clean environment of the command."""
    url: str | None = None
    token_env: str | None = None
    """Environment variable of the hosts with a bearer token for `url`."""

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either `command` or `url`")
        return self


class ToAsk(BaseModel):
    server: str
    tool: str
    arguments: dict[str, Any] = {}
    timeout_s: Annotated[float, Field(gt=0)] = 60.0


class McpUnreachable(ConnectionError):
    """The server does not answer, or the connection broke: another attempt may help."""


class McpTooSlow(Exception):
    """The tool gave no answer in its time. It may have run, so it is not called again."""


class McpToolFailed(Exception):
    """The tool ran and says that it failed."""


class McpTool(Protocol):
    """Calls one tool. Gives its structured result, or its text. Its user needs a grant for `<server>.<tool>`."""

    concurrency = 32
    quotas: ClassVar[Mapping[str, int]] = {"tool": 1}
    limit_key = "input.server"
    retry = Retry(attempts=3, initial_delay_s=0.5, max_delay_s=5.0, only=("McpUnreachable",))
    breaker = Breaker(failure_rate=0.5, min_calls=10, open_s=30.0, counts=("McpUnreachable",))

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    async def stop(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def run(self, ctx: Context, input: ToAsk) -> Any:
        name = f"{input.server}.{input.tool}"
        if not requests_config(ctx.config).grants_of(ctx.user).allows_tool(name):
            raise InvalidInput(problem=f"the tool '{name}' is not granted to user '{ctx.user}'", path="input.tool")
        connection = self._connections.get(input.server)
        if connection is None or connection.is_broken:
            connection = self._connections[input.server] = _Connection(server_of(ctx.config, input.server))
        return await connection.call(input)


def server_of(config: Mapping[str, Any], name: str) -> McpServer:
    """Raises InvalidInput for a server that `config.mcp` does not name, or names wrongly."""
    known = config.get("mcp") or {}
    if name not in known:
        problem = f"no server '{name}' in config.mcp; there are {', '.join(known) or 'none'}"
        raise InvalidInput(problem=problem, path="input.server")
    try:
        return McpServer.model_validate(known[name])
    except ValidationError as error:
        row = error.errors(include_url=False)[0]
        place = ".".join(["config.mcp", name, *map(str, row["loc"])])
        raise InvalidInput(problem=str(row["msg"]), path=place) from error


class _Connection:
    """A client in a task of its own: the SDK wants to be entered and left by one task."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self.is_broken = False
        self._living = asyncio.create_task(self._live())

    async def call(self, asked: ToAsk) -> Any:
        try:
            client = await asyncio.wait_for(asyncio.shield(self._ready), CONNECT_S)
        except Exception as error:
            raise self._lost(asked, error) from error
        try:
            result = await asyncio.wait_for(client.call_tool(asked.tool, asked.arguments), asked.timeout_s)
        except TimeoutError as error:  # of this call: others on the same connection go on
            raise McpTooSlow(f"{asked.server}.{asked.tool} gave no answer in {asked.timeout_s:g} s") from error
        except Exception as error:
            if _is_refusal(error):
                raise McpToolFailed(f"{asked.server}.{asked.tool}: {error}") from error
            raise self._lost(asked, error) from error
        text = "\n".join(block.text for block in result.content if getattr(block, "type", "") == "text")
        if result.is_error:
            raise McpToolFailed(f"{asked.server}.{asked.tool}: {text}")
        return result.structured_content if result.structured_content is not None else text

    def _lost(self, asked: ToAsk, error: Exception) -> McpUnreachable:
        """The connection is of no use any more."""
        self.is_broken = True
        self._leave.set()
        return McpUnreachable(f"{asked.server}: {type(error).__name__}: {error}")

    async def close(self) -> None:
        self._leave.set()
        await asyncio.wait([self._living], timeout=5.0)

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client(stack))
                self._ready.set_result(client)
                await self._leave.wait()
        except Exception as error:
            self.is_broken = True
            if not self._ready.done():
                self._ready.set_exception(error)
                self._ready.exception()  # looked at, if nobody waits any more

    async def _client(self, stack: AsyncExitStack) -> Any:
        from mcp.client import Client  # noqa: PLC0415  (an extra, and 0.5 s)
        from mcp.client.stdio import StdioServerParameters  # noqa: PLC0415
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

        if self._server.url is None:
            program, *arguments = self._server.command
            return Client(StdioServerParameters(command=program, args=arguments, env=dict(self._server.env) or None))
        import httpx2  # noqa: PLC0415  (it comes with mcp)

        token = os.environ.get(self._server.token_env, "") if self._server.token_env else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        http = await stack.enter_async_context(
            httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=300))
        )
        return Client(streamable_http_client(self._server.url, http_client=http))


def _is_refusal(error: Exception) -> bool:
    """Whether the server has answered, and said no."""
    return type(error).__name__ == "MCPError" and getattr(error, "code", 0) in (-32602, -32601, -32600)
