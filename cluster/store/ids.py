"""Completes task ids that people type: a whole id, or the beginning of exactly one task's id."""

from __future__ import annotations

from ...protocols.errors import InvalidInput, NotFound
from .contract import Reader

SHORTEST_CHARS = 4
"""Shortest beginning of an id, in characters. Every id begins with `t-`."""
NAMED = 5
"""Number of ids that the error for an ambiguous beginning lists."""


def whole_id(reader: Reader, typed: str) -> str:
    """Return the whole id for its beginning. The part after a slash, which names a nested run, stays as it is.

    Raises:
        NotFound: no task's id begins like that.
        InvalidInput: several ids begin like that, or the beginning is too short.
    """
    start, slash, run = typed.partition("/")
    if not start:
        raise NotFound(what="task", name=typed)
    found = reader.ids(start, NAMED + 1)
    if start in found:
        return typed
    if not found:
        raise NotFound(what="task", name=typed)
    if len(start) < SHORTEST_CHARS:
        raise InvalidInput(problem=f"'{typed}' is too short: give at least {SHORTEST_CHARS} characters", path="ID")
    if len(found) > 1:
        named = ", ".join(found[:NAMED]) + (", …" if len(found) > NAMED else "")
        raise InvalidInput(problem=f"'{typed}' is the beginning of several ids: {named}", path="ID")
    return f"{found[0]}{slash}{run}"
