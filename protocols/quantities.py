"""Numbers that people give: seconds, counts, priorities, within bounds that every message and clock can hold."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from .errors import InvalidInput

MAX_SECONDS = 1e10
"""About three hundred years. Event loops count milliseconds in 64 bits."""
MAX_COUNT = 2**53
"""Largest whole number that JSON, floats and msgpack all keep exactly; the smallest is its negative."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
SecondsOrNone: TypeAlias = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
"""Seconds, 0 or more."""
Count: TypeAlias = Annotated[int, Field(ge=1, le=MAX_COUNT)]
CountOrNone: TypeAlias = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Quantity: TypeAlias = Annotated[float, Field(ge=0, le=MAX_COUNT, allow_inf_nan=False)]
"""An amount, 0 or more, that may be a fraction."""

MAX_REPLICAS = 1_000
"""Most hosts of one protocol for each deployed workflow."""


def check_replicas(given: object) -> int | tuple[int, int]:
    """Return the number of hosts of a protocol, or the range of it, checked. A list is taken for a pair, as in JSON.

    Raises ValueError unless it is a whole number from 1, or a pair (min, max) with 0 <= min <= max and max from 1.
    """
    pair = [given, given] if isinstance(given, int) else given
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(_is_whole(each) for each in pair):
        raise ValueError(f"it is a number of hosts, as 4, or a pair (min, max), as (1, 8), not {shown(given)}")
    least, most = pair
    if not 1 <= most <= MAX_REPLICAS:
        raise ValueError(f"there are at least 1 and at most {MAX_REPLICAS:,} hosts, not {shown(most)}")
    if not 0 <= least <= most:
        raise ValueError(f"in a pair (min, max), min is at least 0 and at most max: (1, 8), not {shown(given)}")
    return least if isinstance(given, int) else (least, most)


def _is_whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


Replicas: TypeAlias = Annotated[int | tuple[int, int], BeforeValidator(check_replicas)]
"""A number of hosts, or the least and the most: a pair (min, max)."""


def check_priority(priority: object, path: str = "priority") -> int:
    """Return the priority of a task, checked. Raises InvalidInput unless it is a whole number, at most ±MAX_COUNT."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidInput(problem=f"a whole number is wanted, not {_kind(priority)}", path=path)
    if abs(priority) > MAX_COUNT:
        raise InvalidInput(problem=f"{shown(priority)} is too large, at most ±{MAX_COUNT}", path=path)
    return priority


def check_seconds(seconds: object, path: str) -> float:
    """Return a duration in seconds, checked. Raises InvalidInput unless it is a number above 0, at most MAX_SECONDS."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidInput(problem=f"a number of seconds is wanted, not {_kind(seconds)}", path=path)
    if not 0 < seconds <= MAX_SECONDS:
        problem = f"seconds are more than 0 and at most {MAX_SECONDS:.0e}, not {shown(seconds)}"
        raise InvalidInput(problem=problem, path=path)
    return float(seconds)


def check_start(delay_s: object, not_before: object) -> None:
    """Check when a task may start. Raises InvalidInput unless at most one is given, within 300 years."""
    if delay_s is not None and not_before is not None:
        raise InvalidInput(problem="it says when the task starts, and so does not_before; give one", path="delay_s")
    if delay_s is not None and delay_s != 0:
        check_seconds(delay_s, "delay_s")
    if not_before is not None and not_before != 0:
        check_seconds(not_before, "not_before")


def check_amount(amount: object, path: str) -> float:
    """Return the used amount of a rate, checked. Raises InvalidInput unless it is a number from 0 to MAX_COUNT."""
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= MAX_COUNT:
        raise InvalidInput(problem=f"an amount is a number from 0 to {MAX_COUNT}, not {shown(amount)}", path=path)
    return float(amount)


def _kind(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}" if isinstance(value, str | float | int) else type(value).__name__


def shown(value: object) -> str:
    """Return a value for a message, at most 60 characters. Python refuses to print a number of a million digits."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]
