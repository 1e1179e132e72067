"""Completes task ids that people type: a whole id, or the beginning of exactly one task's id."""

from __future__ import annotations

from pathlib import Path

from ...protocols.errors import InvalidInput, NotFound
from ...supervisors.shards import is_tier
from .sqlite.faults import UNREADABLE, as_ours
from .sqlite.opening import format_of, reading
from .sqlite.reading import shards
from .sqlite.schema import shard_path

SHORTEST_CHARS = 4
"""Shortest beginning of an id, in characters. Every id begins with `t-`."""
NAMED = 5
"""Number of ids that the error for an ambiguous beginning lists."""


def whole_id(data: Path, typed: str) -> str:
    """Return the whole id for its beginning. The part after a slash, which names a nested run, stays as it is.

    Raises:
        NotFound: no task's id begins like that.
        InvalidInput: several ids begin like that, or the beginning is too short.
    """
    start, slash, run = typed.partition("/")
    if not start:
        raise NotFound(what="task", name=typed)
    found = _beginning_with(data, start)
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


def _beginning_with(data: Path, start: str) -> list[str]:
    """Return ids with this beginning, the newest first: an exact match, and of each shard at most `NAMED` + 1."""
    query = "SELECT id FROM tasks WHERE id >= ? AND id < ? ORDER BY id = ? DESC, id DESC LIMIT ?"
    found: list[str] = []
    for shard in shards(data):
        if not is_tier(shard):
            path = shard_path(data, shard)
            try:
                with reading(path) as db:
                    if format_of(db, path, shard) is not None:
                        rows = db.execute(query, (start, f"{start}\U0010ffff", start, NAMED + 1))
                        found += [id for (id,) in rows]
            except (*UNREADABLE, OSError) as error:
                raise as_ours(shard, path, error) from error
    return sorted(found, reverse=True)
