"""The ports of actors to the world around them. They are small, and one `World` joins them.

`cluster/` provides a world on Ray, in one process, or simulated. Actors are single-threaded: every callback here is
called on the actor's own event loop, one at a time. A dead actor gets no callbacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

from ...protocols.file import Drafting
from ...protocols.protocol import ProtocolLike
from ...protocols.values import Value
from .blobs import BlobStore
from .journal import Journal, Rest
from .messaging import Connection

Role = Literal["coordinator", "resources", "supervisor", "host", "standby"]
Level = Literal["debug", "info", "warning", "error"]
"""Level of a log line. An operator has to look at warnings and errors."""


class Load(NamedTuple):
    """The load of the machine, and of this actor's event loop."""

    cpu: float
    """Share of the processors in use, 0 to 1."""
    memory: float
    """Share of the memory in use, 0 to 1."""
    lag_s: float = 0.0
    """Seconds by which the event loop was late when the last sample was due."""


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment that an actor's process needs. It is prepared before the process starts."""

    spec: Mapping[str, Any]
    """A `RuntimeEnv` (protocols/environment.py) as plain data."""
    packages: Mapping[str, bytes]
    """The packed folders that it names, by key. A key may be missing, if nobody has the package any more."""
    timeout_s: float
    """Seconds in which it has to be ready."""


@dataclass(frozen=True, slots=True)
class Needs:
    """The resources and the environment that an actor needs on its machine, in Ray's terms."""

    num_cpus: float = 0
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    spread: bool = False
    """Whether actors with these needs are to be spread over the machines."""
    may_wait: bool = False
    """Whether the start waits for as long as no machine has room. Else it fails after some time."""
    environment: Environment | None = None


class Clocks(Protocol):
    """Reads the clocks."""

    def now(self) -> float:
        """UTC seconds since 1970, for records and for deadlines that must survive a restart."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps, for waiting and measuring."""

    def clock(self) -> tuple[str, float]:
        """Return a name of this boot of this machine, and UTC minus the machine's monotonic clock, in seconds.

        The difference changes when the system clock is set.
        """


class Scheduling(Protocol):
    """Work on the actor's event loop, and beside it."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...

    async def sleep(self, delay_s: float) -> None: ...

    async def all(self, works: Iterable[Awaitable[Any]]) -> list[Any]:
        """Await all works at the same time. Raises the first error, after all have ended."""

    def background(self, work: Awaitable[Any], name: str) -> None:
        """Run work beside everything else; if it raises, the actor crashes."""

    def from_thread(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the actor's event loop. This may be called in any thread."""

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run blocking work off the event loop."""


class Timing(Clocks, Scheduling, Protocol):
    """Reads the clocks and schedules work: for parts that wait until a time has come."""


class Spawning(Protocol):
    """Starts and ends other actors, and connects to them."""

    def line(self, address: str) -> Connection:
        """Make a new connection to the actor at `address`, whether it lives or not."""

    async def spawn(self, role: Role, address: str, setup: Mapping[str, Any], needs: Needs) -> Value:
        """Start an actor below this actor and await its `start`; returns the value that `start` returned.

        The new actor dies with this actor. Raises SpawnFailed; also if an actor was spawned at this address under a
        newer epoch than that of this actor's journal: then this actor has been overtaken.
        """

    async def kill(self, address: str) -> None:
        """End an actor and wait until it is certainly gone. It is no error if it was gone before."""

    async def stop(self, address: str) -> None:
        """Let an actor end in order within `stop_s` seconds, then kill it."""

    def leave(self) -> None:
        """End this actor at once; it has stopped in order."""

    async def hand_over(self) -> bool:
        """Make another machine the home of the cluster: the coordinator that starts there ends this one.

        Returns False if there is no such machine, or the cluster is to end with this one. Raises PodiumError.
        """

    on_leaving: Callable[[Mapping[str, float]], None]
    """Called with the addresses of actors whose machine will be taken away, and the seconds until then: of this actor,
    and of those that it spawned. Called once for each of them."""


class Blobs(Protocol):
    """Gives access to the blob store."""

    @property
    def blobs(self) -> BlobStore: ...

    @property
    def blobs_setting(self) -> str:
        """The setting `blobs`, with the name of the installation there; "" if blobs are beside the journal."""

    def blobs_for_code(self, timeout_s: float) -> Drafting:
        """Return the blob store for blocking code of users, which waits as long as that for a store that is away."""

    async def named_blobs(self) -> set[str]:
        """Return the names of the blobs that tasks name, from all shards. Raises JournalCorrupt, JournalFailed."""


class Working(Timing, Blobs, Protocol):
    """Gives what reading and storing the large parts of values needs."""


class Storage(Blobs, Protocol):
    """Opens shards, folders and logs that outlive the actor."""

    async def open_journal(self, shard: str) -> Journal:
        """Take the shard over under the next epoch. Raises JournalCorrupt, JournalFailed, DataInUse."""

    async def open_count(self, shard: str) -> int:
        """Count the tasks of a shard that have not ended, without taking the shard over."""

    async def rest(self, shard: str) -> Rest:
        """Return who rests in a shard, without taking the shard over."""

    def folder(self, name: str) -> str:
        """Return the path of a lasting folder with this name. The folder is made if it is not there."""

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        """Open the log of a protocol; returns the function that writes a line. It never raises, in any thread.

        Args:
            most_bytes: size at which the log is rotated.
            kept: number of rotated logs that are kept.
        """


class Machine(Protocol):
    """Gives access to the machine, the code of users, and commands."""

    def load(self) -> Load:
        """Return the load of the machine as of a moment ago. A call costs next to nothing."""

    def load_protocol(self, ref: str, code: bytes | None, search_path: list[str]) -> ProtocolLike:
        """Import a protocol from `search_path`, or unpickle it from `code`. Raises LookupError."""

    def read_secret(self, source: str) -> str:
        """Return the text at `env:VARIABLE` or `file:/path` of this machine. Raises OSError or LookupError."""

    async def run_command(self, command: str, text: str) -> None:
        """Run a command, split as a shell would, with `text` on its standard input. Raises HookFailed."""


class Logging(Protocol):
    """Writes the log of the engine."""

    def log(self, level: Level, event: str, /, **fields: object) -> None:
        """Log what the engine does, in one line with the address and the epoch of this actor. It never raises.

        `event` is always the same few words for the same kind of event; the details are in the fields.
        """

    def keep_log(self, most_bytes: int, kept: int) -> None:
        """Write the lines of `log` to a file of the data directory, too, with `kept` rotated files of `most_bytes`."""


class World(Clocks, Scheduling, Spawning, Storage, Machine, Logging, Protocol):
    """Everything that one actor can touch outside its own memory."""

    address: str
    random: Random

    def crash(self, error: Exception) -> None:
        """End this actor at once; the level above decides what follows."""
