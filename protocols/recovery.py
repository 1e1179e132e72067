"""Categories of failures, and the actions that follow each, as data.

A failure of a step belongs to a category. The category's actions are taken in order until one helps:

    retry     another attempt, as the policy `retry` allows
    fallback  the next of the step's `fallback`
    degrade   the step's `otherwise`
    park      the step waits for somebody to decide: `podium dead`
    fail      the failure stands; it also stands after the last action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from .outcomes import Failure

Category: TypeAlias = Literal["validation", "resource", "timeout", "dependency", "internal", "cancelled", "uncertain"]
Action: TypeAlias = Literal["retry", "fallback", "degrade", "park", "fail"]
Actions: TypeAlias = tuple[Action, ...]

USUAL: Actions = ("retry", "fallback", "degrade", "fail")
RECOVERY: Mapping[Category, Actions] = {
    "validation": ("fallback", "degrade", "fail"),
    "resource": USUAL,
    "timeout": USUAL,
    "dependency": USUAL,
    "internal": USUAL,
    "cancelled": ("fail",),
    "uncertain": ("park",),
}
"""The actions by category, where neither protocol nor step says otherwise."""

_BY_CODE: Mapping[str, Category] = {
    "invalid_input": "validation",
    "invalid_output": "validation",
    "expression": "validation",
    "timeout": "timeout",
    "breaker_open": "dependency",
    "overloaded": "resource",
    "blobs_away": "dependency",
    "host_lost": "internal",
    "cancelled": "cancelled",
    "uncertain": "uncertain",
}
_BY_CLASS: tuple[tuple[str, Category], ...] = (
    ("TimeoutError", "timeout"),
    ("TimeoutException", "timeout"),
    ("ConnectionError", "dependency"),
    ("NetworkError", "dependency"),
    ("MemoryError", "resource"),
    ("RateLimitError", "resource"),
    ("ValidationError", "validation"),
)
"""The category by the name of an exception class, subclasses included: Python's own, and those of usual clients."""


def category_of(failure: Failure) -> Category:
    """Return the category of a failure: by its code, else by the classes of the exception, else `internal`.

    If the exception says when to come back, and nothing else decides, it is `resource`.
    """
    if failure.code in _BY_CODE:
        return _BY_CODE[failure.code]
    classes = {failure.kind, *failure.bases}
    for name, category in _BY_CLASS:
        if name in classes:
            return category
    return "resource" if failure.retry_after_s is not None else "internal"


def actions_for(failure: Failure, declared: Mapping[Category, Actions]) -> Actions:
    """Return the actions that follow a failure, in their order. `declared` replaces the usual ones, by category."""
    category = category_of(failure)
    return declared.get(category, RECOVERY[category])


def _several(actions: object) -> object:
    return (actions,) if isinstance(actions, str) else actions


def _ends_once(actions: Actions) -> Actions:
    for action in actions[:-1]:
        if action in ("park", "fail"):
            raise ValueError(f"nothing follows '{action}'")
    if len(set(actions)) < len(actions) or list(actions) != sorted(actions, key=get_args(Action).index):
        raise ValueError(f"actions come in the order {', '.join(get_args(Action))}, each once")
    return actions


OnError: TypeAlias = Mapping[
    Category,
    Annotated[Actions, Field(min_length=1), BeforeValidator(_several), AfterValidator(_ends_once)],
]
"""One action or several in their order, by category: {"dependency": ["retry", "park"], "validation": "fail"}."""
