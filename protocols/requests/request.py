"""A request: a question or order, with everything that decides how it is answered.

A request is part of the input of the task that answers it. Its permissions are not part of it: the cluster has them, by
the user of the task (grants.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypedDict, get_args

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

    def __init__(self, **data: object) -> None:
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
    """The attachment's name."""
    text: Annotated[str, Field(max_length=1_000_000)]
    """The text."""


class Limits(_Asked):
    """The bounds of one request."""

    context_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 4_000
    """Tokens of context that the model may get; a token is about four characters."""
    answer_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Tokens that the answer may have."""


class Request(_Asked):
    """A request: one question or order, with everything that decides how it is answered."""

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    """The question or order."""
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    """Texts that come with the request, each with `name` and `text`."""
    user: Annotated[str, Field(max_length=128)] = ""
    """A label for rules of the router; permissions go by the task's user."""
    session: Annotated[str, Field(max_length=128)] | None = None
    """The name of a conversation. Requests with the same user and session are one conversation."""
    source: Source = "driver"
    """The kind of client that the request comes from."""
    type: RequestType | None = None
    """The type of the request. None lets the router choose."""
    stream: bool = False
    """If true, the shipped rules give the request the type `streaming`, unless it names another."""
    root: Annotated[str, Field(max_length=4096)] | None = None
    """The folder that the question is about."""
    tools: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """The names of the tools to use. Empty lets the planner choose among those that the user may use."""
    answer_schema: dict[str, object] | None = None
    """The JSON Schema of the answer, without `pattern` and references to other documents. None means Markdown."""
    limits: Limits = Limits()
    """The bounds of the request: {"context_tokens", "answer_tokens"}."""

    @field_validator("answer_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, object] | None) -> dict[str, object] | None:
        if schema is not None:
            check_foreign(schema)
        return schema


class AskFields(TypedDict, total=False):
    """The fields of a request as keywords of `ask`, so that editors complete them and type checkers know them.

    The text is the first argument of `ask`, and the user is that of the task. `tests/house/test_options.py` compares
    the rest with `Request`.
    """

    attachments: Sequence[Attachment | Mapping[str, str]]
    session: str | None
    source: Source
    type: RequestType | None
    stream: bool
    root: str | None
    tools: Sequence[str]
    answer_schema: Mapping[str, object] | None
    limits: Limits | Mapping[str, int]
