"""Reads the events of a task at the pace of the reader.

Events go into the reader's queue as they arrive. When the queue has `MAX_BEHIND` events, reading pauses. It goes on
from the next offset once the queue is empty. Recorded events meanwhile wait in the journal, and not in memory. Live
events that are not recorded (`started`, `log`, and events of a nested Hierarchy) are lost to a reader while it pauses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...protocols.errors import PodiumError
from ...supervisors.messages.client import ClientEvent
from .core import Core

MAX_BEHIND = 10_000
"""Number of events in a reader's queue at which reading pauses."""
Item: TypeAlias = "ClientEvent | PodiumError | None"


class Reading:
    def __init__(
        self, core: Core, shard: str, task_id: str, put: Callable[[Item], None], size: Callable[[], int], offset: int
    ) -> None:
        """Start to read.

        Args:
            shard: the shard of the task.
            put: called on the core's loop with each event, and at the end with None or the error that ended it.
            size: returns the number of items in the queue.
            offset: offset of the first recorded event to read.
        """
        self._core, self._shard, self._task_id, self._put, self._size = core, shard, task_id, put, size
        self._offset = offset
        """Offset of the next recorded event."""
        self._is_paused = False
        self._stop = self._watch()

    def caught_up(self, left: int) -> None:
        """Note that the reader took an event, with `left` in the queue. A paused reading goes on if none is left."""
        if self._is_paused and left == 0:
            self._is_paused = False
            self._stop = self._watch()

    def stop(self) -> None:
        self._stop()

    def _watch(self) -> Callable[[], None]:
        return self._core.watch(self._shard, self._task_id, self._take, self._end, self._offset)

    def _take(self, event: ClientEvent) -> None:
        if self._is_paused:
            return
        if event.offset is not None:
            self._offset = event.offset + 1
        self._put(event)
        if self._size() >= MAX_BEHIND:
            self._is_paused = True
            self._stop()

    def _end(self, error: PodiumError | None) -> None:
        if not self._is_paused:
            self._put(error)
