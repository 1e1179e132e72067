"""Task ids as people type them: a whole one, or its beginning, if only one task's begins so."""

from __future__ import annotations

from pathlib import Path

from ...protocols.errors import InvalidInput, NotFound
from ...supervisors.shards import is_tier
from .faults import UNREADABLE, as_ours
from .opening import format_of, reading
from .reading import shards
from .schema import shard_path

SHORTEST_CHARS = 4
"""Fewer are no beginning of an id: every id begins with `t-`."""
NAMED = 5
"""Tasks by which an ambiguous beginning is explained."""


def whole_id(data: Path, typed: str) -> str:
    """The id that a beginning stands for; after a slash, what names a run of a nested Hierarchy stays as it is.

    Raises:
        NotFound: no task's id begins so.
        InvalidInput: several do, or it is too short.
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
    """Ids that begin so, the newest first; of each shard at most one more than are named, and the exact one."""
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
