"""A request: what somebody asks, with all that decides how it is answered.

It is the input of the task that answers it. Whoever accepts requests (the command line, the MCP server, a driver)
fills `user`, `source` and `grants` in; nothing that is read later, in a file or from a tool, can change them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

RequestType: TypeAlias = Literal["simple_query", "context_query", "tool_execution", "complex_workflow", "streaming"]
Source: TypeAlias = Literal["cli", "mcp", "driver"]
REQUEST_TYPES: tuple[RequestType, ...] = get_args(RequestType)


class Attachment(BaseModel):
    """A text that comes with a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    text: Annotated[str, Field(max_length=1_000_000)]


class Grants(BaseModel):
    """What a user's requests may touch. Nothing, unless it is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...] = ()
    """Names of tools; `*` is all."""
    paths: tuple[str, ...] = ()
    """Folders that may be read, with all below."""
    hosts: tuple[str, ...] = ()
    """Names of hosts that tools may connect to; `*` is all."""


class Limits(BaseModel):
    """How far one request may go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 4_000
    """Of context handed to the model; a token is about four characters."""
    answer_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    context_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Time for assembling context; None is the pipeline's own limit."""


class Request(BaseModel):
    """One question or order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    user: Annotated[str, Field(max_length=128)] = ""
    session: Annotated[str, Field(max_length=128)] | None = None
    """Requests with the same user and session are one conversation."""
    source: Source = "driver"
    type: RequestType | None = None
    """What it is to be treated as; None lets the router choose."""
    stream: bool = False
    root: Annotated[str, Field(max_length=4096)] | None = None
    """The folder that the question is about."""
    tools: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """Names of tools to be used; empty lets the planner choose among those granted."""
    answer_schema: dict[str, object] | None = None
    """JSON Schema that the answer has to fit; None is Markdown."""
    grants: Grants = Grants()
    limits: Limits = Limits()
