"""Who waits for what of a task: followers for its end, watchers for everything that happens live.

A follower gets one chunk ["done", id, status, result, failure, finished at, degraded] per task. A watcher gets chunks
[kind, at, step, attempt, value, offset] in the order of the journal, first what happened before it came, from an offset
on. Offsets count what is recorded of the task, from 0, which is its acceptance; what is told live only has none. So a
watcher may go away and come again without loss or repetition. One that reads too slowly is sent away, and comes again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ..protocols.errors import Overloaded, PodiumError
from ..protocols.outcomes import TaskRecord
from ..protocols.values import Value
from .events import (
    OF_THE_TASK,
    Abandoned,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Event,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    Skewed,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
)
from .modes.parallel import sizes_around
from .ports import Ask
from .state import Place, TaskState

MAX_BACKLOG = 10_000
"""Events that may wait for one reader."""
_RELAYED = frozenset({"chunk", "cut", "retrying", "lost", "failed", "timed_out"})


def is_relayed(event: list[Value]) -> bool:
    """Whether the record of the whole task has it, too, if it is of a nested Hierarchy: chunks, and what makes them
    count no more."""
    return event[0] in _RELAYED and event[2] != "" and event[5] is not None


@dataclass(slots=True, eq=False)
class Follow:
    ask: Ask
    left: set[str]


@dataclass(slots=True, eq=False)
class Watch:
    ask: Ask
    since: int = 0
    """Recorded events before this offset are not told."""
    behind: list[tuple[int, list[Value]]] | None = field(default_factory=list)
    """Live events that wait until the past is told; None when it is."""
    end: tuple[TaskRecord, int] | None = None
    """How the task ended, and the offset of that, if the past was not told by then."""

    def tell(self, event: list[Value]) -> None:
        if event[5] is None or event[5] >= self.since:
            self.ask.chunk(event)

    def finish(self, record: TaskRecord, offset: int) -> None:
        if self.behind is not None:
            self.end = (record, offset)
        else:
            self.close(record, offset)

    def close(self, record: TaskRecord, offset: int) -> None:
        """The last that it is told."""
        self.tell(end_event(record, offset))
        self.ask.reply()


@dataclass(slots=True, eq=False)
class Attendance(Watch):
    """Of the supervisor above, whose task this one is a part of: it gets what it is to record, and as the answer how
    the task ended."""

    def tell(self, event: list[Value]) -> None:
        if is_relayed(event):
            Watch.tell(self, event)

    def close(self, record: TaskRecord, offset: int) -> None:
        self.ask.reply(done_chunk(record))


class Watchers:
    def __init__(self) -> None:
        self._follows: dict[str, list[Follow]] = defaultdict(list)
        self._watches: dict[str, list[Watch]] = defaultdict(list)

    def follow(self, ask: Ask, ids: list[str]) -> None:
        """Send a chunk for each of `ids` when it ends, and answer `ask` after the last."""
        follow = Follow(ask, set(ids))
        for id in ids:
            self._follows[id].append(follow)
        ask.on_cancel = lambda: self._unfollow(follow)
        if not ids:
            ask.reply()

    def ended(self, record: TaskRecord, offset: int) -> None:
        """Tell everybody that the task ended; its records are durable by now. `offset` is that of its end."""
        if record.task_id not in self._follows and record.task_id not in self._watches:
            return
        chunk = done_chunk(record)
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

    def caught_up(self, watch: Watch, past: list[list[Value]], entries: int) -> None:
        """The past up to journal entry `entries` has been read: tell it, then what came meanwhile."""
        behind, watch.behind = watch.behind or [], None
        later = [event for n, event in behind if n == 0 or n > entries]
        live = {(event[0], event[2], event[3]) for event in later if event[0] == "started"}
        for event in [event for event in past if (event[0], event[2], event[3]) not in live] + later:
            watch.tell(event)
        if watch.end is not None:
            watch.finish(*watch.end)

    def is_watched(self, task_id: str) -> bool:
        return task_id in self._watches

    def see(self, task: TaskState, events: list[Event]) -> list[list[Value]]:
        """Events that are about to be folded and recorded, as watchers see them, if there are any: who comes later
        reads them in the journal."""
        if task.record.task_id not in self._watches:
            return []
        return told_events([(event, _attempt(task, event)) for event in events], task.told)

    def live(self, task: TaskState, place: Place, kind: str, at: float, value: Value = None) -> None:
        """Something that is not recorded happened at a place."""
        self.tell(task.record.task_id, [kind, at, place.path, place.attempt, value, None])

    def tell(self, task_id: str, event: list[Value], entry: int = 0) -> None:
        """A live event; `entry` is its number in the journal, 0 for one that is not journalled."""
        for watch in list(self._watches.get(task_id, ())):
            if watch.ask.backlog > MAX_BACKLOG or (watch.behind is not None and len(watch.behind) > MAX_BACKLOG):
                self._unwatch(watch, task_id, Overloaded(reason="this reader is too far behind", retry_after_s=0.1))
            elif watch.behind is None:
                watch.tell(event)
            else:
                watch.behind.append((entry, event))


_UNTOLD = (Cancelled, Abandoned, Due, StepBegan, Skewed)
"""Events that no watcher sees."""


def done_chunk(record: TaskRecord) -> list[Value]:
    failure = record.failure.to_wire() if record.failure else None
    return ["done", record.task_id, record.status, record.result, failure, record.finished_at, record.degraded]


def told_events(events: list[tuple[Event, int]], first: int) -> list[list[Value]]:
    """Journalled events, with their attempts, as watchers see them; `first` is the offset of the first."""
    told: list[list[Value]] = []
    for event, attempt in events:
        if isinstance(event, Emitted):
            told += [["chunk", event.at, event.path, event.attempt, chunk] for chunk in event.chunks]
            if event.is_cut:
                told.append(["cut", event.at, event.path, event.attempt, None])
        elif isinstance(event, Relayed):
            told += event.events
        else:
            seen = _seen(event, attempt)
            told += [] if seen is None else [seen]
    return [[*event, first + n] for n, event in enumerate(told)]


def _attempt(task: TaskState, event: Event) -> int:
    """The attempt that an event is of, before it is folded in."""
    if isinstance(event, OF_THE_TASK):
        return 1
    place = task.running.get(event.path) or task.timed.get(event.path)
    return 1 if place is None else place.attempt


def started_value(place: Place) -> Value:
    """What `started` says of a step in an item of a list, None of another."""
    sizes = sizes_around(place)
    return {"of": sizes} if sizes else None


def put_started(past: list[list[Value]], place: Place, now: float) -> None:
    """Tell that its attempt is running: it began, at the latest, with the first thing that it emitted."""
    run = [place.path, place.attempt]
    own = (at for at, event in enumerate(past) if event[0] == "chunk" and event[2:4] == run)
    first = next(own, len(past))
    past.insert(first, ["started", past[first][1] if first < len(past) else now, *run, started_value(place), None])


def count_told(event: Event) -> int:
    """How many events watchers see of a journalled one."""
    if isinstance(event, Emitted):
        return len(event.chunks) + event.is_cut
    if isinstance(event, Relayed):
        return len(event.events)
    return not isinstance(event, _UNTOLD)


def _seen(event: Event, attempt: int) -> list[Value] | None:
    """A journalled event as watchers see it."""
    match event:
        case StepFinished():
            return ["finished", event.at, event.path, attempt, event.output]
        case StepFailed(retry_at=None):
            return ["failed", event.at, event.path, attempt, event.failure.to_wire()]
        case StepFailed():
            value = {"failure": event.failure.to_wire(), "retry_at": event.retry_at}
            return ["retrying", event.at, event.path, attempt, value]
        case StepLost() | Restarted():
            return ["lost", event.at, event.path, attempt, None]
        case TimedOut():
            return ["timed_out", event.at, event.path, attempt, None]
        case Overdue():
            return ["timed_out", event.at, "", 1, None]
        case Redriven():
            return ["redriven", event.at, "", 1, event.of]
        case Dropped():
            return ["dropped", event.at, "", 1, None]
        case _:
            return None


def parked_event(at: float) -> list[Value]:
    """Something of the task waits until somebody decides."""
    return ["parked", at, "", 1, None, None]


def past_events(record: TaskRecord, events: list[Event]) -> list[list[Value]]:
    """Everything journalled so far as watchers see it, with attempts counted."""
    attempts: dict[str, int] = defaultdict(lambda: 1)
    counted = []
    for event in events:
        path = "" if isinstance(event, OF_THE_TASK) else event.path
        counted.append((event, attempts[path]))
        if isinstance(event, StepFailed):
            attempts[path] += 1
    return [["accepted", record.accepted_at, "", 1, None, 0], *told_events(counted, 1)]


def end_event(record: TaskRecord, offset: int) -> list[Value]:
    value = record.failure.to_wire() if record.failure else record.result
    return [record.status, record.finished_at, "", 1, value, offset]
