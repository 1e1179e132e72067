"""The addresses of the MCP servers that steps may call. They come from the cluster's setting `config`, nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidInput
from ..values import MAX_VALUE_BYTES
from ..wording import first_problem


class McpServer(BaseModel):
    """The address of a server: a command that speaks MCP on its standard input and output, or a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """Variables added to the clean environment of the command."""
    url: str | None = None
    token_env: str | None = None
    """Environment variable of the hosts that holds a bearer token for `url`."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = MAX_VALUE_BYTES
    """Largest message accepted from the server. A call whose answer is larger fails."""

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either `command` or `url`")
        return self


def server_of(config: Mapping[str, Any], name: str) -> McpServer:
    """Return the settings of a server. Raises InvalidInput for a server that is missing or invalid in `config.mcp`."""
    known = config.get("mcp") or {}
    if name not in known:
        problem = f"no server '{name}' in config.mcp; there are {', '.join(known) or 'none'}"
        raise InvalidInput(problem=problem, path="input.server")
    try:
        return McpServer.model_validate(known[name])
    except ValidationError as error:
        loc, problem = first_problem(error, McpServer)
        raise InvalidInput(problem=problem, path=".".join(["config.mcp", name, *map(str, loc)])) from error
