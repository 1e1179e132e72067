"""Reads the open waits of tasks, as an inbox lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...protocols.tree import Wait
from ...supervisors.tasks.plan import tree_of, waits_by_name
from .contract import StoredWait
from .rows import Row, wait_of


def stored_waits(
    rows: Iterable[tuple[str, Row]], definition: Callable[[str, str], Mapping[str, Any]]
) -> list[StoredWait]:
    """Return the waits in rows of a shard and WAIT_COLUMNS, and workflow, user and hash of the task.

    `definition` gives that of a shard and a hash. It is called once for each. Raises JournalCorrupt.
    """
    nodes: dict[tuple[str, str], Mapping[str, Wait]] = {}
    found: list[StoredWait] = []
    for shard, (*waits, workflow, user, hash) in rows:
        if (shard, hash) not in nodes:
            nodes[shard, hash] = nodes_of(definition(shard, hash))
        task_id, wait = wait_of(shard, tuple(waits))
        found.append(StoredWait(shard, task_id, workflow, user, nodes[shard, hash].get(wait.name), wait))
    return found


def nodes_of(definition: Mapping[str, Any]) -> Mapping[str, Wait]:
    """Return a Wait of a version for each name for which it waits; nothing if its definition is not there."""
    return waits_by_name(tree_of(definition).root) if "root" in definition else {}
