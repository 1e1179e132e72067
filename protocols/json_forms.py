"""Values as JSON, wherever somebody outside reads them: the command line, MCP, files.

JSON has neither bytes, nor dates, nor numbers that are not finite. They become texts, which pydantic reads back as what
they were where the type hint says so: bytes as base64 (RFC 4648; `pydantic.Base64Bytes`), dates as RFC 3339, the rest
as "NaN", "Infinity" and "-Infinity". `null` was rejected: it cannot be told from a value that is missing. An encoded
value, such as an array, is only described: {"$type": "numpy.ndarray", "bytes": 217, "dtype": "float64", "shape": [3]}.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TypeAlias, overload

from .encoded import Encoded
from .errors import InvalidInput
from .values import Value, check_value

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""Data that JSON can hold."""
NOT_FINITE = "^(NaN|-?Infinity)$"
"""Pattern of the texts that stand for numbers which are not finite."""


@overload
def json_form(value: Mapping[str, object]) -> dict[str, Json]: ...
@overload
def json_form(value: object) -> Json: ...
def json_form(value: object) -> Json:
    """Return `value` as data that JSON can hold. A value that is not plain data, such as a path, becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): json_form(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_form(item) for item in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return _rfc3339(value)
    if isinstance(value, Encoded):
        return _described(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def _described(value: Encoded) -> dict[str, Json]:
    described: Mapping[str, object] = value.described()
    return json_form(described)


def writable(value: Value) -> Value:
    """Return a value of a definition in the form of files: dates as texts. Raises ValueError if no file can hold it."""
    try:
        plain = check_value(value, "value")
    except InvalidInput as error:
        raise ValueError(str(error)) from error
    return _written(plain)


def _written(value: Value) -> Value:
    if isinstance(value, dict):
        return {_key(key): _written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, bytes):
        raise ValueError("bytes have no form in a file; write what makes them")
    if isinstance(value, Encoded):
        raise ValueError(f"a {value.codec} has no form in a file; write what makes it")
    return _rfc3339(value) if isinstance(value, datetime) else value


def not_finite_in(value: object) -> tuple[str | int, ...] | None:
    """Return the place of the first number that JSON cannot hold, in data of a lenient reader; None if all fit."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ()
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if (found := not_finite_in(item)) is not None:
            return key, *found
    return None


def to_json(value: object, indent: int | None = None) -> str:
    """Return JSON (RFC 8259) of any value. The head of this module lists the forms of values that JSON cannot hold."""
    return json.dumps(json_form(value), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Value:
    """Read strict JSON, without `NaN` and `Infinity`. Raises ValueError, or RecursionError if nested too deep."""
    return json.loads(text, parse_constant=_refuse, parse_float=finite)


def finite(text: str) -> float:
    """Return the number in a text of digits. Raises ValueError if it is larger than any float."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is larger than any number that can be kept")
    return number


def _refuse(name: str) -> Value:
    raise ValueError(f"{name} is no number of JSON")


def _key(key: object) -> str:
    """Return a key as text. json.dumps would do so for true, null and numbers, and fail for the rest."""
    form = json_form(key)
    return form if isinstance(form, str) else json.dumps(form)


def _not_finite(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _rfc3339(moment: datetime) -> str:
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


__all__ = ["NOT_FINITE", "Json", "finite", "from_json", "json_form", "not_finite_in", "to_json", "writable"]
