"""A journal in memory, whose disk outlives its writers, for the simulated cluster.

It keeps the same contract as the journal in SQLite (tests/cluster/store/test_journal.py tests both). A commit takes
time. If the writer dies in its first half, none of the commit is on the disk. If it dies in the second half, all of it
is, without an acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import assert_never

from ....protocols.errors import Fenced, JournalFailed, PodiumError
from ....protocols.outcomes import OPEN, Failure
from ....protocols.probes import hit
from ....protocols.values import Value, pack, unpack
from ....supervisors.faults import shielded
from ....supervisors.ports.journal import (
    FIRST,
    Change,
    Entry,
    Forget,
    Found,
    NewTask,
    Note,
    OpenTask,
    Resting,
    RestingTask,
    Standing,
)
from ..rows import blob_rows
from .disk import Disk, Shard

AWAY_S = 0.25
"""Time between two attempts to reach a disk that is out of reach, in seconds."""


class MemoryDoing:
    """Implements `Doing` on the simulated disk."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self.before = shard, shard.doing
        self.end()

    def begin(self, task_id: str, entry: int) -> None:
        self._shard.doing = f"{task_id} {entry}"

    def end(self) -> None:
        self._shard.doing = ""


class MemoryJournal:
    """Implements `Journal` on the simulated disk. Opening it takes the shard's next epoch."""

    def __init__(
        self,
        disk: Disk,
        shard: str,
        delay_s: Callable[[], float] = lambda: 0.0,
        is_reached: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the shard over.

        Args:
            delay_s: returns the duration of half of the next commit, in seconds.
            is_reached: whether the disk is within reach. A commit waits for that, and so does its acknowledgement.
        """
        self.shard = shard
        self._disk = disk.shard(shard)
        if self._disk.committed_by is not None:
            hit("committed, not acknowledged")
        self._disk.epoch += 1
        self.epoch = self._disk.epoch
        self.doing = MemoryDoing(self._disk)
        self.on_failure: Callable[[PodiumError], None] = lambda _error: None
        self.on_pressure: Callable[[bool], None] = lambda _is_high: None
        self.on_long_away: Callable[[], None] = lambda: None
        self.is_away, self.max_unsaved_bytes = False, 0
        self._loop = asyncio.get_running_loop()
        self._delay_s, self._is_reached = delay_s, is_reached
        self._queue: list[tuple[list[Change], Callable[[], object] | None, Callable[..., object] | None]] = []
        self._busy = False
        self._failed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        self._add(changes, None, then)

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        self._add([], partial(self._find, ids, keys), then)

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        self._add([], partial(self._bodies, task_id), then)

    async def open_tasks(self) -> list[OpenTask]:
        tasks, resting = self._disk.tasks.values(), self._disk.resting
        found = [each.record for each in tasks if each.record.status in OPEN and each.record.task_id not in resting]
        return [OpenTask(record, self._bodies(record.task_id)) for record in found]

    async def resting(self, until: float, limit: int, after: tuple[float, str] = FIRST) -> list[Resting]:
        found = sorted((rests.until, id) for id, rests in self._disk.resting.items() if rests.until <= until)
        return [Resting(id, self._disk.resting[id]) for end, id in found if (end, id) > after][:limit]

    def resting_task(self, task_id: str, then: Callable[[RestingTask | None], None]) -> None:
        self._add([], partial(self._resting_task, task_id), then)

    def _resting_task(self, task_id: str) -> RestingTask | None:
        rests = self._disk.resting.get(task_id)
        if rests is None:
            return None
        return RestingTask(OpenTask(self._disk.tasks[task_id].record, self._bodies(task_id)), rests)

    async def resting_counts(self) -> dict[str, int]:
        return Counter(self._disk.tasks[id].record.hash for id in self._disk.resting)

    async def notes(self) -> dict[str, Value]:
        return {name: unpack(packed) for name, packed in self._disk.notes.items()}

    async def forgettable(self, before: float, limit: int) -> list[str]:
        tasks = self._disk.tasks
        ended = [id for id in sorted(tasks) if (tasks[id].record.finished_at or before) < before]
        return ended[:limit]

    async def finished_count(self) -> int:
        return sum(found.record.status not in OPEN for found in self._disk.tasks.values())

    async def close(self) -> None:
        await self._idle.wait()

    def _add(
        self, changes: list[Change], query: Callable[[], object] | None, then: Callable[..., object] | None
    ) -> None:
        if self._failed:
            return
        self._queue.append((changes, query, then))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._loop.call_later(self._delay_s(), self._commit)

    def _commit(self) -> None:
        """Put the batch on the disk, in the middle of its commit. Checks the epoch first."""
        if self._waits_for_the_disk(self._commit):
            return
        if self._disk.epoch != self.epoch:
            hit("fenced")
            self._fail(Fenced(shard=self.shard, epoch=self.epoch, newer=self._disk.epoch))
            return
        batch, self._queue = self._queue, []
        answers: list[Callable[[], object]] = []
        try:
            for changes, query, then in batch:
                for change in changes:
                    self._apply(change)
                if then is not None:
                    answers.append(partial(then, query()) if query is not None else then)
        except (KeyError, ValueError) as error:
            self._fail(JournalFailed(shard=self.shard, reason=repr(error)))
            return
        self._disk.committed_by = self.epoch
        self._loop.call_later(self._delay_s(), self._acknowledge, answers)

    def _waits_for_the_disk(self, work: Callable[[], None]) -> bool:
        """Whether the disk is out of reach. Then the work is done later."""
        self.is_away = not self._is_reached()
        if self.is_away:
            self._loop.call_later(AWAY_S, work)
        return self.is_away

    def _acknowledge(self, answers: list[Callable[[], object]]) -> None:
        if self._waits_for_the_disk(partial(self._acknowledge, answers)):
            hit("committed while out of reach")
            return
        if self._disk.committed_by == self.epoch:
            self._disk.committed_by = None
        for answer in answers:
            shielded(f"what follows a commit of shard '{self.shard}'", answer)
        if self._queue and not self._failed:
            self._begin()
        else:
            self._busy = False
            self._idle.set()

    def _fail(self, error: PodiumError) -> None:
        self._failed = True
        self._queue = []
        self._idle.set()
        self.on_failure(error)

    def _apply(self, change: Change) -> None:
        disk = self._disk
        for task_id, name, size, _ in blob_rows([change]):
            disk.blobs.setdefault(task_id, {})[name] = size
        match change:
            case NewTask(record=record):
                if record.task_id in disk.tasks or (record.key and (record.user, record.key) in disk.keys):
                    raise ValueError(f"task {record.task_id} or its key exists")
                disk.tasks[record.task_id] = Found(replace(record, input=_copy(record.input)), change.payload_digest)
                disk.entries[record.task_id] = []
                hit("task accepted pending" if record.status == "pending" else "task accepted")
                if record.key is not None:
                    disk.keys[record.user, record.key] = record.task_id
            case Entry():
                entries = disk.entries[change.task_id]
                if change.n != len(entries) + 1:
                    raise ValueError(f"entry {change.n} of {change.task_id} after {len(entries)}")
                entries.append((self.epoch, change.body))
                self._close(change)
            case Standing():
                self._stand(change)
            case Note():
                disk.notes.pop(change.name, None)
                if change.value is not None:
                    disk.notes[change.name] = pack(change.value)
            case Forget():
                self._forget(change.task_id)
            case _:
                assert_never(change)

    def _stand(self, change: Standing) -> None:
        found, waits = self._disk.tasks[change.task_id], self._disk.waits.setdefault(change.task_id, {})
        for path in change.over:
            waits.pop(path, None)
        waits |= {wait.path: wait for wait in change.waits}
        self._disk.resting.pop(change.task_id, None)
        if found.record.status not in OPEN:
            return
        hit("task waiting" if change.status == "waiting" else "task running")
        record = replace(found.record, status=change.status)  # type: ignore[arg-type]
        self._disk.tasks[change.task_id] = replace(found, record=record)
        if change.rests is not None:
            self._disk.resting[change.task_id] = change.rests

    def _close(self, entry: Entry) -> None:
        found, end = self._disk.tasks[entry.task_id], entry.closing
        if end is None:
            return
        if found.record.status not in OPEN:
            raise ValueError(f"task {entry.task_id} has ended already")
        self._disk.resting.pop(entry.task_id, None)
        completed = end.status == "completed"
        if completed:
            hit("task completed")
        elif end.status == "cancelled":
            hit("task cancelled")
        record = replace(
            found.record,
            status=end.status,  # type: ignore[arg-type]
            finished_at=end.finished_at,
            result=None if end.result is None else unpack(end.result),
            failure=None if end.trouble is None or completed else Failure.from_wire(unpack(end.trouble)),
            degraded=unpack(end.trouble) if end.trouble is not None and completed else {},
        )
        self._disk.tasks[entry.task_id] = replace(found, record=record)

    def _forget(self, task_id: str) -> None:
        disk = self._disk
        gone = [id for id in disk.tasks if id == task_id or id.startswith(f"{task_id}/")]
        for id in gone:
            if disk.tasks[id].record.status in OPEN:
                raise ValueError(f"task {id} is open and cannot be forgotten")
        for id in gone:
            record = disk.tasks.pop(id).record
            disk.blobs.pop(id, None)
            disk.waits.pop(id, None)
            del disk.entries[id]
            if record.key is not None:
                del disk.keys[record.user, record.key]

    def _find(self, ids: list[str], keys: list[tuple[str, str]]) -> list[Found]:
        disk = self._disk
        names = [*ids, *(disk.keys[key] for key in map(tuple, keys) if key in disk.keys)]
        return [disk.tasks[name] for name in names if name in disk.tasks]

    def _bodies(self, task_id: str) -> list[bytes]:
        return [body for _, body in self._disk.entries.get(task_id, [])]


def _copy(value: Value) -> Value:
    return unpack(pack(value))
