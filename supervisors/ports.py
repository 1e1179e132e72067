"""What governance needs of the world around it. `cluster/` provides it on Ray, in one process, or simulated.

Actors are single-threaded: every callback named here is called on the actor's own event loop, one at a time,
and an actor that is dead gets none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, overload

from ..protocols.errors import PodiumError
from ..protocols.outcomes import TaskRecord
from ..protocols.protocol import ProtocolLike
from ..protocols.values import Value

T = TypeVar("T")
Message: TypeAlias = tuple[Any, ...]
"""A NamedTuple of `supervisors/messages/`."""
WITHDRAWN = "withdrawn:"
"""Begins the names of notes in the coordinator's journal: workflows that were undeployed."""
DISMISSED = "dismissed:"
"""Note of a failed task that is no dead letter any more: the id of its successor, or "" if it was dropped."""
STALLED = "stalled:"
"""Note of an open task that is set aside: why."""
STUCK = "stuck:"
"""Note of an open task that nothing moves although it is not set aside: what is wrong."""
BLOCKED = "blocked:"
"""Begins the note of a protocol of which no host can start until the workflow is deployed again: why."""
Role = Literal["coordinator", "resources", "supervisor", "host"]
Level = Literal["debug", "info", "warning", "error"]
"""How much a line of the log matters. An operator looks at what is a warning or worse."""


class Load(NamedTuple):
    """What the machine and this actor's process are busy with."""

    cpu: float
    """Share in use, 0 to 1."""
    memory: float
    """Share in use, 0 to 1."""
    lag_s: float = 0.0
    """How late the event loop was, in seconds, when the last sample was due."""


@dataclass(slots=True)
class Reply:
    """The answer to one message: the fields of the class that the message names, or an error."""

    fields: Value = ()
    error: PodiumError | None = None

    def read(self, form: Callable[..., T]) -> T:
        """The reply as its class. Raises the error, if the answer is one."""
        if self.error is not None:
            raise self.error
        return form(*self.fields)


class Connection(Protocol):
    """The near side of an exchange with one other actor."""

    address: str

    def send(
        self,
        message: Message,
        on_reply: Callable[[Reply], None],
        on_chunk: Callable[[Value], None] | None = None,
    ) -> int:
        """Send a message that is answered once, after any number of chunks. Returns its number.

        The messages and what answers them are in `supervisors/messages/`.

        When the other side is lost, every open message is answered with PeerLost: the outcome is unknown.
        """

    def cancel(self, number: int) -> None:
        """Ask the other side to stop working on a message. It is still answered."""

    @overload
    def ask(self, message: Message) -> Awaitable[None]: ...
    @overload
    def ask(self, message: Message, form: Callable[..., T]) -> Awaitable[T]: ...
    def ask(self, message: Message, form: Callable[..., Any] | None = None) -> Awaitable[Any]:
        """`send`, to be awaited: gives the reply as its class `form`. Raises the error. Cancelling it cancels the
        message."""

    def watch(
        self,
        on_lost: Callable[[PodiumError], None],
        lease_s: float | None = None,
        may_compute: Callable[[float], bool] = lambda silent_s: False,
    ) -> None:
        """Keep a call out at all times, so that the death of the other side is known at once.

        With `lease_s` the other side also counts as lost when it has been silent for so long: it is stopped, or
        its event loop is blocked. But silence alone is no death: as long as its process uses the processor, and
        `may_compute` says that what it does may take so many seconds, it lives.
        """

    def lose(self, error: PodiumError) -> None:
        """The other side is known to be gone: every open message is answered with `error`."""

    @property
    def open_count(self) -> int:
        """Messages not answered yet."""

    def close(self) -> None:
        """Forget everything that is open, unanswered."""


class Incoming(Protocol):
    """One received message, to be answered exactly once. The receiver's `Door` reads kind and payload."""

    kind: str
    payload: Value
    cancelled: bool
    on_cancel: Callable[[], None] | None
    """Set by the actor that works on it, called at most once."""

    @property
    def backlog(self) -> int:
        """Answers and chunks, of all messages of the near side, that it has not fetched yet."""

    def reply(self, value: Message = ()) -> None: ...

    def refuse(self, error: PodiumError) -> None: ...

    def chunk(self, value: Value) -> None: ...


class Actor(Protocol):
    """What a cluster runs: it gets messages, one at a time, and answers them when it can."""

    async def start(self, setup: Mapping[str, Any]) -> Value:
        """Called once, before any message. Raising means that the actor did not start."""

    def receive(self, ask: Incoming) -> None: ...

    async def stop(self) -> None:
        """End in order. Not called when the actor is killed."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class World(Protocol):
    """All that one actor can touch outside its own memory."""

    address: str
    random: Random

    def now(self) -> float:
        """UTC seconds since 1970: for records and for deadlines that must survive a restart."""

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and measuring."""

    def clock(self) -> tuple[str, float]:
        """Which boot of which machine this is, and UTC less the machine's monotonic clock, in seconds: it changes when
        the clock is set."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...

    async def sleep(self, delay_s: float) -> None: ...

    async def all(self, works: Iterable[Awaitable[Any]]) -> list[Any]:
        """Await all at once; raise the first error, after all have ended."""

    def load(self) -> Load:
        """Of the machine, as of a moment ago: asking costs nothing."""

    def log(self, level: Level, event: str, /, **fields: object) -> None:
        """Say what the engine does, in one line with the address and the epoch of this actor. It never raises.

        `event` is always the same few words for the same thing; what differs is in the fields.
        """

    def keep_log(self, most_bytes: int, kept: int) -> None:
        """Keep what `log` is told in a file of the data directory, too, with `kept` older ones of `most_bytes` each."""

    def background(self, work: Awaitable[Any], name: str) -> None:
        """Run it beside everything else; if it raises, the actor crashes."""

    def crash(self, error: Exception) -> None:
        """End this actor at once; whoever is above it decides what follows."""

    def line(self, address: str) -> Connection:
        """A new exchange with the actor at `address`, whether it lives or not."""

    async def spawn(self, role: Role, address: str, setup: Mapping[str, Any], needs: Needs) -> Value:
        """Start an actor below this one and wait for its `start`; returns what that returned.

        It dies with this actor. Raises SpawnFailed, also if somebody has spawned there under a newer epoch than
        that of this actor's journal: then this actor has been overtaken.
        """

    async def kill(self, address: str) -> None:
        """End an actor and wait until it is certainly gone; no error if it was."""

    async def stop(self, address: str) -> None:
        """Let an actor end in order, within `stop_s`, then kill it."""

    async def open_journal(self, shard: str) -> Journal:
        """Take the shard over under the next epoch. Raises JournalCorrupt, JournalFailed, DataInUse."""

    async def open_count(self, shard: str) -> int:
        """Tasks of a shard that have not ended, read without taking it over."""

    def folder(self, name: str) -> str:
        """Path of a folder that lasts, for whoever names it; made if it is not there."""

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        """What takes the lines that steps of a protocol log, from any thread, and keeps them. It never raises."""

    def load_protocol(self, ref: str, code: bytes | None, search_path: list[str]) -> ProtocolLike:
        """The protocol, imported from `search_path` or unpickled. Raises LookupError."""

    async def run_command(self, command: str, text: str) -> None:
        """Run a command, split as a shell would, with `text` on its standard input. Raises HookFailed."""

    def from_thread(self, callback: Callable[[], None]) -> None:
        """Call back on the actor's loop, from any thread."""

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run blocking work off the event loop."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an actor needs of the machine it is placed on, in Ray's terms."""

    num_cpus: float = 0
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class NewTask:
    """Accept a task. The record's status tells whether it starts at once (running) or waits (pending)."""

    record: TaskRecord
    payload_digest: str


@dataclass(slots=True)
class Entry:
    """Add one row of packed events to a task; with `closing`, the task ends with it."""

    task_id: str
    n: int
    """1, 2, 3 … within the task, without gaps."""
    body: bytes
    closing: Closing | None = None


@dataclass(slots=True)
class Closing:
    status: str
    finished_at: float
    result: bytes | None
    trouble: bytes | None
    """Packed: why it failed, or what the result lacks."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The status of an open task has changed."""

    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class Note:
    """A named fact about the shard itself: definitions, children. None deletes it."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a finished task with its entries, and the runs below it (`<task_id>/…`). Nothing there is no error.

    One that is open fails the commit.
    """

    task_id: str


Change = NewTask | Entry | StatusChange | Note | Forget


@dataclass(frozen=True, slots=True)
class OpenTask:
    record: TaskRecord
    bodies: list[bytes]
    """Packed events in order, entry 1 first."""


class Doing(Protocol):
    """What the owner of a shard works on, kept where its death does not reach it."""

    before: str
    """What the last owner was doing when it died, "<task id> <entries>"; "" if it was doing nothing."""

    def begin(self, task_id: str, entry: int) -> None: ...

    def end(self) -> None: ...


class Journal(Protocol):
    """One shard, held by one incarnation under one epoch. Contract tests: tests/test_journal.py."""

    shard: str
    epoch: int

    @property
    def doing(self) -> Doing: ...

    on_failure: Callable[[PodiumError], None]
    """Called once when a commit fails: nothing of it or after it is acknowledged.

    Whether that commit is durable is unknown until the shard is opened again; nothing after it is.
    """

    def write(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        """Make all of `changes` durable, together, in the order of the calls; `then` runs when they are.

        What is queued while a commit runs goes into the next one.
        """

    def find(self, ids: list[str], keys: list[tuple[str, str]], then: Callable[[list[Found]], None]) -> None:
        """Look up tasks by id and by (user, key), after all earlier writes."""

    def entries(self, task_id: str, then: Callable[[list[bytes]], None]) -> None:
        """The packed events of one task, after all earlier writes."""

    async def open_tasks(self) -> list[OpenTask]:
        """Every task that has not ended, in the order of acceptance."""

    async def notes(self) -> dict[str, Value]: ...

    async def forgettable(self, before: float, limit: int) -> list[str]:
        """Ids of tasks that finished before that time (UTC), oldest id first, at most `limit`.

        A task whose id follows one that was accepted after `before` may be left out until later.
        """

    async def finished_count(self) -> int:
        """Tasks that have ended and are not forgotten. Reads the whole index of tasks: not for every second."""

    async def close(self) -> None:
        """Write what is queued, then let the shard go."""


@dataclass(frozen=True, slots=True)
class Found:
    record: TaskRecord
    payload_digest: str


async def durable(journal: Journal, changes: Sequence[Change] = ()) -> None:
    """Write, and return when it is durable and this incarnation still owns the shard. If it fails, the actor
    crashes by `on_failure`, and this never returns."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    journal.write(list(changes), lambda: None if done.done() else done.set_result(None))
    await done
