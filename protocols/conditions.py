"""CEL expressions: checked when a workflow is defined, evaluated while it runs.

CEL (Common Expression Language, github.com/google/cel-spec) has no side effects and no unbounded loops. The
library returns evaluation errors as values of type ERROR; here they become ExpressionFailed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from .values import Value

MAX_SOURCE_BYTES = 2048
"""Longest expression. Nobody writes a longer one by hand, and parsers suffer from generated ones."""

MAX_KEY_CHARS = 200
"""What is longer counts by its beginning."""

_DYN, _STRING, _INT = cel.Type.DYN, cel.Type.STRING, cel.Type.INT
_ENVIRONMENTS = {
    "with": {"input": _DYN, "task": _DYN, "outputs": cel.Type.Map(_STRING, _DYN)},
    "when": {
        "input": _DYN,
        "output": _DYN,
        "task": _DYN,
        "outputs": cel.Type.Map(_STRING, _DYN),
        "visits": cel.Type.Map(_STRING, _INT),
        "error": _DYN,
    },
    "fallback": {"input": _DYN, "task": _DYN, "outputs": cel.Type.Map(_STRING, _DYN), "error": _DYN},
    "key": {"input": _DYN},
    "alert": {"workflows": _DYN, "quotas": _DYN, "load": _DYN, "throttle": _DYN},
}


class ExpressionFailed(Exception):
    """The expression is sound, the data is not: a missing key, a number compared with a text."""


def check_expression(source: str, place: str) -> None:
    """Compile `source` for a place ("with", "when", "fallback", "key" or "alert").

    Raises:
        ValueError: too long, a syntax error, an unknown name, wrong types, or a `when` that cannot be a bool.
    """
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise ValueError(f"expression of {len(source.encode())} bytes, the limit is {MAX_SOURCE_BYTES}")
    program = _compile(source, place)
    if place in ("when", "alert") and program.return_type() not in (cel.Type.BOOL, _DYN):
        raise ValueError(f"`{source}` gives {program.return_type().name().lower()}, a condition must give bool")


@lru_cache(maxsize=4096)
def _compile(source: str, place: str) -> Any:
    variables = _ENVIRONMENTS[place]
    try:
        return _environment(place).compile(source)
    except RuntimeError as error:
        text = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ERROR: <input>:")
        text = text.replace(" (in container '')", "")
        raise ValueError(f"`{source}`: {text}; known names: {', '.join(variables)}") from error


_ADD_REFERENCE, _NONE = ctypes.pythonapi.Py_IncRef, ctypes.py_object(None)


@lru_cache
def _environment(place: str) -> Any:
    return cel.NewEnv(variables=_ENVIRONMENTS[place])


def evaluate(source: str, place: str, names: Mapping[str, Value]) -> Value:
    """The value of a checked expression over `names`.

    Raises:
        ExpressionFailed: with the expression and CEL's reason.
    """
    found = _looked_up(source, names)
    if found is not _ELSEWHERE:
        return found
    program = _compile(source, place)
    try:
        result = program.eval(data=dict(names))
    except (TypeError, ValueError, RuntimeError):
        # Dates inside untyped maps are the one plain value that the library refuses.
        result = program.eval(data={name: _json_shaped(value) for name, value in names.items()})
    if result.type() == cel.Type.ERROR:
        raise ExpressionFailed(f"`{source}`: {result.value()}")
    return _plain(result.plain_value())


_ELSEWHERE = object()
_PATH = re.compile(r"[a-z_]\w*(?:\.[A-Za-z_]\w*)*")
_TEXT = re.compile(r"\"[^\"\\\n]*\"|'[^'\\\n]*'")


@lru_cache(maxsize=4096)
def _path_of(source: str) -> tuple[str, ...] | str | None:
    """The names of a path such as `outputs.plan.calls`, or the content of a plain text; None for all else."""
    if _TEXT.fullmatch(source):
        return source[1:-1]
    is_path = _PATH.fullmatch(source) and source not in ("true", "false", "null")
    return tuple(source.split(".")) if is_path else None


def _looked_up(source: str, names: Mapping[str, Value]) -> Value | object:
    """The value of a path or plain text, which is most of what `with` holds, without the way through CEL: that takes
    a copy of the whole value. What is not there is for CEL to complain of."""
    path = _path_of(source)
    if path is None or isinstance(path, str):
        return _ELSEWHERE if path is None else path
    value: Any = names
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _ELSEWHERE
        value = value[name]
    return value


def holds(source: str, names: Mapping[str, Value], place: str = "when") -> bool:
    """Whether a condition is true over `names`."""
    value = evaluate(source, place, names)
    if not isinstance(value, bool):
        raise ExpressionFailed(f"`{source}` gave {type(value).__name__}, a condition must give bool")
    return value


def key_of(source: str, input: Value) -> str:
    """What a `limit_key` gives for an input: a text, number or bool, as text."""
    value = evaluate(source, "key", {"input": input})
    if not isinstance(value, str | int | float):
        raise ExpressionFailed(f"`{source}` gave {type(value).__name__}, a key must be a text, a number or a bool")
    return str(value)[:MAX_KEY_CHARS]


@lru_cache(maxsize=4096)
def mentions(source: str, name: str) -> bool:
    """Whether the expression refers to the variable `name`: it does not compile without it."""
    fewer = {known: kind for known, kind in _ENVIRONMENTS["when"].items() if known != name}
    try:
        cel.NewEnv(variables=fewer).compile(source)
    except RuntimeError:
        return True
    return False


def _json_shaped(value: Value) -> Value:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _json_shaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_shaped(item) for item in value]
    return value


def _plain(value: Any) -> Value:
    """What the library gave, as plain data.

    For each null it gives, cel-expr-python 0.1.3 takes a reference of None too few. Some thousand of them end a process
    of Python 3.11 ("deallocating None"); later ones count no references of None. So one is added here for each.
    """
    if value is None:
        _ADD_REFERENCE(_NONE)
        return None
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
