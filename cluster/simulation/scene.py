"""The state of one simulated run, which its cluster, its worlds and its faults share."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from ...supervisors.ports.world import Level
from ..config import Settings
from ..engine_log import facts_of, line_of
from ..store.memory.disk import Disk
from .trace import Trace
from .virtual_loop import VirtualLoop

LOGGED = 1_000
"""Number of log lines that a simulation keeps."""
EPOCH_UTC = 1_700_000_000.0
"""Wall-clock time at which every simulation begins, in UTC seconds."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of a simulation. The seed decides when they happen."""

    lose_request: float = 0.0
    """The probability that a message between actors is lost before it is handled."""
    lose_reply: float = 0.0
    """The probability that a message is handled, but its answer is lost."""
    repeat: float = 0.0
    """The probability that a message arrives twice."""
    delay_s: float = 0.0
    """The upper bound of the delay of each message, in seconds."""
    commit_s: float = 0.0
    """The upper bound of the time of each commit to the journal, in seconds."""
    kills: int = 0
    """The number of actors that are killed at random moments. Everything that they own dies with them."""
    kill_within_s: float = 10.0
    """The time in seconds, from the start, in which kills, freezes and clock jumps happen."""
    kill_all: bool = False
    """If true, one of the kills takes the whole cluster."""
    freezes: int = 0
    """The number of actors that are stopped at random moments, as SIGSTOP does."""
    freeze_s: float = 0.0
    """The upper bound of the time for which they are stopped, in seconds."""
    zombies: float = 0.0
    """The probability that a stopped actor cannot be killed meanwhile, and comes back beside its successor. Hosts can
    always be killed."""
    clock_jumps: int = 0
    """The number of times that the wall clock is set forward or back."""
    clock_jump_s: float = 3_600.0
    """The upper bound of each such jump, in seconds."""
    machine_kills: int = 0
    """The number of machines that lose their power at random moments. The client's machine is spared."""
    boot_s: float = 60.0
    """The upper bound of the time until such a machine starts again, in seconds."""
    drains: int = 0
    """The number of machines that will be taken away, which is known in advance. The client's machine is spared."""
    drain_s: float = 60.0
    """The upper bound of the time from that until they lose their power, in seconds."""
    cuts: int = 0
    """The number of machines that are cut off at random moments, from everything or only from the store."""
    cut_s: float = 60.0
    """The upper bound of the time for which they are cut off, in seconds."""
    store_stops: int = 0
    """The number of times that the store is stopped, so that no machine reaches it."""
    store_stop_s: float = 10.0
    """The upper bound of the time for which it is stopped, in seconds."""
    blob_stops: int = 0
    """The number of times that the blob store is away."""
    blob_stop_s: float = 10.0
    """The upper bound of the time for which it is away, in seconds."""


NO_FAULTS = Faults()


class Scene:
    """The settings, the disk and the clocks of one run, and a record of the things that happened in it."""

    def __init__(
        self,
        seed: int = 0,
        limits: Mapping[str, int] | None = None,
        faults: Faults = NO_FAULTS,
        **settings: Any,
    ) -> None:
        self.seed, self.faults = seed, faults
        self.rng = Random(seed)
        self.settings = Settings(data=Path("/simulated"), user="sim", limits=limits or {}, **settings)
        self.disk = Disk()
        self.killed: list[str] = []
        """The addresses of the actors that died by a fault, in order."""
        self.clock_offset_s = 0.0
        self.blobs_back_at = 0.0
        """The simulated time until which the blob store is away, in seconds."""
        self.cpu_used = self.memory_used = 0.0
        """The shares of CPU and memory in use, from 0 to 1; set them to simulate load."""
        self.told: list[tuple[str, str]] = []
        """The commands that were run (`on_alert`), each with its standard input."""
        self.frozen: list[str] = []
        """The addresses of the actors that were stopped, in order."""
        self.logged: deque[tuple[Level, str]] = deque(maxlen=LOGGED)
        """The last lines that the actors logged, each with its level."""
        self.trace: Trace | None = None
        """The trace that notes each thing that happens, if it is set before `run`."""
        self.loop = VirtualLoop()
        self._folders: tempfile.TemporaryDirectory[str] | None = None

    def now(self) -> float:
        """The simulated time, in UTC seconds since 1970."""
        return EPOCH_UTC + self.loop.time() + self.clock_offset_s

    def folder(self, name: str) -> str:
        """Return the path that `ctx.folder` gives: a real folder, which is removed with the simulation."""
        if self._folders is None:
            self._folders = tempfile.TemporaryDirectory(prefix="podium-")
        path = Path(self._folders.name) / quote(name, safe="")
        path.mkdir(exist_ok=True)
        return str(path)

    @property
    def blobs_are_there(self) -> bool:
        """Whether the blob store can be used now."""
        return self.loop.time() >= self.blobs_back_at

    def note(self, actor: str, event: str, detail: object = "") -> None:
        if self.trace is not None:
            self.trace.note(actor, event, detail)

    def log(self, address: str, epoch: int, level: Level, event: str, fields: Mapping[str, object]) -> None:
        """Keep a log line of an actor in `logged`, which has the last lines, and in the trace."""
        self.logged.append((level, line_of(address, epoch, event, fields)))
        if self.trace is not None:
            self.trace.note(address, f"says: {event}", facts_of(fields))

    def note_frame(self, address: str, event: str, frame: bytes) -> None:
        if self.trace is not None:
            self.trace.frame(address, event, frame)
