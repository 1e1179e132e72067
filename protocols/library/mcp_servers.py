"""Where the MCP servers are that steps may call: the cluster's setting `config`, and nothing else, says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidInput
from ..values import MAX_VALUE_BYTES
from ..wording import first_problem


class McpServer(BaseModel):
    """Where a server is: a command that speaks MCP on its standard input and output, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """Added to the clean environment of the command."""
    url: str | None = None
    token_env: str | None = None
    """Environment variable of the hosts with a bearer token for `url`."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = MAX_VALUE_BYTES
    """Largest message that is taken from it; a call whose answer is larger fails."""

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either `command` or `url`")
        return self


def server_of(config: Mapping[str, Any], name: str) -> McpServer:
    """Raises InvalidInput for a server that `config.mcp` does not name, or names wrongly."""
    known = config.get("mcp") or {}
    if name not in known:
        problem = f"no server '{name}' in config.mcp; there are {', '.join(known) or 'none'}"
        raise InvalidInput(problem=problem, path="input.server")
    try:
        return McpServer.model_validate(known[name])
    except ValidationError as error:
        loc, problem = first_problem(error, McpServer)
        raise InvalidInput(problem=problem, path=".".join(["config.mcp", name, *map(str, loc)])) from error
