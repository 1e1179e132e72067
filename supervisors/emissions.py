"""What running steps emit, on its way into the journal: chunks are collected for a moment and recorded together.

Each task has its own buffer. It becomes one event per run of chunks, at the latest when something else of the task is
recorded, so that the order is kept. A task that has emitted more than it may keep is cut: readers find that on record,
and what follows is told live only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..protocols.values import Value
from .events import Emitted, cost_of
from .ports import World
from .state import Place, TaskState

COLLECT_S = 0.02
"""How long chunks are collected before they are recorded."""


@dataclass(slots=True)
class _Buffer:
    runs: list[Emitted] = field(default_factory=list)
    size_bytes: int = 0


class Emissions:
    def __init__(
        self,
        world: World,
        max_bytes: int,
        record: Callable[[TaskState], None],
        tell: Callable[[str, list[Value]], None],
    ) -> None:
        """`max_bytes` is kept of each task; `record` is to take what is collected and journal it; `tell` gets live
        events that are not recorded."""
        self._world, self._max_bytes, self._record, self._tell = world, max_bytes, record, tell
        self._buffers: dict[str, _Buffer] = {}

    def add(self, task: TaskState, place: Place, chunk: Value) -> None:
        """A chunk that the attempt at `place` has emitted."""
        id, now = task.record.task_id, self._world.now()
        buffer = self._buffers.get(id)
        if task.is_cut or (buffer is not None and buffer.runs[-1].is_cut):
            self._tell(id, ["chunk", now, place.path, place.attempt, chunk, None])
            return
        if buffer is None:
            buffer = self._buffers[id] = _Buffer()
            self._world.call_later(COLLECT_S, lambda: self._flush(task))
        buffer.size_bytes += cost_of([chunk])
        is_cut = task.emitted_bytes + buffer.size_bytes > self._max_bytes
        last = buffer.runs[-1] if buffer.runs else None
        if is_cut:
            buffer.runs.append(Emitted(place.path, place.attempt, [], now, is_cut=True))
            self._tell(id, ["chunk", now, place.path, place.attempt, chunk, None])
        elif last is not None and (last.path, last.attempt) == (place.path, place.attempt):
            last.chunks.append(chunk)
        else:
            buffer.runs.append(Emitted(place.path, place.attempt, [chunk], now))

    def taken(self, task: TaskState) -> list[Emitted]:
        """What is collected of the task, to be recorded now."""
        buffer = self._buffers.pop(task.record.task_id, None)
        return [] if buffer is None else buffer.runs

    def _flush(self, task: TaskState) -> None:
        if task.record.task_id in self._buffers:
            self._record(task)
