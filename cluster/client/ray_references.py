"""Takes in what Ray's references stand for, since a reference is gone with its Ray and a task is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ...protocols.errors import InvalidInput
from ...protocols.values import Value


def names_a_reference(error: InvalidInput) -> bool:
    """Whether an input was refused for a reference of Ray's. So nobody looks for them where there are none."""
    return error.problem.startswith("ray.ObjectRef ") and "ray" in sys.modules


def taken_in(inputs: Sequence[Value]) -> list[Value]:
    """Return inputs with the objects of Ray in place of references to them. It blocks until they are there.

    Raises:
        InvalidInput: An object is lost, or the work that makes it failed.
    """
    ray: Any = sys.modules["ray"]
    found: list[Any] = []
    _look(list(inputs), ray.ObjectRef, found)
    try:
        objects = dict(zip(found, ray.get(found), strict=True))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidInput(problem=f"an object of Ray's cannot be taken in: {reason}", path="input") from error
    return [_replaced(each, objects) for each in inputs]


def _look(value: Value, kind: type, found: list[Any]) -> None:
    if isinstance(value, kind):
        found.append(value)
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _look(part, kind, found)


def _replaced(value: Value, objects: dict[Any, Value]) -> Value:
    if isinstance(value, dict):
        return {key: _replaced(item, objects) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_replaced(item, objects) for item in value]) if type(value) in (list, tuple) else value
    return objects[value] if type(value).__name__ == "ObjectRef" and value in objects else value
