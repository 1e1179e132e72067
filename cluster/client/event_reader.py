"""Reading the events of a task at one's own pace.

Events come as they are told, into the reader's queue. When that has grown long, the reading pauses, and goes on from
the next offset once the queue is worked off: what is recorded waits in the journal, and not in anybody's memory. What
is told live only (`started`, `log`, and what a nested Hierarchy tells) is lost to a reader while it pauses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...protocols.errors import PodiumError
from ...supervisors.messages.client import ClientEvent
from .core import Core

MAX_BEHIND = 10_000
"""Events in a reader's queue at which its reading pauses."""
Item: TypeAlias = "ClientEvent | PodiumError | None"


class Reading:
    def __init__(
        self, core: Core, shard: str, task_id: str, put: Callable[[Item], None], size: Callable[[], int], offset: int
    ) -> None:
        """`shard` is the task's. `put` gets events, then None, or the error that ended it; on the core's loop. `size`
        is that of the queue."""
        self._core, self._shard, self._task_id, self._put, self._size = core, shard, task_id, put, size
        self._offset = offset
        """Of the next recorded event."""
        self._is_paused = False
        self._stop = self._watch()

    def caught_up(self, left: int) -> None:
        """The reader has taken an event, and so many are left in the queue."""
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
