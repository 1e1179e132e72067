"""Values that are read only if they are used."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .codecs.registry import codec_of, decoded
from .encoded import Travelling
from .large import whole_part
from .stored import FILE, MET, Stored, stored_in
from .type_hints import LAZY, TypeHint, first_change
from .values import by_codec

T = TypeVar("T")
_ANY = TypeHint(Any, ".value", "Lazy")


class Lazy(Travelling, Generic[T]):
    """A value that is read when it is used, with `get()`. Who only passes it on never reads it.

        @podium.protocol
        def choose(ctx: podium.Context, frames: dict[str, podium.Lazy[np.ndarray]]) -> podium.Lazy[np.ndarray]:
            return frames["best"]

    It stands for any value of the hinted type: the step before need not know of it. A step that returns
    `podium.Lazy(value)` sends the value to the blob store as a whole, also if it is a long list; expressions cannot
    look into it then.
    """

    __slots__ = ("_hint", "_made", "_plain")

    def __init__(self, value: T) -> None:
        self._made: list[T] = [value]
        """The value, if it is known."""
        self._plain: Any = None
        self._hint = _ANY

    @classmethod
    def _of(cls, plain: Any, hint: TypeHint) -> Lazy[T]:
        made = cls.__new__(cls)
        made._made, made._plain, made._hint = [], plain, hint
        return made

    def get(self) -> T:
        """Return the value. The first call reads it, and blocks; the others give the same object.

        Raises:
            InvalidInput: The value does not fit the type.
            BlobMissing, BlobCorrupt, BlobsAway: It cannot be read.
        """
        if not self._made:
            self._made.append(self._hint.read(decoded(self._plain)))
        return self._made[0]

    def travel(self) -> Any:
        is_new = bool(self._made) and self._plain is None
        value = self._made[0] if is_new else self._plain
        form = by_codec(value)  # an array and the like is a part of its own
        if form is not None or not is_new:
            return value if form is None else form
        return whole_part(lambda most: self._hint.plain(value, most), self.get)

    def __repr__(self) -> str:
        return f"Lazy({reprlib.repr(self._made[0])})" if self._made else "<a value that was not read yet>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lazy):
            return NotImplemented
        are_known = self._plain is not None and other._plain is not None
        if are_known and first_change(self._plain, other._plain, "") is None:
            return True  # without reading it
        return first_change(self.get(), other.get(), "") is None

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kind = (*get_args(source), Any)[0]
        handler.generate_schema(kind)  # raises now for a type that pydantic cannot read
        hint = TypeHint(kind, ".value", f"Lazy[{kind}]")
        return core_schema.no_info_plain_validator_function(
            lambda given: _lazy(given, hint),
            metadata=LAZY,
            json_schema_input_schema=handler.generate_schema(kind),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda lazy: lazy.travel(), when_used="json"
            ),
        )


def _lazy(given: Any, hint: TypeHint) -> Lazy[Any]:
    if not isinstance(given, Lazy) and not _is_plain(given):
        given = Lazy(given)
    if not isinstance(given, Lazy):
        return Lazy._of(given, hint)
    if given._hint is _ANY:
        given._hint = hint
    return given


_PLAIN = (str, int, float, bool, bytes, list, dict, datetime, type(None))


def _is_plain(given: Any) -> bool:
    """Whether a value may be the plain form of another: plain data, or of a type that travels by itself."""
    return type(given) in _PLAIN or isinstance(given, Travelling) or codec_of(type(given)) is not None


def needed_parts(hint: TypeHint, value: Any) -> Iterator[Stored]:
    """Return the stored parts of plain data that have to be read before the hint can read the value."""
    found = stored_in(value) if hint.adapter is None else _needed(hint.adapter.core_schema, value, {})
    return (part for part in found if part.codec != FILE)


def read_whole(hint: TypeHint, value: Any) -> Any:
    """Read plain data by a hint, its stored parts first, but for those that are lazy. It blocks.

    Raises InvalidInput, BlobMissing, BlobCorrupt or BlobsAway.
    """
    if MET[0]:
        needed = list(needed_parts(hint, value))
        try:
            for part in needed:
                part.content = part.read_content()
            return hint.read(value)
        finally:
            for part in needed:
                part.content = None  # whoever reads it again gets one of his own
    return hint.read(value)


def _needed(schema: Any, value: Any, known: dict[str, Any]) -> Iterator[Stored]:
    kind = schema.get("type")
    if schema.get("metadata") == LAZY:
        return
    if kind == "definitions":
        known.update({each["ref"]: each for each in schema["definitions"]})
    if kind == "definition-ref":
        yield from _needed(known[schema["schema_ref"]], value, known)
    elif isinstance(value, dict) and (fields := _fields_of(schema)) is not None:
        for name, item in value.items():
            yield from _needed(fields[name], item, known) if name in fields else stored_in(item)
    elif kind == "dict" and isinstance(value, dict):
        for item in value.values():
            yield from _needed(schema.get("values_schema", {}), item, known)
    elif kind in ("list", "set", "frozenset") and isinstance(value, list):
        for item in value:
            yield from _needed(schema.get("items_schema", {}), item, known)
    elif kind == "union" and any(_is_lazy(choice) for choice in schema["choices"]):
        return
    elif isinstance(schema.get("schema"), Mapping):
        yield from _needed(schema["schema"], value, known)
    else:
        yield from stored_in(value)


def _is_lazy(choice: Any) -> bool:
    schema = choice[0] if isinstance(choice, tuple) else choice
    return bool(schema.get("metadata") == LAZY)


def _fields_of(schema: Any) -> dict[str, Any] | None:
    """Return the schemas of the fields of a model, dataclass or TypedDict by the names in its plain form."""
    fields = schema.get("fields")
    if schema.get("type") not in ("model-fields", "dataclass-args", "typed-dict") or fields is None:
        return None
    named = fields.items() if isinstance(fields, Mapping) else ((each["name"], each) for each in fields)
    found = {}
    for name, field in named:
        alias = field.get("validation_alias")
        found.update({each: field["schema"] for each in (name, alias) if isinstance(each, str)})
    return found
