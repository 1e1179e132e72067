"""Reads the open waits of tasks, as an inbox lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...protocols.tree import Wait
from ...supervisors.tasks.plan import tree_of, waits_by_name
from .contract import StoredWait
from .rows import Row, wait_of


def stored_wait(shard: str, row: Row, definition: Callable[[str], dict[str, Any]]) -> StoredWait:
    """Return the wait in a row of WAIT_COLUMNS, and workflow, user and hash of its task. Raises JournalCorrupt."""
    *waits, workflow, user, hash = row
    task_id, wait = wait_of(shard, tuple(waits))
    return StoredWait(shard, task_id, workflow, user, _node_of(definition(hash), wait.name), wait)


def _node_of(definition: dict[str, Any], name: str) -> Wait | None:
    root = definition.get("root")
    return None if root is None else waits_by_name(tree_of(definition).root).get(name)
