"""Reads a simulated disk without owning a shard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

from ....protocols.outcomes import OPEN, TaskRecord, TaskStatus
from ....protocols.values import Value, pack, unpack
from ....supervisors.ports.journal import (
    DISMISSED,
    STALLED,
    WITHDRAWN,
    Rest,
)
from ....supervisors.shards import is_tier, workflow_of
from ....supervisors.upkeep.blocked import blocked_protocols
from ..contract import BlobUse, ShardSize, StoredTask, StoredWait
from ..waits import nodes_of
from .disk import Disk, Shard


class DiskReader:
    """Implements `Reader` over a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def list_tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[TaskRecord]:
        wanted = {"status": status, "workflow": workflow, "user": user}
        records = [
            found.record
            for name, shard in self._disk.shards.items()
            for found in shard.tasks.values()
            if not is_tier(name) and all(v in (None, getattr(found.record, k)) for k, v in wanted.items())
        ]
        return sorted(records, key=lambda record: record.accepted_at, reverse=True)[:limit]

    def dead_letters(
        self, workflow: str | None = None, user: str | None = None, limit: int | None = 50
    ) -> list[StoredTask]:
        found = [
            _stored(name, shard, id)
            for name, shard in self._disk.shards.items()
            for id, task in shard.tasks.items()
            if task.record.status in ("parked", "stalled")
            or (task.record.status == "failed" and not is_tier(name) and f"{DISMISSED}{id}" not in shard.notes)
        ]
        wanted = {"workflow": workflow, "user": user}
        found = [s for s in found if all(v in (None, getattr(s.record, k)) for k, v in wanted.items())]
        return sorted(found, key=lambda stored: stored.record.accepted_at, reverse=True)[:limit]

    def find_task(self, task_id: str) -> StoredTask | None:
        for name, shard in self._disk.shards.items():
            if task_id in shard.tasks:
                return _stored(name, shard, task_id)
        return None

    def definitions(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        coordinator = self._disk.shard("coordinator")
        for name, shard in sorted(self._disk.shards.items()):
            is_listed = name == workflow_of(name) and f"{WITHDRAWN}{name}" not in coordinator.notes
            current = _note(shard, "current") if is_listed else None
            if current is not None:
                found.append(_note(shard, f"definition:{current}"))
        return found

    def ids(self, start: str, most: int) -> list[str]:
        found: list[str] = []
        for name, shard in self._disk.shards.items():
            if not is_tier(name):
                fitting = sorted((id for id in shard.tasks if id.startswith(start)), reverse=True)
                found += sorted(fitting, key=lambda id: id != start)[:most]
        return sorted(found, reverse=True)

    def blob_uses(self) -> Iterator[BlobUse]:
        for shard, found in self._disk.shards.items():
            for task_id, sizes in found.blobs.items():
                yield from (BlobUse(shard, task_id, name, size) for name, size in sizes.items())

    def sizes(self) -> list[ShardSize]:
        return [
            ShardSize(name, len(shard.tasks), _size_bytes(shard)) for name, shard in sorted(self._disk.shards.items())
        ]

    def rest(self, shard: str) -> Rest:
        found = self._disk.shard(shard).resting
        ends = [rests.until for rests in found.values() if rests.until != math.inf]
        return Rest(self._disk.open_count(shard) - len(found), min(ends, default=None))

    def waits(
        self, workflow: str | None = None, name: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[StoredWait]:
        found: list[StoredWait] = []
        for shard, content in self._disk.shards.items():
            nodes = cache(lambda hash, content=content: nodes_of(_note(content, f"definition:{hash}") or {}))
            for id, waits in content.waits.items():
                if not is_tier(shard) and workflow in (None, workflow_of(shard)) and task_id in (None, id):
                    record = content.tasks[id].record
                    if record.status not in OPEN:
                        continue
                    found += [
                        StoredWait(shard, id, record.workflow, record.user, nodes(record.hash).get(wait.name), wait)
                        for wait in waits.values()
                        if name in (None, wait.name)
                    ]
        return sorted(found, key=lambda each: each.wait.since, reverse=True)[:limit]

    def open_count(self, shard: str) -> int:
        return self._disk.open_count(shard)

    def blocked(self, workflow: str) -> dict[str, dict[str, str]]:
        shards = [shard for name, shard in self._disk.shards.items() if workflow_of(name) == workflow]
        return blocked_protocols({name: _note(shard, name) for shard in shards for name in shard.notes})

    def subtasks(self, task_id: str) -> list[StoredTask]:
        return [
            _stored(name, shard, id)
            for name, shard in self._disk.shards.items()
            for id in shard.tasks
            if id.startswith(f"{task_id}/")
        ]


def _note(shard: Shard, name: str) -> Value:
    packed = shard.notes.get(name)
    return None if packed is None else unpack(packed)


def _size_bytes(shard: Shard) -> int:
    values = (pack([found.record.input, found.record.result]) for found in shard.tasks.values())
    bodies = (body for entries in shard.entries.values() for _, body in entries)
    return sum(map(len, (*values, *bodies, *shard.notes.values())))


def _stored(name: str, shard: Shard, task_id: str) -> StoredTask:
    record = shard.tasks[task_id].record
    definition = unpack(shard.notes.get(f"definition:{record.hash}", pack({})))
    bodies = [body for _, body in shard.entries.get(task_id, [])]
    return StoredTask(name, record, definition, bodies, str(_note(shard, f"{STALLED}{task_id}") or ""))
