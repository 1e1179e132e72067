"""A type hint at an edge of a protocol: what it makes of plain data, and how its values become plain data again.

pydantic decides what fits a hint. A value that is plain data passes as it is. Any other becomes plain data by the
hint, and only if the hint makes an equal value of the same type of that again. So nothing changes on the way without
being refused: a set that no hint mentions, or a subclass whose fields its base does not have.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticSerializationError

from .advice import advice_on, name_of, plain_way
from .codecs.registry import codec_of, decoded, decoded_at_hand
from .errors import InvalidDefinition, InvalidInput
from .json_forms import to_json
from .values import MAX_VALUE_BYTES, Value, check_loosely, check_value
from .wording import named, place, problem_of

LAZY = {"podium": "lazy"}
"""Metadata in the core schema of a value that is read only when it is used."""
_ANYTHING = (Any, inspect.Parameter.empty, object, Value)
_PLAIN = (str, int, float, bytes, dict, list)
"""Plain types from which other classes may be derived."""


class TypeHint:
    """The type hint of an input or of an output."""

    def __init__(self, hint: Any, name: str, place: str) -> None:
        """Read a hint.

        Args:
            name: what errors call the value: `input`, `output`.
            place: where the hint stands, for the error.

        Raises:
            InvalidDefinition: pydantic cannot read it.
        """
        self.hint, self.name = hint, name
        self.adapter = _adapter(hint, place)
        self._traits = set() if self.adapter is None else set(_traits_of(self.adapter.core_schema))

    def read(self, value: Value) -> Any:
        """Return plain data, or any other value, as the hinted type. Raises InvalidInput with the path of the field."""
        value = decoded(value) if "lazy" not in self._traits else decoded_at_hand(value)
        if self.adapter is None:
            return value
        try:
            return self.adapter.validator.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            if "strict" in self._traits and (found := self._read_as_json(value)) is not _NOTHING:
                return found
            raise InvalidInput(problem=_problems(error, self.name, self.hint)) from error

    def _read_as_json(self, value: Value) -> object:
        """Return plain data as the hinted type by the rules for JSON; _NOTHING if it does not fit.

        A strict model takes no text for a date, but from JSON, which has no dates.
        """
        assert self.adapter is not None
        try:
            return self.adapter.validator.validate_json(to_json(value), by_alias=True, by_name=True)
        except ValidationError:
            return _NOTHING

    def plain(self, value: object, max_bytes: int = MAX_VALUE_BYTES) -> Value:
        """Return a value of the hinted type as plain data, of which `read` makes an equal one. Raises InvalidInput."""
        if self.adapter is None:
            return check_value(value, self.name, max_bytes, by_hint=True)
        typed = self.read(value)
        if "typed-dict" in self._traits and (lost := first_lost(value, typed, self.name)):
            raise InvalidInput(problem="the type hint has no such key, so it would be lost", path=lost)
        if "objects" in self._traits:
            return self._there_and_back(typed, max_bytes)
        try:
            plain = check_value(typed, self.name, max_bytes)
        except InvalidInput as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            return self._there_and_back(typed, max_bytes)
        return self._there_and_back(typed, max_bytes) if "code" in self._traits else plain

    def _there_and_back(self, typed: object, max_bytes: int) -> Value:
        plain = check_loosely(self._dumped(typed), self.name, max_bytes)
        try:
            back = self.read(plain)
        except InvalidInput as error:
            raise InvalidInput(problem=f"{_name(self.hint)} does not read its own plain form: {error}") from error
        change = first_change(typed, back, self.name)
        if change is not None:
            raise InvalidInput(problem=change.problem, path=change.path)
        return plain

    def _dumped(self, typed: object) -> object:
        assert self.adapter is not None
        try:
            return self.adapter.serializer.to_python(typed, round_trip=True, warnings="none")
        except PydanticSerializationError as error:
            raise InvalidInput(problem=str(error), path=self.name) from error

    def schema(self, mode: Literal["validation", "serialization"]) -> dict[str, object]:
        """Return the JSON Schema; {} where no schema can express the hint."""
        try:
            return {} if self.adapter is None else self.adapter.json_schema(mode=mode)
        except PydanticInvalidForJsonSchema:
            return {}


_NOTHING = object()


class Change(typing.NamedTuple):
    """A part of a value that would be another on the far side."""

    path: str
    before: object
    after: object

    @property
    def problem(self) -> str:
        if type(self.before) is type(self.after):
            return f"{named(self.before)} that would not come out equal: {_short(self.before)}"
        way = "".join(f", or {way}" for way in [plain_way(self.before)] if way)
        return f"{named(self.before)} would come out as {named(self.after)}: say so in the type hint{way}"


def first_change(before: object, after: object, path: str) -> Change | None:
    """Return the first part of `before` that `after` does not have equal and of the same type; None if all is well.

    A tuple may have become a list, and an object of a class that is derived from a plain type one of that type.
    """
    if not _may_become(before, after):
        return Change(path, before, after)
    parts = _parts(before, path)
    if parts is None:
        return None if _are_equal(before, after) else Change(path, before, after)
    others = _parts(after, path) or []
    if [key for key, _, _ in parts] != [key for key, _, _ in others]:
        return Change(path, before, after)
    pairs = zip(parts, others, strict=True)
    return next((change for (_, at, b), (_, _, a) in pairs if (change := first_change(b, a, at))), None)


def first_lost(value: object, typed: object, path: str) -> str | None:
    """Return the path of the first key of a mapping that reading it has dropped; None if there is none."""
    if isinstance(value, list | tuple) and isinstance(typed, list | tuple):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(value, typed, strict=False))]
    elif isinstance(value, dict) and isinstance(typed, dict):
        lost = next((key for key in value if key not in typed), None)
        if lost is not None and len(typed) < len(value):
            return f"{path}.{lost}"
        pairs = [(f"{path}.{key}", item, typed[key]) for key, item in value.items() if key in typed]
    else:
        return None
    return next((found for at, item, other in pairs if (found := first_lost(item, other, at))), None)


def _may_become(before: object, after: object) -> bool:
    kind = type(after)
    if type(before) is kind:
        return True
    if isinstance(before, Enum) or hasattr(before, "_fields"):
        return False
    return (kind in _PLAIN and isinstance(before, kind)) or (type(before) is tuple and kind is list)


def _parts(value: object, path: str) -> list[tuple[object, str, object]] | None:
    """Return the parts of a value as (key, path, part); None if it is a whole."""
    if isinstance(value, BaseModel):
        known = type(value).model_fields
        fields: Mapping[Any, object] = {name: item for name, item in vars(value).items() if name in known}
        fields = {**fields, **(value.__pydantic_extra__ or {})}
    elif dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        fields = value
    elif isinstance(value, list | tuple):
        return [(index, f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    return [((type(key), key), f"{path}.{key}", item) for key, item in fields.items()]


def _are_equal(before: object, after: object) -> bool:
    codec = codec_of(type(before))
    try:
        if before is after:
            return True
        if codec is not None:
            return bool(codec.dump(before) == codec.dump(after))
        return bool(before == after) or (before != before and after != after)
    except Exception:
        return False  # of a comparison of the user's


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


_PLAIN_SCHEMAS = frozenset(
    (
        "any none bool int float str bytes list dict datetime literal nullable union tagged-union default chain "
        "definitions definition-ref typed-dict typed-dict-field json-or-python lax-or-strict"
    ).split()
)
"""Kinds of core schemas that give plain data. Of others it is not tried whether a value is plain data as it is."""


def _traits_of(schema: object) -> Iterator[str]:
    """Yield what is somewhere in a core schema: objects, code (validators and serializers), strict, typed-dict."""
    for node in _nodes_of(schema):
        kind = node.get("type")
        if isinstance(kind, str) and kind not in _PLAIN_SCHEMAS:
            yield "objects"
        if "serialization" in node or str(kind).startswith("function-"):
            yield "code"
        if node.get("strict") is True:
            yield "strict"
        if kind == "typed-dict":
            yield "typed-dict"
        if node.get("metadata") == LAZY:
            yield "lazy"


def _nodes_of(schema: object) -> Iterator[Mapping[str, Any]]:
    """Yield each mapping in a core schema."""
    if isinstance(schema, Mapping):
        yield schema
    for part in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list | tuple) else ():
        yield from _nodes_of(part)


def complete(hint: object) -> None:
    """Rebuild the models in a hint, as they may name types that were defined after them."""
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        hint.model_rebuild()
    for part in typing.get_args(hint):
        complete(part)


def _adapter(hint: Any, place: str) -> TypeAdapter[object] | None:
    """Return the validator of a hint, None for Any. Raises InvalidDefinition for a hint that pydantic cannot read."""
    if any(hint is anything for anything in _ANYTHING):
        return None
    try:
        return _adapter_of(type(None) if hint is None else hint)
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". Set ")[0].rstrip(".")
        problem = f"its type hint {_name(hint)} cannot be used: {reason}; {_way_out(hint)}"
        raise InvalidDefinition(problem=problem, path=f"protocol {place}") from error


def _adapter_of(hint: Any) -> TypeAdapter[object]:
    """Return the validator of a hint, which may name types that pydantic does not know, if they have codecs."""
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        adapter: TypeAdapter[object] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        if not all(codec_of(kind) for kind in _classes_in(adapter.core_schema) if not _is_known(kind)):
            raise
        return adapter


def _classes_in(schema: object) -> Iterator[type]:
    """Yield the classes in a core schema of which only an object is taken."""
    return (node["cls"] for node in _nodes_of(schema) if node.get("type") == "is-instance")


def _is_known(kind: type) -> bool:
    try:
        TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        return False
    return True


def _way_out(hint: object) -> str:
    advice = advice_on(hint) if inspect.isclass(hint) else None
    if advice is None:
        return "take a hint that pydantic reads, give the type a codec (podium.codec), or take Any"
    return f"such a value does not travel: give {advice}, and say so in the hint"


def _name(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _problem(row: ErrorDetails, hint: object) -> str:
    advice = advice_on(type(row["input"]))
    more = f"; this is a {name_of(type(row['input']))}, give {advice}" if advice else ""
    return problem_of(row, hint) + more


def _problems(error: ValidationError, root: str, hint: object) -> str:
    """Return at most three problems in one line, and how many more: `input.files[3].name: Field required; …`."""
    rows = [f"{place(root, row['loc'])}: {_problem(row, hint)}" for row in error.errors(include_url=False)]
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    return "; ".join(rows[:3]) + more
