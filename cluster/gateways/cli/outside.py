"""`podium mcp` and `podium token`: give other programs and people access."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.table import Table

from ....protocols.errors import InvalidInput
from ....protocols.printable import one_line
from ...client.engine_async import connect_async
from ...config import load_settings
from ...loading import load_workflow
from ...tokens import Tokens
from .options import Data, Output, is_running
from .terminal import Terminal, error_console, to_json
from .view import local_time

token = typer.Typer(no_args_is_help=True, help="Tokens of those who call over HTTP.")


def mcp(
    workflows: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE|module:workflow]...", help="To be published as well.")
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Over HTTP, instead of standard input and output.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8765,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Another name that clients call this host by (repeatable).")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Run tasks here, if no cluster runs.")] = False,
    data: Data = None,
) -> None:
    """Serve published workflows and `ask` as tools of MCP."""
    try:
        from ..mcp.serving import serve_http, serve_stdio  # noqa: PLC0415  (an extra, and 0.6 s)
    except ImportError as error:
        problem = "the MCP server needs more: install podium with the extra `mcp`, or pip install mcp uvicorn"
        raise InvalidInput(problem=problem) from error
    deployed = [load_workflow(source) for source in workflows or []]
    where: Literal["inprocess"] | None = "inprocess" if in_process and not is_running(data) else None

    async def serve() -> None:
        async with connect_async(data=data, source="mcp", cluster=where) as engine:
            for workflow in deployed:
                await engine.deploy(workflow)
            if http:
                error_console().print(f"http://{host}:{port}/mcp; `podium token create USER` makes a token.")
                await serve_http(engine, host, port, name or [])
            else:
                await serve_stdio(engine)

    asyncio.run(serve())


@token.command()
def create(
    user: str,
    read_only: Annotated[bool, typer.Option("--read-only", help="It may start and cancel nothing.")] = False,
    max_priority: Annotated[int, typer.Option("--max-priority", help="Of the tasks that it starts.")] = 0,
    data: Data = None,
) -> None:
    """Make a token, and print it: it is shown this once."""
    secret, made = _tokens(data).create(user, "read" if read_only else "call", max_priority)
    print(secret)
    error_console().print(f"Token {made.id} of {user}. It is kept as a hash: what is printed now is never seen again.")


@token.command("list")
def list_tokens(data: Data = None, output: Output = "table") -> None:
    """List tokens, without what lets anybody in."""
    rows = [asdict(each) for each in _tokens(data).all()]
    for row in rows:
        del row["hash"]
    if output == "json":
        print(to_json(rows))
        return
    table = Table("id", "user", "scope", "priority up to", "created", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(
            row["id"], one_line(row["user"]), row["scope"], str(row["max_priority"]), local_time(row["created_at"])
        )
    Terminal().print(table)


@token.command()
def revoke(id: str, data: Data = None) -> None:
    """Make a token worthless, at once."""
    made = _tokens(data).revoke(id)
    error_console().print(f"Token {made.id} of {made.user} is revoked.")


def _tokens(data: str | None) -> Tokens:
    return Tokens(load_settings(data=data, source="cli").data)
