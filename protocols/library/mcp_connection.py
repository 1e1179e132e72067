"""A connection to an MCP server that many calls share. A failure of one call does not affect the others.

The connection ends for all calls only when it is really over: the process has ended, or the server has forgotten the
session. It then waits for its running calls, where that is possible; later calls get a new connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from mcp.client import Client
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    JSONRPCResponse,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from pydantic import TypeAdapter, ValidationError

from ..json_forms import Json
from .mcp_content import mended
from .mcp_http import DELIVERY, Delivery, HttpClient
from .mcp_servers import McpServer
from .mcp_stdio import StdioServer

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams  # what the SDK's own transports give

LOG = logging.getLogger("podium.mcp")
CONNECT_S = 20.0
"""Seconds in which a new server must connect and list its tools."""
MAX_LIST_PAGES = 100
UNREADABLE = PARSE_ERROR
"""Error code for an answer that came but cannot be read, on any transport."""
_Answer: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)


TakePage: TypeAlias = Callable[[Mapping[str, object]], None]


class NotConnected(Exception):
    """The server does not start, or refuses the connection. `refused` means that another attempt cannot help."""

    def __init__(self, problem: str, refused: bool = False) -> None:
        super().__init__(problem)
        self.refused = refused


class Lost(Exception):
    """The connection ended during a call: nobody knows whether the tool has run."""


class Connection:
    """A client in a task of its own, because the SDK must be entered and left by the same task."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._ready: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._running = 0
        self._stdio: StdioServer | None = None
        self._tools: dict[str, Mapping[str, object]] = {}
        """Tools by name, as the server listed them last. An invalid one does not spoil the list."""
        self._page: Mapping[str, object] = {}
        """The last page of the list of tools."""
        self._has_changed = False
        self.is_over = False
        """Whether the connection takes no more calls."""
        self._living = asyncio.create_task(self._live())

    async def call(
        self, name: str, arguments: dict[str, Json], timeout_s: float
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; returns a CallToolResult or an InputRequiredResult.

        Raises:
            NotConnected: nothing was sent.
            TimeoutError: no answer came in time; other calls on the connection go on.
            Lost: the connection broke during the call.
            MCPError: the server's answer is an error, or mcp_http.py reports how far the request got (see delivery_of).
            ValidationError: the answer does not fit the protocol.
        """
        self._running += 1
        try:
            session = await asyncio.shield(self._ready)
            async with asyncio.timeout(timeout_s):
                return await self._called(session, name, arguments)
        finally:
            self._running -= 1
            self._leave_if_done()

    def output_schema(self, name: str) -> dict[str, object] | None:
        """Return the JSON schema of a tool's data, as the server lists it; None if it lists none."""
        schema = self._tools.get(name, {}).get("outputSchema")
        return schema if isinstance(schema, dict) else None

    def may_repeat(self, name: str) -> bool:
        """Return whether the server declares that calling a tool twice does no more than calling it once."""
        hints = self._tools.get(name, {}).get("annotations")
        return isinstance(hints, dict) and True in (hints.get("readOnlyHint"), hints.get("idempotentHint"))

    async def close(self) -> None:
        self.is_over = True
        self._leave.set()
        await asyncio.wait([self._living], timeout=8.0)

    async def _called(
        self, session: ClientSession, name: str, arguments: dict[str, Json]
    ) -> CallToolResult | InputRequiredResult:
        if self._has_changed:
            self._has_changed = False
            self._tools = await self._listed(session)
        if self.is_over:
            raise NotConnected(self._why("the connection has ended"))
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        for is_last in (False, True):
            try:
                return await session.send_request(request, _Answer)
            except MCPError as error:
                if error.code == INVALID_REQUEST and error.error.message == "Session terminated":
                    self._end()
                    raise NotConnected("the server has ended the session") from error
                if self.is_over and error.code == CONNECTION_CLOSED:
                    raise Lost(self._why("the connection ended")) from error
                if error.code != HEADER_MISMATCH or is_last:
                    raise
                # the headers that the tool wants are not as we know them, so it did not run
                self._tools = await self._listed(session)
        raise AssertionError("the second attempt returns or raises")

    def _end(self) -> None:
        self.is_over = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self.is_over and not self._running:
            self._leave.set()

    def _why(self, problem: str) -> str:
        said = self._stdio.why() if self._stdio is not None else ""
        return f"{problem} ({said})" if said else problem

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(CONNECT_S):
                        client = await stack.enter_async_context(await self._client(stack))
                        self._tools = await self._listed(client.session)
                except Exception as error:  # told before the server is ended, which would change what it says
                    self._fail(error)
                    return
                self._ready.set_result(client.session)
                await self._leave.wait()
        except Exception as error:
            LOG.warning("leaving an MCP server: %s", _text(_innermost(error)))
        finally:
            self.is_over = True
            if not self._ready.done():
                self._fail(NotConnected("given up"))

    def _fail(self, error: Exception) -> None:
        """Fail the calls that wait for this connection: nobody gets a session from it."""
        self.is_over = True
        cause = _innermost(error)
        refused = isinstance(cause, MCPError) and delivery_of(cause) == "refused"
        problem = f"no answer within {CONNECT_S:g} s" if isinstance(cause, TimeoutError) else _text(cause)
        self._ready.set_exception(NotConnected(self._why(problem), refused))
        self._ready.exception()  # looked at, if nobody waits any more

    async def _client(self, stack: AsyncExitStack) -> Client:
        server = self._server
        if server.url is None:
            self._stdio = StdioServer(server.command, server.env, server.max_message_bytes, self._end)
            return Client(_Mended(self._stdio, self._take_page), message_handler=self._heard)
        import httpx2  # noqa: PLC0415  (it comes with mcp)

        token = os.environ.get(server.token_env, "") if server.token_env else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        patience = httpx2.Timeout(30, read=None)  # the call's own time-out bounds it
        http = await stack.enter_async_context(HttpClient(server.max_message_bytes, headers=headers, timeout=patience))
        way = streamable_http_client(server.url, http_client=http, max_sse_event_size=server.max_message_bytes)
        return Client(_Mended(way, self._take_page), message_handler=self._heard)

    async def _listed(self, session: ClientSession) -> dict[str, Mapping[str, object]]:
        """Return the listed tools by name. Parts of the list that cannot be read are left out."""
        found: dict[str, Mapping[str, object]] = {}
        cursor: str | None = None
        for _ in range(MAX_LIST_PAGES):
            self._page = {}
            try:
                await session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
            except (MCPError, ValidationError) as error:
                LOG.warning("an MCP server's list of tools is not as it should be: %s", _text(error))
            tools = self._page.get("tools")
            for tool in tools if isinstance(tools, list) else ():
                if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                    found[tool["name"]] = tool
            following = self._page.get("nextCursor")
            if not following or not isinstance(following, str):
                return found
            cursor = following
        LOG.warning("an MCP server lists more than %d pages of tools; the rest is not known", MAX_LIST_PAGES)
        return found

    def _take_page(self, page: Mapping[str, object]) -> None:
        self._page = page

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._has_changed = True


class _Mended:
    """A transport whose answers are repaired before the SDK reads them."""

    def __init__(self, transport: AbstractAsyncContextManager[TransportStreams], on_tools: TakePage) -> None:
        self._transport, self._on_tools = transport, on_tools

    async def __aenter__(self) -> TransportStreams:
        reads, writes = await self._transport.__aenter__()
        return _Reads(reads, self._on_tools), writes

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._transport.__aexit__(kind, error, trace)


class _Reads:
    def __init__(self, stream: ReadStream[SessionMessage | Exception], on_tools: TakePage) -> None:
        self._stream, self._on_tools = stream, on_tools

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def __aiter__(self) -> _Reads:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return self._as_protocol(await self._stream.__anext__())

    async def receive(self) -> SessionMessage | Exception:
        return self._as_protocol(await self._stream.receive())

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> _Reads:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, error, trace)

    def _as_protocol(self, item: SessionMessage | Exception) -> SessionMessage | Exception:
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCResponse):
            result = mended(item.message.result)
            item.message.result = result
            if "tools" in result:
                self._on_tools(result)
        return item


def delivery_of(error: MCPError) -> Delivery | None:
    """Return how far the failed request got; None if the error is the server's own answer."""
    data = error.error.data
    if isinstance(data, dict) and data.get(DELIVERY) is not None:
        found: Delivery = data[DELIVERY]
        return found
    is_cut = error.code == CONNECTION_CLOSED and error.error.message.startswith("SSE stream")  # the SDK's own words
    return "cut off" if is_cut else None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _text(error: BaseException) -> str:
    kind = type(error).__name__
    return str(error) if isinstance(error, MCPError) else f"{kind}: {error}" if str(error) else kind
