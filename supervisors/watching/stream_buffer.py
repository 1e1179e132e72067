"""Collects the chunks that running steps emit for a moment, and has them recorded together.

Each task has its own buffer. Chunks of the same attempt that follow each other become one event. The buffer is recorded
at the latest with the next other event of the task, so that the order is kept. A task that has emitted more than the
bound is cut: that is on record for readers, and later chunks are told live only. Recorded events of nested runs are
buffered in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ...protocols.values import Value
from ..messages.client import ClientEvent
from ..open_tasks import OpenTasks
from ..ports.world import Timing
from ..tasks.events import Emitted, Event, Relayed, cost_of
from ..tasks.state import NodeRun, TaskState

COLLECT_S = 0.02
"""Seconds for which chunks are collected before they are recorded."""

_Run: TypeAlias = Emitted | Relayed


@dataclass(slots=True)
class _Buffer:
    size_bytes: int
    """Bytes that the task has emitted so far, as `cost_of` counts them."""
    is_cut: bool
    runs: list[_Run] = field(default_factory=list)


class StreamBuffer:
    def __init__(
        self,
        world: Timing,
        max_bytes: int,
        open_tasks: OpenTasks,
    ) -> None:
        """`max_bytes`: most bytes of chunks that are recorded for each task."""
        self._world, self._max_bytes, self._open_tasks = world, max_bytes, open_tasks
        self._buffers: dict[str, _Buffer] = {}

    def add(self, task: TaskState, place: NodeRun, chunk: Value) -> None:
        """Add a chunk that the current attempt of a step has emitted."""
        now, buffer = self._world.now(), self._buffer(task)
        was_cut = buffer.is_cut
        last = buffer.runs[-1] if buffer.runs else None
        if not self._has_room(buffer, chunk):
            self._open_tasks.watchers.tell(
                task.record.task_id, ClientEvent("chunk", now, place.path, place.attempt, chunk)
            )
            if not was_cut:
                self._put(task, buffer, Emitted(place.path, place.attempt, [], now, is_cut=True))
        elif isinstance(last, Emitted) and (last.path, last.attempt) == (place.path, place.attempt):
            last.chunks.append(chunk)
        else:
            self._put(task, buffer, Emitted(place.path, place.attempt, [chunk], now))

    def relay(self, task: TaskState, place: NodeRun, event: ClientEvent) -> None:
        """Add an event that the nested run of this node run has recorded; `event.offset` is its offset there."""
        assert event.offset is not None
        buffer = self._buffer(task)
        was_cut = buffer.is_cut
        if event.kind == "cut":
            buffer.is_cut = True
        elif event.kind == "chunk" and not self._has_room(buffer, event.value):
            self._open_tasks.watchers.tell(task.record.task_id, event._replace(offset=None))
            event = event._replace(kind="cut", value=None)
        if event.kind == "cut" and was_cut:
            return
        row, following = [event.kind, event.at, event.step, event.attempt, event.value], (event.offset or 0) + 1
        last = buffer.runs[-1] if buffer.runs else None
        if isinstance(last, Relayed) and last.path == place.path:
            last.events.append(row)
            buffer.runs[-1] = replace(last, next=following)
        else:
            self._put(task, buffer, Relayed(place.path, [row], following, self._world.now()))

    def _buffer(self, task: TaskState) -> _Buffer:
        return self._buffers.get(task.record.task_id) or _Buffer(task.emitted_bytes, task.is_cut)

    def _has_room(self, buffer: _Buffer, chunk: Value) -> bool:
        """Count a chunk; returns whether it is recorded. If not, the task is cut."""
        buffer.size_bytes += cost_of([chunk])
        buffer.is_cut = buffer.is_cut or buffer.size_bytes > self._max_bytes
        return not buffer.is_cut

    def _put(self, task: TaskState, buffer: _Buffer, run: _Run) -> None:
        if task.record.task_id not in self._buffers:
            self._buffers[task.record.task_id] = buffer
            self._world.call_later(COLLECT_S, lambda: self._flush(task))
        buffer.runs.append(run)

    def taken(self, task: TaskState) -> list[Event]:
        """Take out the collected events of the task, to be recorded now."""
        buffer = self._buffers.pop(task.record.task_id, None)
        return [] if buffer is None else [*buffer.runs]

    def _flush(self, task: TaskState) -> None:
        if task.record.task_id in self._buffers:
            self._open_tasks.flush(task)
