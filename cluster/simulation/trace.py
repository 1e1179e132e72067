"""The trace of a simulation: one line per event in virtual time, to find out why a seed failed.

A line has the second, the actor, and the event: an actor starts or dies, a fault happens, a frame is carried or lost,
a commit is on the disk. A simulation without a trace, the usual case, only checks one attribute per frame and per
fault. A trace draws no random numbers and schedules nothing, so it does not change the run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import assert_never

from ...protocols.errors import InvalidInput, PodiumError
from ...protocols.values import unpack
from ...supervisors.ports.journal import Change, Entry, Forget, NewTask, Note, Standing
from ...supervisors.tasks.events import unpack_events
from ..store.memory.disk import Disk
from ..store.memory.journal import MemoryJournal
from .virtual_loop import START

KEPT = 200
"""Default number of lines that a trace keeps."""


class Trace:
    """A trace that keeps the last lines. `told` is called with each event, in capitals for a fault, and its line."""

    def __init__(self, told: Callable[[str, str], None] = lambda _event, _line: None, kept: int = KEPT) -> None:
        self.lines: deque[str] = deque(maxlen=kept)
        self.count = 0
        """Number of lines noted so far, whether they are kept or not."""
        self.clock: Callable[[], float] = lambda: START
        """Returns the virtual time of the loop. The simulation sets it."""
        self._told = told

    def note(self, actor: str, event: str, detail: object = "") -> None:
        line = f"{self.clock() - START:12.4f}  {actor:<28}  {event:<15}  {detail}".rstrip()
        self.count += 1
        self.lines.append(line)
        self._told(event, line)

    def frame(self, address: str, event: str, frame: bytes) -> None:
        """Note a frame of an exchange (actors/exchange.py) that goes to `address`."""
        self.note(address, event, contents_of(frame))

    def __str__(self) -> str:
        left_out = self.count - len(self.lines)
        before = [f"(the last {len(self.lines):,} of {self.count:,} lines)"] if left_out else []
        return "\n".join([*before, *self.lines])


def contents_of(frame: bytes) -> str:
    """Describe a frame: its sender, its number, and how many messages of each kind it has."""
    try:
        session, number, _unanswered, _received, messages = unpack(frame, len(frame))
    except InvalidInput as error:
        return f"cannot be read: {error}"
    kinds = Counter(str(message[1]) for message in messages)
    named = ", ".join(kind if times == 1 else f"{times} {kind}" for kind, times in kinds.items())
    return f"from {session}, frame {number}: {named or 'nothing new'}"


class TracedJournal(MemoryJournal):
    """A journal that notes each change in the trace once the change is on the disk."""

    def __init__(
        self, trace: Trace, disk: Disk, shard: str, delay_s: Callable[[], float], is_reached: Callable[[], bool]
    ) -> None:
        super().__init__(disk, shard, delay_s, is_reached)
        self._trace = trace
        trace.note(self.shard, "opens its shard", f"epoch {self.epoch}")

    def _apply(self, change: Change) -> None:
        super()._apply(change)
        self._trace.note(self.shard, "has written", written(change))

    def _fail(self, error: PodiumError) -> None:
        self._trace.note(self.shard, "cannot write", error)
        super()._fail(error)


def written(change: Change) -> str:
    """Describe a change of the journal in a few words."""
    match change:
        case NewTask():
            return f"{change.record.task_id} accepted"
        case Entry():
            events = unpack_events(change.body)
            named = [" ".join([type(event).__name__, getattr(event, "path", "")]).strip() for event in events]
            end = f", the task is {change.closing.status}" if change.closing is not None else ""
            return f"{change.task_id} entry {change.n}: {', '.join(named)}{end}"
        case Standing():
            waits = [f"waits {wait.path}" for wait in change.waits] + [f"no more {path}" for path in change.over]
            return ", ".join([f"{change.task_id} is {change.status}", *waits])
        case Note():
            return f"note {change.name}" if change.value is not None else f"no note {change.name}"
        case Forget():
            return f"{change.task_id} forgotten"
        case _:
            assert_never(change)
