"""The simulated disk: shards that outlive their writers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....protocols.outcomes import OPEN
from ....supervisors.ports.journal import Found, ListedWait, Rests
from ...blobs.memory import BlobDisk


@dataclass(slots=True)
class Shard:
    """The contents of one shard on the simulated disk."""

    epoch: int = 0
    tasks: dict[str, Found] = field(default_factory=dict)
    entries: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    """Entries by task: (epoch, packed events) in order."""
    notes: dict[str, bytes] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    blobs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sizes of the blobs that each task names, by task and name."""
    resting: dict[str, Rests] = field(default_factory=dict)
    """Open tasks that rest."""
    waits: dict[str, dict[str, ListedWait]] = field(default_factory=dict)
    """Open waits by task and path."""
    doing: str = ""
    committed_by: int | None = None
    """Epoch of a commit that is on the disk and not acknowledged yet."""


class Disk:
    """All shards of one simulated cluster."""

    def __init__(self) -> None:
        self.shards: dict[str, Shard] = {}
        self.blobs = BlobDisk()

    def shard(self, name: str) -> Shard:
        return self.shards.setdefault(name, Shard())

    def open_count(self, name: str) -> int:
        return sum(found.record.status in OPEN for found in self.shard(name).tasks.values())
