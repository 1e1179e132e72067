"""Parts of the workflow tree that are no nodes: constants, rules, names, and what a Sleep and a Wait consist of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PydanticUserError,
    TypeAdapter,
    field_validator,
    model_validator,
)

from .json_forms import writable
from .quantities import Seconds
from .schemas import check_own
from .wording import Definition

END = "end"
"""Where the rules of an Adaptive lead when it is done; no node may have this name."""
NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

Expression: TypeAlias = str
"""A CEL expression; docs/workflows.md says which names it may use."""


class Constant(Definition):
    """A fixed output, for `otherwise`."""

    value: Any = None
    """The output: plain data that JSON can hold."""
    missing: str | None = None
    """The name under which the result's `degraded` says what it lacks. By default it is the name of the node."""

    @field_validator("value")
    @classmethod
    def _is_writable(cls, value: Any) -> Any:
        return writable(value)


class Rule(Definition):
    """A rule of an Adaptive: after the node `after`, if `when` holds, go to the node `to`.

    A failed node is handled only by a rule whose `when` mentions `error`; otherwise the Adaptive fails, too.
    """

    after: str | None = None
    """The name of the node that has just ended. None fits every node."""
    when: Expression = "true"
    """A CEL condition over `input`, `output`, `outputs`, `visits`, `error` and `task`."""
    to: str
    """The name of the next node, or `end`."""


MAILBOX_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class Span(Definition):
    """A time to sleep: for so many seconds, or until a moment."""

    for_s: Seconds | Expression | None = None
    """Seconds, or a CEL expression that gives them, as in `with`. They are time that passes: setting the clock changes
    nothing."""
    until: Expression | None = None
    """A moment by the clock: a time with its zone (RFC 3339), or a CEL expression that gives one, or UTC seconds since
    1970. A moment that has passed is no time at all. In Python also a datetime with a time zone."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"for_s": value} if isinstance(value, int | float | str) and not isinstance(value, bool) else value

    @field_validator("until", mode="before")
    @classmethod
    def _written(cls, until: Any) -> Any:
        if not isinstance(until, datetime):
            return until
        if until.tzinfo is None:
            raise ValueError("a time without a time zone: say which, as in datetime(…, tzinfo=UTC)")
        return writable(until)

    @model_validator(mode="after")
    def _one_form(self) -> Span:
        if (self.for_s is None) == (self.until is None):
            raise ValueError("give either `for_s` (seconds) or `until` (a moment)")
        return self


def moment_of(text: str) -> datetime | None:
    """Return the moment that a text is (RFC 3339), or None if it is none. Raises ValueError for one without a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone: add Z, or an offset such as +01:00")
    return moment


def _schema_of(given: Any) -> Any:
    """Return the JSON Schema of a type, or a schema as it is."""
    if given is None or isinstance(given, Mapping):
        return given
    try:
        if not isinstance(given, str):
            return TypeAdapter(given).json_schema()
    except PydanticUserError:  # it is no type
        pass
    raise ValueError(f"neither a JSON Schema nor a type: {str(given)[:60]}")


def _checked_schema(schema: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if schema is not None:
        check_own(schema)
    return schema


AnswerSchema: TypeAlias = Annotated[
    Mapping[str, Any] | None, BeforeValidator(_schema_of), AfterValidator(_checked_schema)
]
"""The JSON Schema of an answer. In Python any type that pydantic knows may be given instead."""
Who: TypeAlias = Annotated[str, Field(pattern=r"^((group|role):)?[^\s:\x00][^\x00]{0,199}$")]
"""A user, or all of a group or a role: `anna`, `group:editors`, `role:approver`."""
