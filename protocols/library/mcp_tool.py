"""Runs a tool of any MCP server as a step, through the official client.

Our permits, time-outs, breakers and grants apply to it.

Servers are listed in the cluster's setting `config`, and nowhere else, so no input can name another one:

    [config.mcp.files]
    command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv/data"]

    [config.mcp.tickets]
    url = "https://tickets.example/mcp"
    token_env = "TICKETS_TOKEN"

    steps:  {step: "podium.protocols.library.mcp_tool:McpTool", with: {server: '"files"', tool: '"read_file"', …}}

A connection lives as long as its host, and is replaced when it is over. A failure of one call, such as an answer that
does not fit, a server's error or a time-out, ends only that call. A tool that has run, or may have run, is not called
again, unless the server declares that a second run does no harm (`readOnlyHint`, `idempotentHint`).

Needs `podium[mcp]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ValidationError

from ..context import Context
from ..errors import InvalidInput
from ..json_forms import json_form
from ..policy import Breaker, Retry
from ..protocol import Protocol
from ..quantities import Seconds
from ..requests.grants import requests_config
from ..schemas import misfit
from ..wording import place
from . import mcp_content as content
from .mcp_servers import McpServer, server_of

if TYPE_CHECKING:
    from mcp.shared.exceptions import MCPError
    from mcp_types import CallToolResult

    from .mcp_connection import Connection


class ToAsk(BaseModel):
    server: str
    tool: str
    arguments: dict[str, object] = {}
    timeout_s: Seconds = 60.0
    everything: bool = False
    """Whether the step returns the whole answer: {"structured", "text", "blocks"} with binary content as bytes."""


class McpUnreachable(ConnectionError):
    """The tool did not run, or the server declares that a second run does no harm. Another attempt may help."""


class McpInterrupted(ConnectionError):
    """The connection broke during the call. The tool may have run, so it is not called again."""


class McpBusy(Exception):
    """The server does not accept the call now. `retry_after_s` or the header has the time to wait, if it is known."""

    retry_after_s: float | None = None
    headers: Mapping[str, object] = {}


class McpTooSlow(Exception):
    """The tool gave no answer within its time limit. It may have run, so it is not called again."""


class McpToolFailed(Exception):
    """The tool ran and reports a failure, or its server refuses the call."""


class McpAnswerUnfit(Exception):
    """The tool ran, but its answer does not fit the protocol or the tool's own schema, or is too large."""


class McpTool(Protocol):
    """Calls one tool. Returns its structured result, or else its text, in which other kinds of content are named as
    left out. With `everything` it returns the whole answer. Its user needs a grant for `<server>.<tool>`."""

    concurrency = 32
    quotas: ClassVar[Mapping[str, int]] = {"tool": 1}
    limit_key = "input.server"
    retry = Retry(attempts=3, initial_delay_s=0.5, max_delay_s=5.0, only=("McpUnreachable", "McpBusy"))
    breaker = Breaker(failure_rate=0.5, min_calls=10, open_s=30.0, counts=("McpUnreachable", "McpInterrupted"))

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    async def stop(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def run(self, ctx: Context, input: ToAsk) -> object:
        name = f"{input.server}.{input.tool}"
        if not requests_config(ctx.config).grants_of(ctx.user).allows_tool(name):
            raise InvalidInput(problem=f"the tool '{name}' is not granted to user '{ctx.user}'", path="input.tool")
        server = server_of(ctx.config, input.server)
        connection = self._connections.get(input.server)
        if connection is None or connection.is_over:
            connection = self._connections[input.server] = _connected(server)
        result = await _call(connection, input, name)
        schema = connection.output_schema(input.tool)
        if result.is_error:
            raise McpToolFailed(f"{name}: {content.complaint(result)}")
        if schema is not None:
            _check(name, result.structured_content, schema)
        if input.everything:
            return content.everything(result)
        if result.structured_content is None:
            return content.text_of(result.content)
        if beside := content.left_out(result.content):
            ctx.log.info("%s: left out beside its data: %s", name, ", ".join(beside))
        return result.structured_content


def _connected(server: McpServer) -> Connection:
    from .mcp_connection import Connection  # noqa: PLC0415  (an extra, and 0.5 s)

    return Connection(server)


async def _call(connection: Connection, asked: ToAsk, name: str) -> CallToolResult:
    """Call the tool; returns its answer, even if the tool failed. Raises one of the errors above."""
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415  (see above)
    from mcp_types import InputRequiredResult  # noqa: PLC0415

    from .mcp_connection import Lost, NotConnected  # noqa: PLC0415

    try:
        result = await connection.call(asked.tool, json_form(asked.arguments), asked.timeout_s)
    except NotConnected as error:
        raise (McpToolFailed if error.refused else McpUnreachable)(f"{asked.server}: {error}") from error
    except TimeoutError as error:
        raise McpTooSlow(f"{name} gave no answer in {asked.timeout_s:g} s") from error
    except Lost as error:
        raise _interrupted(connection, asked, str(error)) from error
    except MCPError as error:
        raise _meant(connection, asked, error) from error
    except ValidationError as error:
        row = error.errors(include_url=False)[0]
        problem = f"its answer is none of the protocol's: {place('$', row['loc'])}: {row['msg']}"
        raise McpAnswerUnfit(f"{name}: {problem}") from error
    if isinstance(result, InputRequiredResult):
        raise McpToolFailed(f"{name}: it asks for input, which a step cannot give")
    return result


def _interrupted(connection: Connection, asked: ToAsk, problem: str) -> Exception:
    kind = McpUnreachable if connection.may_repeat(asked.tool) else McpInterrupted
    return kind(f"{asked.server}.{asked.tool}: {problem}")


def _meant(connection: Connection, asked: ToAsk, error: MCPError) -> Exception:
    """Convert a JSON-RPC error to one of the errors above, by how far the request got."""
    from .mcp_connection import UNREADABLE, delivery_of  # noqa: PLC0415  (an extra)

    name, delivery, data = f"{asked.server}.{asked.tool}", delivery_of(error), error.error.data
    if delivery == "not sent":
        return McpUnreachable(f"{asked.server}: {error}")
    if delivery == "cut off":
        return _interrupted(connection, asked, str(error))
    if error.code == UNREADABLE or delivery == "too large":
        return McpAnswerUnfit(f"{name}: {error}")
    wait_ms = data.get("retryAfterMs") if isinstance(data, Mapping) else None
    if delivery == "busy" or isinstance(wait_ms, int | float):
        busy = McpBusy(f"{name}: {error}")
        busy.retry_after_s = wait_ms / 1000 if isinstance(wait_ms, int | float) else None
        busy.headers = {"retry-after": data["retryAfter"]} if delivery == "busy" and data.get("retryAfter") else {}
        return busy
    return McpToolFailed(f"{name}: {error}")


def _check(name: str, data: object, schema: Mapping[str, object]) -> None:
    if data is None:
        raise McpAnswerUnfit(f"{name}: it has an output schema, and gave no data but text")
    found = misfit(data, schema)
    if found is not None:
        raise McpAnswerUnfit(f"{name}: its data does not fit its own schema: {place('$', found[0])}: {found[1]}")


__all__ = ["McpServer", "McpTool", "server_of"]
