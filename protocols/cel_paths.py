"""Finds what a CEL expression looks into: paths that it compares, measures or computes with, not those it passes on.

An encoded value, such as an array or a text in the blob store, is only a description for CEL. So an expression that
compares it, or takes its size, would get the wrong answer without an error. CEL's own form of a checked expression is
read for this: https://github.com/cel-expr/cel-spec, proto/cel/expr/checked.proto and syntax.proto.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage

from .encoded import Encoded
from .stored import TEXT
from .values import Value

Path: TypeAlias = tuple[str, ...]
"""Name of a variable and the keys below it; EACH stands for every item of a list."""
EACH = "[]"
_EXPR = 4
"""Field of the expression in `CheckedExpr`."""
_IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = 4, 5, 6, 7, 8, 9
"""Fields of `Expr`, one for each kind."""
_TEST_ONLY = 3
"""Field of `Select` for `has(…)`, which looks at no value."""
_CONDITIONAL, _INDEX, _PLUS = "_?_:_", "_[_]", "_+_"


class _Fields:
    """The fields of one message on the wire, by number."""

    def __init__(self, packed: bytes) -> None:
        self._found: dict[int, list[Any]] = defaultdict(list)
        at = 0
        while at < len(packed):
            tag, at = _varint(packed, at)
            if tag & 7 == 2:
                size, at = _varint(packed, at)
                self._found[tag >> 3].append(packed[at : at + size])
                at += size
            elif tag & 7 == 0:
                value, at = _varint(packed, at)
                self._found[tag >> 3].append(value)
            else:
                at += 8 if tag & 7 == 1 else 4

    def message(self, number: int) -> _Fields | None:
        found = self._found.get(number)
        return _Fields(found[0]) if found else None

    def messages(self, number: int) -> list[_Fields]:
        return [_Fields(each) for each in self._found.get(number, [])]

    def is_set(self, number: int) -> bool:
        return bool(self._found.get(number, [0])[0])

    def text(self, number: int) -> str:
        found = self._found.get(number)
        return found[0].decode() if found else ""


def _varint(packed: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = packed[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


@lru_cache(maxsize=4096)
def looked_into(serialized: bytes) -> frozenset[Path]:
    """Return the paths of values that an expression does more with than pass them on. `serialized` is CEL's form."""
    message = AnyMessage()
    message.ParseFromString(serialized)
    expression = _Fields(message.value).message(_EXPR)
    return frozenset(_used(expression, {}, False)) if expression is not None else frozenset()


def _used(expression: _Fields | None, names: Mapping[str, Path], is_operand: bool) -> Iterator[Path]:
    """Yield the paths that are used. `names`: the paths that the variables of `map` and the like stand for."""
    if expression is None:
        return
    path = _path_of(expression, names)
    if path is not None:
        if is_operand:
            yield path
    elif (select := expression.message(_SELECT)) is not None:
        if not select.is_set(_TEST_ONLY):
            yield from _used(select.message(1), names, True)
    elif (call := expression.message(_CALL)) is not None:
        yield from _used_by_call(call, names, is_operand)
    elif (items := expression.message(_LIST)) is not None:
        for item in items.messages(1):
            yield from _used(item, names, is_operand)
    elif (struct := expression.message(_STRUCT)) is not None:
        for entry in struct.messages(2):
            yield from _used(entry.message(3), names, True)
            yield from _used(entry.message(4), names, is_operand)
    elif (loop := expression.message(_COMPREHENSION)) is not None:
        yield from _used_by_loop(loop, names, is_operand)


def _used_by_call(call: _Fields, names: Mapping[str, Path], is_operand: bool) -> Iterator[Path]:
    arguments = call.messages(3)
    yield from _used(call.message(1), names, True)
    for at, argument in enumerate(arguments):
        is_branch = call.text(2) == _CONDITIONAL and at > 0
        is_list = call.text(2) == _PLUS and argument.message(_LIST) is not None  # the items go into a longer list
        yield from _used(argument, names, is_operand if is_branch or is_list else True)


def _used_by_loop(loop: _Fields, names: Mapping[str, Path], is_operand: bool) -> Iterator[Path]:
    ranged = loop.message(2)
    path = None if ranged is None else _path_of(ranged, names)
    inner = {**names, loop.text(1): (*path, EACH) if path is not None else ("", loop.text(1))}
    if path is None:
        yield from _used(ranged, names, False)
    for number in (4, 5, 6, 7):
        yield from _used(loop.message(number), inner, is_operand and number == 7)


def _path_of(expression: _Fields, names: Mapping[str, Path]) -> Path | None:
    """Return the path that an expression is; None if it is none."""
    ident, select, call = expression.message(_IDENT), expression.message(_SELECT), expression.message(_CALL)
    if ident is not None:
        return names.get(ident.text(1), (ident.text(1),))
    if select is not None and not select.is_set(_TEST_ONLY):
        below = select.message(1)
        path = None if below is None else _path_of(below, names)
        return None if path is None else (*path, select.text(2))
    if call is not None and call.text(2) == _INDEX:
        target, key = call.messages(3)
        path, constant = _path_of(target, names), key.message(3)
        if path is not None:
            return (*path, constant.text(6) if constant is not None and constant.text(6) else EACH)
    return None


def encoded_at(names: Mapping[str, Value], path: Path) -> Encoded | None:
    """Return an encoded value that is exactly at a path; None if there is none, or the path goes on into one."""
    return _at(names, path)


def _at(value: Value, path: Path) -> Encoded | None:
    if not path:
        return value if isinstance(value, Encoded) else None
    if path[0] == EACH:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next((found for item in items if (found := _at(item, path[1:])) is not None), None)
    return _at(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else None


def why_not(path: Path, part: Encoded) -> str:
    """Return why an expression cannot use a value, and the way out."""
    what = "text" if part.codec == TEXT else part.codec
    size = part.described()["bytes"]
    fields = " and ".join(f"`.{name}`" for name in list(part.about)[:2] if name.isidentifier())
    place = ".".join(path).replace(f".{EACH}", EACH)
    return (
        f"`{place}` is a {what} of {size} bytes, of which an expression sees only a description"
        f"{f', such as {fields}' if fields else ''}, and which it can pass on: let a step look into it"
        + (", or raise `inline_bytes`" if part.codec == TEXT else "")
    )
