"""The followers of tasks, which wait for their ends, and the watchers of tasks, which get every event.

A follower gets one `TaskEnded` per task. A watcher gets a `ClientEvent` for each event in the order of the journal:
past events from an offset on, then live events. A watcher may go away and come again without loss or repetition. A
watcher that reads too slowly is refused, and has to come again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ...protocols.errors import Overloaded, PodiumError
from ...protocols.outcomes import TaskRecord
from ...protocols.values import Value
from ..messages.client import ClientEvent
from ..messages.door import with_kind
from ..ports.messaging import Incoming
from ..tasks.client_events import (
    WAITS,
    end_event,
    is_relayed,
    run_ended,
    seen_attempt,
    task_ended,
    told_events,
    waits_of,
)
from ..tasks.events import Event
from ..tasks.state import NodeRun, TaskState

MAX_BACKLOG = 10_000
"""Most events that may wait for one watcher."""


@dataclass(slots=True, eq=False)
class Follow:
    ask: Incoming
    left: set[str]


@dataclass(slots=True, eq=False)
class Watch:
    ask: Incoming
    since: int = 0
    """Recorded events before this offset are not told."""
    behind: list[tuple[int, ClientEvent]] | None = field(default_factory=list)
    """Live events, with entry numbers, that wait until the past events are told; None when they are told."""
    end: tuple[TaskRecord, int] | None = None
    """The record of a task that ended before its past events were told, and the offset of its end."""

    def tell(self, event: ClientEvent) -> None:
        if event.offset is None or event.offset >= self.since:
            self.ask.chunk(event)

    def finish(self, record: TaskRecord, offset: int) -> None:
        if self.behind is not None:
            self.end = (record, offset)
        else:
            self.close(record, offset)

    def close(self, record: TaskRecord, offset: int) -> None:
        """Tell the watcher how the task ended, and answer its message."""
        self.tell(end_event(record, offset))
        self.ask.reply()


@dataclass(slots=True, eq=False)
class Attendance(Watch):
    """The watch of the supervisor above on a nested run.

    It gets the events that it has to record, and as the answer how the run ended.
    """

    def tell(self, event: ClientEvent) -> None:
        if is_relayed(event) or event.kind == WAITS:
            Watch.tell(self, event)

    def close(self, record: TaskRecord, offset: int) -> None:
        self.ask.reply(run_ended(record))


class Watchers:
    def __init__(self) -> None:
        self._follows: dict[str, list[Follow]] = defaultdict(list)
        self._watches: dict[str, list[Watch]] = defaultdict(list)

    def follow(self, ask: Incoming, ids: list[str]) -> None:
        """Send a chunk for each task of `ids` when it ends, and answer `ask` after the last."""
        follow = Follow(ask, set(ids))
        for id in ids:
            self._follows[id].append(follow)
        ask.on_cancel = lambda: self._unfollow(follow)
        if not ids:
            ask.reply()

    def ended(self, record: TaskRecord, offset: int) -> None:
        """Tell all followers and watchers that the task ended, once that is durable; `offset` is that of the end."""
        if record.task_id not in self._follows and record.task_id not in self._watches:
            return
        chunk = with_kind(task_ended(record))
        for follow in self._follows.pop(record.task_id, ()):
            follow.ask.chunk(chunk)
            follow.left.discard(record.task_id)
            if not follow.left:
                follow.ask.reply()
        for watch in self._watches.pop(record.task_id, ()):
            watch.finish(record, offset)

    def _unfollow(self, follow: Follow) -> None:
        for id in follow.left:
            follows = self._follows.get(id)
            if follows and follow in follows:
                follows.remove(follow)
                if not follows:
                    del self._follows[id]
        follow.ask.reply()

    def add(self, watch: Watch, task_id: str) -> None:
        self._watches[task_id].append(watch)
        watch.ask.on_cancel = lambda: self._unwatch(watch, task_id)

    def _unwatch(self, watch: Watch, task_id: str, why: PodiumError | None = None) -> None:
        watches = self._watches.get(task_id, [])
        if watch in watches:
            watches.remove(watch)
            if not watches:
                del self._watches[task_id]
            if why is None:
                watch.ask.reply()
            else:
                watch.ask.refuse(why)

    def caught_up(self, watch: Watch, past: list[ClientEvent], entries: int) -> None:
        """Tell a watcher the past events, which were read up to journal entry `entries`, then those that came since."""
        behind, watch.behind = watch.behind or [], None
        later = [event for n, event in behind if n == 0 or n > entries]
        begun = {(event.step, event.attempt) for event in later if event.kind == "started"}
        first = [event for event in past if event.kind != "started" or (event.step, event.attempt) not in begun]
        for event in first + later:
            watch.tell(event)
        if watch.end is not None:
            watch.finish(*watch.end)

    @property
    def has_any(self) -> bool:
        """Whether anybody follows or watches a task."""
        return bool(self._follows or self._watches)

    def is_watched(self, task_id: str) -> bool:
        return task_id in self._watches

    def see(self, task: TaskState, events: list[Event]) -> list[ClientEvent]:
        """Translate events that are about to be folded in into client events.

        Returns nothing if the task has no watcher: later watchers read the events in the journal.
        """
        if task.record.task_id not in self._watches:
            return []
        return told_events([(event, seen_attempt(task, event)) for event in events], task.told)

    def tell_waits(self, task: TaskState, at: float) -> None:
        """Tell the supervisor above all open waits of a nested run."""
        for watch in self._watches.get(task.record.task_id, ()):
            if isinstance(watch, Attendance):
                watch.tell(ClientEvent(WAITS, at, "", 1, waits_of(task)))

    def live(self, task: TaskState, place: NodeRun, kind: str, at: float, value: Value = None) -> None:
        """Tell the watchers of an event of a node run that is not recorded."""
        self.tell(task.record.task_id, ClientEvent(kind, at, place.path, place.attempt, value))

    def tell(self, task_id: str, event: ClientEvent, entry: int = 0) -> None:
        """Tell the watchers of an event; `entry` is the number of its journal entry, 0 if it is not recorded."""
        for watch in list(self._watches.get(task_id, ())):
            if watch.ask.backlog > MAX_BACKLOG or (watch.behind is not None and len(watch.behind) > MAX_BACKLOG):
                self._unwatch(watch, task_id, Overloaded(reason="this reader is too far behind", retry_after_s=0.1))
            elif watch.behind is None:
                watch.tell(event)
            else:
                watch.behind.append((entry, event))
