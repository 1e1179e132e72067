"""Converts plain values for CEL, and the values of expressions back to plain data.

The CEL library passes texts and bytes on as C strings, so it loses what follows a NUL. It refuses dates, and it copies
every value. So all values are looked at first. A value that the library would change is given to it as a protobuf
message, which it does not change. A value that is too deep or too large is refused before it is copied.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from .encoded import Encoded
from .errors import InvalidInput
from .values import MAX_DEPTH, Value, check_loosely

MAX_ITEMS = 1_000_000
"""Largest number of items of all lists and mappings that one expression may look at. It is no setting, because an
expression has to give the same value each time the events of a task are folded."""
MAX_COPIED = 3_000
"""Largest number of items in one list or mapping that an expression with `map` or `filter` may look at. For each item
CEL copies all results so far, so ten thousand items take three seconds and more than a gigabyte."""
MAX_LEVELS = 2 * MAX_DEPTH
"""Deepest nesting of the values of an expression: outputs of nested nodes are deeper than one value may be."""


_PART = "$part"
"""Key under which the description of an encoded value has its number."""


class ExpressionFailed(Exception):
    """Raised when a valid expression fails on its data, because of a missing key, or a number compared with a text."""


def fed(names: Mapping[str, Value], parts: list[Encoded], copies: bool = False) -> dict[str, object]:
    """Convert `names` for CEL. Raises ExpressionFailed for a value that is too deep or too large, or a key with a NUL.

    Args:
        parts: gets the encoded values; CEL gets their descriptions, with their numbers in this list.
        copies: whether the expression has a `map` or `filter` in it.
    """
    feeding = _Feeding(MAX_COPIED if copies else MAX_ITEMS, parts)
    return {name: feeding.fed(value, MAX_LEVELS) for name, value in names.items()}


class _Feeding:
    def __init__(self, most: int, parts: list[Encoded]) -> None:
        self._left, self._most, self._parts = MAX_ITEMS, most, parts

    def fed(self, value: Value, levels: int) -> object:
        kind = type(value)
        if kind is str:
            return StringValue(value=value) if "\0" in value else value
        if kind is dict or kind is list:
            self._take_in(len(value), levels)
            if kind is list:
                return [self.fed(item, levels - 1) for item in value]
            return {_key(key): self.fed(item, levels - 1) for key, item in value.items()}
        if kind is bytes:
            return BytesValue(value=value) if b"\0" in value else value
        if isinstance(value, datetime):
            moment = Timestamp()
            moment.FromDatetime(value)
            return moment
        if isinstance(value, Encoded):
            self._parts.append(value)
            return {**value.described(), _PART: len(self._parts) - 1}
        return value

    def _take_in(self, count: int, levels: int) -> None:
        self._left -= count
        if count > self._most:
            raise ExpressionFailed(
                f"{count:,} items in one place: an expression with map or filter looks at {self._most:,} at most; "
                "a step, or a Parallel with `each`, takes more"
            )
        if self._left < 0:
            raise ExpressionFailed(f"more than {MAX_ITEMS:,} items to look at")
        if levels == 0:
            raise ExpressionFailed(f"values nested deeper than {MAX_LEVELS} levels")


def _key(key: Value) -> Value:
    if type(key) is str and "\0" in key:
        raise ExpressionFailed(f"the key {key!r} has a NUL in it, which expressions cannot hold")
    return key


def given(value: object, parts: list[Encoded]) -> Value:
    """Return the value of an expression as plain data. Raises ExpressionFailed if it is not plain data.

    `parts`: the encoded values that CEL got as descriptions; they stand again where CEL gave these.
    """
    counted = _counted(value)
    try:
        return check_loosely(_with_parts(counted, parts) if parts else counted, "result", sys.maxsize)
    except InvalidInput as error:
        raise ExpressionFailed(f"gave what is no plain data: {error}") from error


def _with_parts(value: Value, parts: list[Encoded]) -> Value:
    if isinstance(value, dict):
        if _PART in value:
            return parts[value[_PART]]
        return {key: _with_parts(item, parts) for key, item in value.items()}
    return [_with_parts(item, parts) for item in value] if isinstance(value, list) else value


_ADD_REFERENCE, _NONE = ctypes.pythonapi.Py_IncRef, ctypes.py_object(None)


def _counted(value: object) -> Value:
    """Return the same value, after adding a reference of None for each null. Mappings are sorted by key.

    For each null that it gives, cel-expr-python 0.1.3 takes one reference of None too few. After some thousand nulls a
    process of Python 3.11 ends ("deallocating None"); later versions of Python count no references of None. So one
    reference is added here for each null.
    """
    if value is None:
        _ADD_REFERENCE(_NONE)
        return None
    if isinstance(value, dict):  # sorted, because CEL's own order differs from time to time
        return {key: _counted(value[key]) for key in sorted(value, key=_order)}
    if isinstance(value, list):
        return [_counted(item) for item in value]
    return value


def _order(key: Value) -> tuple[str, str]:
    return type(key).__name__, str(key)
