"""The results of checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check at one place."""

    check: str
    """One word: sqlite, directory, space, disk, sync, cluster, token, shard, record, task, host, blob,
    workflow."""
    level: Level
    place: str
    """A path, shard and record, or the name of a blob."""
    what: str
    remedy: str = ""
    """Advice on what to do; "" if nothing."""
    repaired: bool = False
    """Whether this run changed it; `what` says how."""
