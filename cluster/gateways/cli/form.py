"""Asks a person in a terminal for an answer, field by field, as the schema of the answer says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ....protocols.json_forms import from_json
from ....protocols.json_forms import to_json as any_as_json
from ....protocols.printable import printable
from ....protocols.schemas import misfit
from ....protocols.values import Value
from ...client.waits import OpenWait
from .terminal import error_console
from .value_text import value_text

_NUMBERS = {"integer": int, "number": float}


def ask_for(wait: OpenWait) -> Value:
    """Show what an answer is about, and ask for it until it fits. Raises typer.Abort if the person gives up."""
    if wait.shown is not None:
        error_console().print(value_text(wait.shown, indent=2))
    schema = wait.schema or {}
    while True:
        value = _asked(wait.name, schema)
        wrong = misfit(value, schema) if schema else None
        if wrong is None:
            return value
        error_console().print(f"{'.'.join(map(str, wrong[0]))} {wrong[1]}".strip())


def _asked(title: str, schema: Mapping[str, Any]) -> Value:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return _field(title, schema)
    required = schema.get("required") or []
    answers = {name: _field(_title(name, each), each, name in required) for name, each in properties.items()}
    return {name: value for name, value in answers.items() if value is not _LEFT_OUT}


def _title(name: str, schema: Any) -> str:
    about = schema.get("description") or schema.get("title") if isinstance(schema, Mapping) else None
    return f"{name} ({about})" if about else name


_LEFT_OUT = object()


def _field(title: str, schema: Any, is_needed: bool = True) -> Any:
    """Ask for one value. An empty line leaves a field out that is not needed."""
    schema = schema if isinstance(schema, Mapping) else {}
    choices = schema.get("enum")
    kind = schema.get("type")
    hint = " [y/n]" if kind == "boolean" else f" [{', '.join(map(any_as_json, choices))}]" if choices else ""
    while True:
        typed = typer.prompt(printable(f"{title}{hint}"), default="", show_default=False, err=True).strip()
        if not typed and not is_needed:
            return _LEFT_OUT
        value = _read(typed, kind, choices)
        if value is not _LEFT_OUT:
            return value
        error_console().print(f"not one of{hint}" if hint else f"not {'a text' if kind is None else kind}")


def _read(typed: str, kind: object, choices: object) -> Any:
    """Return what was typed as the value that it means; `_LEFT_OUT` if it means none."""
    if kind == "boolean":
        answers = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
        return answers.get(typed.lower(), _LEFT_OUT)
    if isinstance(choices, list):
        return next((each for each in choices if typed in (each, any_as_json(each))), _LEFT_OUT)
    if kind == "string":
        return typed
    if kind in _NUMBERS:
        try:
            return _NUMBERS[str(kind)](typed)
        except ValueError:
            return _LEFT_OUT
    try:
        return from_json(typed)
    except (ValueError, RecursionError):
        return typed
