"""Adds up what takes the space of an installation: journals and blobs by workflow, and the rest of its folder.

It only reads, with or without a cluster. What changes meanwhile is counted as it was before or after.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..protocols.errors import BlobsAway, InvalidSetting
from ..protocols.workflow import RESERVED
from ..supervisors.ports.blobs import Blob
from ..supervisors.shards import is_tier, workflow_of
from .blobs.stores import blobs_there
from .store.address import StoreAddress
from .store.contract import Reader
from .store.stores import store_of


@dataclass(slots=True)
class WorkflowSpace:
    """The space that the tasks of a workflow take."""

    workflow: str
    tasks: int = 0
    journal_bytes: int = 0
    """The size of its shards, with those of nested runs."""
    blobs: dict[str, int] = field(default_factory=dict)
    """Sizes of the blobs that its tasks name, by name."""

    @property
    def blob_bytes(self) -> int:
        return sum(self.blobs.values())

    @property
    def total_bytes(self) -> int:
        return self.journal_bytes + self.blob_bytes

    def to_json(self) -> dict[str, object]:
        counted = {"tasks": self.tasks, "journal_bytes": self.journal_bytes, "blobs": len(self.blobs)}
        return {"workflow": self.workflow, **counted, "blob_bytes": self.blob_bytes}


@dataclass(frozen=True, slots=True)
class Unnamed:
    """Blobs that no task names."""

    blobs: int = 0
    blob_bytes: int = 0

    @classmethod
    def of(cls, blobs: Iterable[Blob]) -> Unnamed:
        sizes = [blob.size for blob in blobs]
        return cls(len(sizes), sum(sizes))

    def to_json(self) -> dict[str, object]:
        return {"blobs": self.blobs, "blob_bytes": self.blob_bytes}


@dataclass(frozen=True)
class Space:
    """The parts of an installation that take space. Of a database, `folder` is the folder of this machine."""

    folder: Path
    workflows: list[WorkflowSpace]
    """The largest first."""
    notes_bytes: int
    """The size of the journals of the cluster itself."""
    unnamed: Unnamed
    """Blobs that no task names, and that are not doomed yet."""
    doomed: Unnamed
    """Blobs that will be deleted if no task names them soon."""
    away: str = ""
    """Why the blob store cannot be looked into; then nothing is known of blobs that no task names."""

    @property
    def all(self) -> WorkflowSpace:
        """All workflows together. A blob that several of them name counts once."""
        every = WorkflowSpace("", sum(each.tasks for each in self.workflows))
        for each in self.workflows:
            every.journal_bytes += each.journal_bytes
            every.blobs |= each.blobs
        return every

    @cached_property
    def folders(self) -> dict[str, int]:
        """Sizes of the other parts of the folder, in bytes."""
        return {
            "drafts": bytes_in(self.folder / "blobs" / "drafts"),
            "logs": bytes_in(self.folder / "logs", *self.folder.glob("*.log")),
            "protocols": bytes_in(self.folder / "protocols"),
            "cache": bytes_in(self.folder / "blob-cache"),
            "copies": bytes_in(*copies_in(self.folder)),
        }

    @property
    def total_bytes(self) -> int:
        """The sum of everything that is known."""
        unnamed = self.unnamed.blob_bytes + self.doomed.blob_bytes
        return self.all.total_bytes + self.notes_bytes + unnamed + sum(self.folders.values())

    @property
    def free_bytes(self) -> int:
        """Free space of the disk that has the folder."""
        return shutil.disk_usage(next(each for each in (self.folder, *self.folder.parents) if each.exists())).free


def space_of(place: StoreAddress) -> Space:
    """Look at an installation. Raises JournalCorrupt or JournalFailed."""
    listed, away = _listed(place)
    workflows, notes_bytes = _workflows(store_of(place).reader)
    named = {name for each in workflows for name in each.blobs}
    unnamed = [blob for blob in listed if blob.name not in named]
    return Space(
        place.path.resolve(),
        sorted(workflows, key=lambda each: (-each.total_bytes, each.workflow)),
        notes_bytes,
        Unnamed.of(blob for blob in unnamed if blob.doomed_at is None),
        Unnamed.of(blob for blob in unnamed if blob.doomed_at is not None),
        away,
    )


def _workflows(reader: Reader) -> tuple[list[WorkflowSpace], int]:
    """Return the space of each workflow, and of the journals of the cluster itself, in bytes."""
    found: dict[str, WorkflowSpace] = {}

    def of(shard: str) -> WorkflowSpace:
        return found.setdefault(workflow_of(shard), WorkflowSpace(workflow_of(shard)))

    notes_bytes = 0
    for size in reader.sizes():
        if size.shard in RESERVED:
            notes_bytes += size.size_bytes
        else:
            of(size.shard).journal_bytes += size.size_bytes
            of(size.shard).tasks += 0 if is_tier(size.shard) else size.tasks
    for use in reader.blob_uses():
        of(use.shard).blobs[use.name] = use.size
    return list(found.values()), notes_bytes


def _listed(place: StoreAddress) -> tuple[list[Blob], str]:
    """List all blobs, before it is read which of them tasks name. Returns, too, why that cannot be done."""
    try:
        store = blobs_there(place)
        return ([] if store is None else list(store.listing())), ""
    except (BlobsAway, InvalidSetting) as error:
        return [], str(error)


def copies_in(folder: Path) -> list[Path]:
    """Return the copies that migrations, repairs and moves left, which Podium does not need."""
    shards = folder / "shards"
    kept = [*shards.glob("*.db.format*"), *shards.glob("*.damaged-*"), *folder.glob("shards.moved-*")]
    return sorted(path for path in kept if ".draft" not in path.name)


def bytes_in(*paths: Path) -> int:
    """Return the size of files, and of all files below folders. What is not there, or goes meanwhile, has none."""
    files = [path for path in paths if path.is_file()]
    files += [Path(folder, name) for path in paths for folder, _, names in os.walk(path) for name in names]
    total = 0
    for path in files:
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total
