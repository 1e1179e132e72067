"""A request: what somebody asks, with all that decides how it is answered.

It is part of the input of the task that answers it. What it may touch is not in here: that is for the cluster to say,
by the user whom the engine knows the task to be of (grants.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import InvalidInput
from ..schemas import check_foreign
from ..wording import explain

RequestType: TypeAlias = Literal["simple_query", "context_query", "tool_execution", "complex_workflow", "streaming"]
Source: TypeAlias = Literal["cli", "mcp", "driver"]
REQUEST_TYPES: tuple[RequestType, ...] = get_args(RequestType)


class _Asked(BaseModel):
    """Frozen, strict about unknown keys; errors of the Python constructors are InvalidInput."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            found = explain(error, type(self), type(self).__name__)
            raise InvalidInput(problem=found.problem, path=found.path) from error

    # pydantic-core then validates nested ones itself and keeps their place for the error.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class Attachment(_Asked):
    """A text that comes with a request."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    text: Annotated[str, Field(max_length=1_000_000)]


class Limits(_Asked):
    """How far one request may go."""

    context_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 4_000
    """Of context handed to the model; a token is about four characters."""
    answer_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000


class Request(_Asked):
    """One question or order."""

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    user: Annotated[str, Field(max_length=128)] = ""
    """A label for rules of the router; permissions go by the task's user."""
    session: Annotated[str, Field(max_length=128)] | None = None
    """Requests with the same user and session are one conversation."""
    source: Source = "driver"
    type: RequestType | None = None
    """What it is to be treated as; None lets the router choose."""
    stream: bool = False
    root: Annotated[str, Field(max_length=4096)] | None = None
    """The folder that the question is about."""
    tools: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """Names of tools to be used; empty lets the planner choose among those that the user may use."""
    answer_schema: dict[str, object] | None = None
    """JSON Schema that the answer has to fit, of those in schemas.py; None is Markdown."""
    limits: Limits = Limits()

    @field_validator("answer_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, object] | None) -> dict[str, object] | None:
        if schema is not None:
            check_foreign(schema)
        return schema
