"""Words the errors of pydantic as our sentences: the place, the problem there, and what was probably meant."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Tag, ValidationError
from pydantic_core import ErrorDetails

from .errors import InvalidDefinition

Loc: TypeAlias = tuple[str | int, ...]
NODE_KINDS = ("step", "sequence", "parallel", "each", "hierarchy", "adaptive", "wait", "sleep")
ONE_KIND = f"a node has exactly one of the keys {', '.join(NODE_KINDS)}"
A_VALUE, A_NODE = "a value", "a node"
"""Tags of what may follow a time-out."""
_MANY = 12
"""Most known keys that a message lists if none is near the wrong one."""
_STEPS = ("step", "hierarchy", "undo")
"""Keys whose value is a step, so that a protocol may be given."""


class Definition(BaseModel):
    """A frozen model, strict about unknown keys. Its constructor raises InvalidDefinition."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="constants")

    def __init__(self, **data: object) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise explain(error, type(self), type(self).__name__) from error

    # pydantic-core then validates nested nodes itself and keeps their place for the error.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Yield only the fields that differ from their defaults, because a notebook shows a whole tree in one line."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name not in fields or value != fields[name].get_default(call_default_factory=True):
                yield name, value


def explain(error: ValidationError, model: object, root: str) -> InvalidDefinition:
    """Return an error of pydantic as our InvalidDefinition, with every problem and its path in the tree."""
    (loc, problem), *others = flaws_of(error, model, in_python=True)
    lines = [problem, *(f"{tree_path(root, each)}: {said}" for each, said in others)]
    return InvalidDefinition(problem="\n".join(lines), path=tree_path(root, loc))


def flaws_of(error: ValidationError, model: object, in_python: bool = False) -> list[tuple[Loc, str]]:
    """Return every problem in data that was to be a `model`, with its place. `in_python`: protocols may be given.

    If an item of a list was refused, "too short" is left out: pydantic counts only the items that it has taken.
    """
    rows = error.errors(include_url=False)
    refused = [row["loc"] for row in rows]
    kept = [row for row in rows if row["type"] != "too_short" or not _has_more(row["loc"], refused)]
    return [(real_loc(row["loc"]), _of_node(row, in_python) or problem_of(row, model)) for row in kept]


def _has_more(loc: Loc, others: list[Loc]) -> bool:
    return any(len(other) > len(loc) and other[: len(loc)] == loc for other in others)


def problem_of(row: ErrorDetails, model: object = None) -> str:
    """Return the problem in one row of pydantic's error. A wrong key gets the key of `model` that was probably meant.

    Args:
        model: a class, or any hint that pydantic reads.
    """
    if row["type"] == "extra_forbidden":
        return unknown(str(row["loc"][-1]), keys_at(model, row["loc"][:-1]), "key")
    return str(row["msg"]).removeprefix("Value error, ")


def first_problem(error: ValidationError, model: object) -> tuple[Loc, str]:
    """Return the place of the first problem, and the problem."""
    row = error.errors(include_url=False)[0]
    return row["loc"], problem_of(row, model)


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return the message on an unknown name, such as `unknown key `timeout`; did you mean `timeout_s`?`"""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"unknown {what} `{name}`; did you mean `{near[0]}`?"
    more = ", …" if len(names) > _MANY else ""
    return f"unknown {what} `{name}`" + (f"; there are {', '.join(names[:_MANY])}{more}" if names else "")


def _of_node(row: ErrorDetails, in_python: bool) -> str | None:
    """Return the problem of a value that stands in place of a node and cannot be one; None if the row is of another."""
    given = row["input"]
    if row["type"] == "node":
        return not_a_node(given, in_python)
    is_step = bool(row["loc"]) and row["loc"][-1] in _STEPS
    if in_python and is_step and not isinstance(given, str | Mapping) and row["type"] in ("string_type", "model_type"):
        return not_a_node(given)
    return None


def not_a_node(given: object, in_python: bool = True) -> str:
    """Say why a value is not a node, and what was probably meant."""
    if isinstance(given, Mapping):
        return _no_kind(given, in_python)
    if not in_python:
        return f"{ONE_KIND}; this is {named(given)}"
    if inspect.isclass(given):
        return f"'{given.__qualname__}' is a class, but no protocol: derive it from podium.Protocol"
    if inspect.isroutine(given):
        return f"'{getattr(given, '__qualname__', given)}' is a plain function; put @podium.protocol above it"
    more = ", and several one by one: Sequence(a, b)" if isinstance(given, list | tuple) and len(given) > 1 else ""
    return f"got {named(given)}; pass the protocol, not its call{more}"


def _no_kind(given: Mapping[object, object], in_python: bool) -> str:
    kinds = [kind for kind in NODE_KINDS if kind in given]
    if len(kinds) > 1:
        return f"{ONE_KIND}, not {' and '.join(kinds)}"
    for key in map(str, given):
        if near := difflib.get_close_matches(key, NODE_KINDS, n=1):
            return f"unknown key `{key}`; did you mean `{near[0]}`? A{ONE_KIND[1:]}"
    return f"{ONE_KIND}; of a protocol, pass it, not its call" if in_python else ONE_KIND


def named(value: object) -> str:
    """Return the kind of a value with its article, such as `a list` or `an int`; `None` for None."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def keys_at(model: object, loc: Loc) -> list[str]:
    """Return the known keys at a place in a `model`, by pydantic's location."""
    hints = list(_kinds(model))
    for part in loc:
        hints = [kind for hint in hints for below in _below(hint, part) for kind in _kinds(below)]
    models = [hint for hint in hints if inspect.isclass(hint) and issubclass(hint, BaseModel)]
    return list(dict.fromkeys(f.alias or name for each in models for name, f in each.model_fields.items()))


def _kinds(hint: object) -> Iterator[object]:
    """Yield the types that a hint allows: of a union its members. Members of a tagged union stay annotated."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from _kinds(member)
    elif _tag(hint) is None and hasattr(hint, "__metadata__"):
        yield from _kinds(typing.get_args(hint)[0])
    else:
        yield hint


def _tag(hint: object) -> str | None:
    return next((each.tag for each in getattr(hint, "__metadata__", ()) if isinstance(each, Tag)), None)


def _below(hint: object, part: str | int) -> Iterator[object]:
    """Yield the hints of values that may stand below `hint` under one part of a location."""
    if (tag := _tag(hint)) is not None:
        if tag == part:
            yield typing.get_args(hint)[0]
        return
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        fields = hint.model_fields.items()
        yield from (field.annotation for name, field in fields if part in (name, field.alias, field.validation_alias))
        return
    held = [each for each in typing.get_args(hint) if each is not Ellipsis]
    if held:
        yield held[-1]  # of a mapping the values, of a list or tuple the items


def place(root: str, loc: Loc) -> str:
    """Return a pydantic location as one would write it: `input.files[3].name`."""
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def tree_path(root: str, loc: Loc) -> str:
    """Return a pydantic location without the tags of the union: `root.sequence[1].rules[0].when`."""
    return place(root, real_loc(loc)).removeprefix(".")


def real_loc(loc: Loc) -> Loc:
    """Drop the union tag that pydantic puts after each place that holds a node."""
    kept: list[str | int] = []
    tagged = 0
    for part in loc:
        if part in (A_VALUE, A_NODE):
            continue
        if part in NODE_KINDS and tagged != len(kept) and _follows_node(kept):
            tagged = len(kept)
        else:
            kept.append(part)
    return tuple(kept)


def _follows_node(kept: list[str | int]) -> bool:
    """Whether the location so far ends at a node, where pydantic adds a tag."""
    if not kept:
        return False
    last, before = kept[-1], kept[-2] if len(kept) > 1 else None
    return last in ("root", "do", "on_timeout") or isinstance(last, int) or before in ("parallel", "team", "adaptive")
