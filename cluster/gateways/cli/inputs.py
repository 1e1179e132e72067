"""Task inputs on the command line: `k=v` pairs, `@file.json`, or `-` for JSON on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ....protocols.decoding import decoded, without_mark
from ....protocols.errors import InvalidInput
from ....protocols.json_forms import from_json
from ....protocols.tree_parts import moment_of
from ....protocols.values import Value

MAX_INPUT_BYTES = 64 * 1024 * 1024


def read_moment(text: str | None, option: str) -> datetime | None:
    """Return the moment that the text of an option is, or None without one. Raises InvalidInput."""
    try:
        moment = None if text is None else moment_of(text)
    except ValueError as error:
        raise InvalidInput(problem=str(error), path=option) from error
    if moment is None and text is not None:
        raise InvalidInput(problem=f"'{text}' is no time, such as 2027-01-31T09:00:00+01:00", path=option)
    return moment


def read_input(parts: list[str], read_stdin: Callable[[], str]) -> Value:
    """Return one value made of the options: nothing is None, pairs make an object, a lone text or file is itself.

    A pair's value is JSON if it parses as JSON, else text: `n=3`, `name=Ada`, `tags=["a","b"]`.

    Raises:
        InvalidInput: names the part that is wrong.
    """
    if not parts:
        return None
    if len(parts) == 1 and "=" not in parts[0].partition("@")[0]:
        return _whole(parts[0], read_stdin)
    merged: dict[str, Value] = {}
    for part in parts:
        if part.startswith("@") or part == "-":
            whole = _whole(part, read_stdin)
            if not isinstance(whole, dict):
                raise InvalidInput(problem="only an object can be combined with k=v pairs", path=f"--input {part}")
            merged.update(whole)
            continue
        key, sign, text = part.partition("=")
        if not sign or not key:
            raise InvalidInput(problem="expected k=v, @file.json or -", path=f"--input {part}")
        merged[key] = _json_or_text(text)
    return merged


def standard_input() -> str:
    """Return all of standard input as text. Raises InvalidInput if it is not text."""
    content = sys.stdin.buffer.read()
    try:
        return decoded(content)
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()} at byte {error.start}"
        raise InvalidInput(problem=problem, path="standard input") from error


def _whole(part: str, read_stdin: Callable[[], str]) -> Value:
    if part == "-":
        return _parse(read_stdin(), "standard input")
    if part.startswith("@"):
        path = Path(part[1:])
        try:
            if path.stat().st_size > MAX_INPUT_BYTES:
                raise InvalidInput(problem=f"larger than {MAX_INPUT_BYTES} bytes", path=str(path))
            return _parse(decoded(path.read_bytes()), str(path))
        except OSError as error:
            raise InvalidInput(problem=error.strerror or str(error), path=str(path)) from error
        except UnicodeDecodeError as error:
            raise InvalidInput(problem=f"not {error.encoding.upper()} at byte {error.start}", path=str(path)) from error
    return _json_or_text(part)


def _parse(text: str, source: str) -> Value:
    try:
        return from_json(without_mark(text))
    except json.JSONDecodeError as error:
        place = f"{source}:{error.lineno}:{error.colno}"
        raise InvalidInput(problem=f"not JSON: {error.msg}", path=place) from error
    except ValueError as error:  # NaN, or a number of too many digits
        raise InvalidInput(problem=f"not JSON: {error}", path=source) from error
    except RecursionError as error:
        raise InvalidInput(problem="nested too deeply", path=source) from error


def _json_or_text(text: str) -> object:
    try:
        return from_json(text)
    except (ValueError, RecursionError):
        return text
