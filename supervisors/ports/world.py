"""What governance needs of the world around it, in small ports that one world joins.

`cluster/` provides a world on Ray, in one process, or simulated. Actors are single-threaded: every callback named here
is called on the actor's own event loop, one at a time, and an actor that is dead gets none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

from ...protocols.protocol import ProtocolLike
from ...protocols.values import Value
from .journal import Journal
from .messaging import Connection

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


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What an actor needs of the machine it is placed on, in Ray's terms."""

    num_cpus: float = 0
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)


class Clocks(Protocol):
    """What time it is."""

    def now(self) -> float:
        """UTC seconds since 1970: for records and for deadlines that must survive a restart."""

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and measuring."""

    def clock(self) -> tuple[str, float]:
        """Which boot of which machine this is, and UTC less the machine's monotonic clock, in seconds: it changes when
        the clock is set."""


class Scheduling(Protocol):
    """Work on the actor's event loop, and beside it."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...

    async def sleep(self, delay_s: float) -> None: ...

    async def all(self, works: Iterable[Awaitable[Any]]) -> list[Any]:
        """Await all at once; raise the first error, after all have ended."""

    def background(self, work: Awaitable[Any], name: str) -> None:
        """Run it beside everything else; if it raises, the actor crashes."""

    def from_thread(self, callback: Callable[[], None]) -> None:
        """Call back on the actor's loop, from any thread."""

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run blocking work off the event loop."""


class Timing(Clocks, Scheduling, Protocol):
    """Waiting until a time has come."""


class Spawning(Protocol):
    """Other actors: started, ended, and talked to."""

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


class Storage(Protocol):
    """Shards, folders and logs that last."""

    async def open_journal(self, shard: str) -> Journal:
        """Take the shard over under the next epoch. Raises JournalCorrupt, JournalFailed, DataInUse."""

    async def open_count(self, shard: str) -> int:
        """Tasks of a shard that have not ended, read without taking it over."""

    def folder(self, name: str) -> str:
        """Path of a folder that lasts, for whoever names it; made if it is not there."""

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        """What takes the lines that steps of a protocol log, from any thread, and keeps them. It never raises."""


class Machine(Protocol):
    """The machine, the code of users, and commands."""

    def load(self) -> Load:
        """Of the machine, as of a moment ago: asking costs nothing."""

    def load_protocol(self, ref: str, code: bytes | None, search_path: list[str]) -> ProtocolLike:
        """The protocol, imported from `search_path` or unpickled. Raises LookupError."""

    async def run_command(self, command: str, text: str) -> None:
        """Run a command, split as a shell would, with `text` on its standard input. Raises HookFailed."""


class Logging(Protocol):
    """What the engine says of itself."""

    def log(self, level: Level, event: str, /, **fields: object) -> None:
        """Say what the engine does, in one line with the address and the epoch of this actor. It never raises.

        `event` is always the same few words for the same thing; what differs is in the fields.
        """

    def keep_log(self, most_bytes: int, kept: int) -> None:
        """Keep what `log` is told in a file of the data directory, too, with `kept` older ones of `most_bytes` each."""


class World(Clocks, Scheduling, Spawning, Storage, Machine, Logging, Protocol):
    """All that one actor can touch outside its own memory."""

    address: str
    random: Random

    def crash(self, error: Exception) -> None:
        """End this actor at once; whoever is above it decides what follows."""
