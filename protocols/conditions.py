"""CEL expressions: checked when a workflow is defined, evaluated while it runs.

CEL (Common Expression Language, github.com/google/cel-spec) has no side effects and no unbounded loops: at most 10,000
steps of macros. The library returns some errors as values and raises others. Here all become ExpressionFailed for any
data, because one task's data must never harm another task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from .cel_paths import encoded_at, looked_into, why_not
from .cel_values import ExpressionFailed, fed, given
from .encoded import Encoded
from .values import Value

MAX_SOURCE_BYTES = 2048
"""Longest expression. Nobody writes a longer one by hand, and parsers suffer from generated ones."""

MAX_KEY_CHARS = 200
"""Longest key of a limit, in characters. A longer key is cut."""
MAX_REASON_CHARS = 500
"""Longest reason taken from CEL, in characters: its message may hold the data that it complains of."""

_PLACES: dict[str, dict[str, str]] = {
    "with": {"input": "dyn", "task": "dyn", "outputs": "map<string,dyn>"},
    "when": {
        "input": "dyn",
        "output": "dyn",
        "task": "dyn",
        "outputs": "map<string,dyn>",
        "visits": "map<string,int>",
        "error": "dyn",
    },
    "fallback": {"input": "dyn", "task": "dyn", "outputs": "map<string,dyn>", "error": "dyn"},
    "key": {"input": "dyn"},
    "answer": {"answer": "dyn"},
    "alert": {"workflows": "dyn", "quotas": "dyn", "load": "dyn", "throttle": "dyn"},
}
"""The names that an expression may use, with their types, by the place of the expression."""
_EXTENSIONS = ("bindings", "encoders", "lists", "math", "optional", "regex", "sets", "strings")
_UNBOUNDED = re.compile(r"\blists\s*\.\s*range\b")
"""Matches `lists.range`, which makes a list as long as a number in the data says."""


def check_expression(source: str, place: str) -> None:
    """Compile `source` for a place ("with", "when", "fallback", "key", "answer" or "alert").

    Raises:
        ValueError: too long, a syntax error, an unknown name, wrong types, or a `when` that cannot be a bool.
    """
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise ValueError(f"expression of {len(source.encode())} bytes, the limit is {MAX_SOURCE_BYTES}")
    if _UNBOUNDED.search(source):
        raise ValueError(f"`{source}`: lists.range is not offered, because its length may come from the data")
    program = _compile(source, place)
    if place in ("when", "answer", "alert") and program.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        raise ValueError(f"`{source}` gives {program.return_type().name().lower()}, a condition must give bool")


@lru_cache(maxsize=4096)
def _compile(source: str, place: str) -> Any:
    try:
        return _environment(tuple(_PLACES[place].items())).compile(source)
    except RuntimeError as error:
        text = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ERROR: <input>:")
        text = text.replace(" (in container '')", "")
        raise ValueError(f"`{source}`: {text}; known names: {', '.join(_PLACES[place])}") from error


@lru_cache
def _environment(variables: tuple[tuple[str, str], ...]) -> Any:
    """Return an environment of CEL with its extensions; only the YAML form of its configuration knows all of them."""
    lines = ["name: podium", "extensions:", *(f"- name: {name}" for name in _EXTENSIONS), "variables:"]
    lines += [f'- {{name: {name}, type: "{kind}"}}' for name, kind in variables]
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml("\n".join(lines)))


def evaluate(source: str, place: str, names: Mapping[str, Value]) -> Value:
    """Return the value of a checked expression over `names`.

    Raises:
        ExpressionFailed: with the expression and CEL's reason; nothing else, whatever the data.
    """
    found = _looked_up(source, names)
    if found is not _ELSEWHERE:
        return found
    try:
        return _evaluated(source, place, names)
    except ExpressionFailed as error:
        raise ExpressionFailed(f"`{source}`: {error}") from error
    except Exception as error:  # the library raises RuntimeError, TypeError and others, for data and for its own limits
        raise ExpressionFailed(f"`{source}`: {str(error)[:MAX_REASON_CHARS]}") from error


def _evaluated(source: str, place: str, names: Mapping[str, Value]) -> Value:
    used = {name: _pruned(names[name], paths) for name, paths in _used(source).items() if name in names}
    parts: list[Encoded] = []
    program = _compile(source, place)
    fields = fed(used, parts, copies=_COPIES.search(source) is not None)
    if parts:
        _check_use(program, names)
    result = program.eval(data=fields)
    try:
        value = result.plain_value()
    except TypeError as error:  # of all that CEL can give, only this has no form in Python
        raise ExpressionFailed("gave an optional value; say what stands for a missing one: .orValue(…)") from error
    if result.type() == cel.Type.ERROR:
        raise ExpressionFailed(str(value)[:MAX_REASON_CHARS])
    return given(value, parts)


def _check_use(program: Any, names: Mapping[str, Value]) -> None:
    """Raise ExpressionFailed if an expression uses an encoded value as if it were what it stands for."""
    for path in sorted(looked_into(program.serialize())):
        part = encoded_at(names, path)
        if part is not None:
            raise ExpressionFailed(why_not(path, part))


_COPIES = re.compile(r"\.\s*(?:map|filter)\s*\(")
_MENTION = re.compile(r"(?<![\w.])([a-z_]+)((?:\s*\.\s*[A-Za-z_]\w*(?!\w*\s*\())*)")


@lru_cache(maxsize=4096)
def _used(source: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the paths that the expression mentions, by the name that they are below; () stands for the whole value.

    CEL copies every value. To copy a whole task for each of its items would cost the square of their number.
    """
    found: dict[str, set[tuple[str, ...]]] = {}
    for name, path in _MENTION.findall(source):
        fields = tuple(field.strip() for field in path.split(".")[1:])
        found.setdefault(name, set()).add(fields)
    return {name: tuple(paths) for name, paths in found.items()}


def _pruned(value: Value, paths: tuple[tuple[str, ...], ...]) -> Value:
    """Return only the parts of a mapping that the paths lead to."""
    if not isinstance(value, dict) or () in paths:
        return value
    below: dict[str, list[tuple[str, ...]]] = {}
    for field, *rest in paths:
        below.setdefault(field, []).append(tuple(rest))
    return {field: _pruned(value[field], tuple(rests)) for field, rests in below.items() if field in value}


_ELSEWHERE = object()
_PATH = re.compile(r"[a-z_]\w*(?:\.[A-Za-z_]\w*)*")
_TEXT = re.compile(r"\"[^\"\\\n]*\"|'[^'\\\n]*'")


@lru_cache(maxsize=4096)
def _path_of(source: str) -> tuple[str, ...] | str | None:
    """Return the names in a path such as `outputs.plan.calls`, or the content of a plain text; None for all else."""
    if _TEXT.fullmatch(source):
        return source[1:-1]
    is_path = _PATH.fullmatch(source) and source not in ("true", "false", "null")
    return tuple(source.split(".")) if is_path else None


def _looked_up(source: str, names: Mapping[str, Value]) -> Value | object:
    """Return the value of a path or plain text without CEL, which would copy the whole value; _ELSEWHERE for all else.

    Most expressions in `with` are such. A path that leads nowhere is left to CEL, which has an error for it.
    """
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
    """Whether a condition is true over `names`. Raises ExpressionFailed, also for a value that is not a bool."""
    value = evaluate(source, place, names)
    if not isinstance(value, bool):
        raise ExpressionFailed(f"`{source}` gave {type(value).__name__}, a condition must give bool")
    return value


def key_of(source: str, input: Value) -> str:
    """Return the value of a `limit_key` for an input as text, at most MAX_KEY_CHARS. Raises ExpressionFailed."""
    value = evaluate(source, "key", {"input": input})
    if not isinstance(value, str | int | float):
        raise ExpressionFailed(f"`{source}` gave {type(value).__name__}, a key must be a text, a number or a bool")
    return str(value)[:MAX_KEY_CHARS]


@lru_cache(maxsize=4096)
def mentions(source: str, name: str) -> bool:
    """Whether the expression refers to the variable `name`: it does not compile without it."""
    fewer = tuple((known, kind) for known, kind in _PLACES["when"].items() if known != name)
    try:
        _environment(fewer).compile(source)
    except RuntimeError:
        return True
    return False


__all__ = ["ExpressionFailed", "check_expression", "evaluate", "holds", "key_of", "mentions"]
