"""The simulated cluster: the real actors in one process, in virtual time, with seeded faults.

Public as `podium.testing`. Nothing here waits: an hour of time-outs passes in milliseconds. The same seed gives the
same run. After a crash no code of the dead actor runs, not even `finally` blocks. Frames are lost, repeated and
delayed, and commits take time. A crash leaves on the simulated disk what it would leave on a real one. Plain protocols
run on the event loop, so they must not block: use `await asyncio.sleep(...)` to wait.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote

from ...actors.host import ProtocolHost
from ...protocols.errors import PeerUnreachable, PodiumError
from ...protocols.workflow import Workflow
from ...supervisors.ports.journal import Journal
from ...supervisors.ports.messaging import Connection
from ...supervisors.ports.world import Level, Load
from ..client.engine_async import AsyncEngine
from ..config import Settings
from ..engine_log import facts_of, line_of
from ..inprocess.cluster import Cell, CellWorld, InProcessCluster
from ..session import COORDINATOR, coordinator_setup
from ..store.contract import Ownership, Reader
from ..store.memory.disk import Disk
from ..store.memory.journal import MemoryJournal
from ..store.memory.reading import DiskReader
from ..store.sqlite.store import FolderOwnership
from ..world import LoopWorld
from .trace import Trace, TracedJournal
from .virtual_loop import Process, VirtualLoop, in_process

T = TypeVar("T")

COORDINATOR_RESTART_S = 0.5
"""Simulated seconds until a dead coordinator is started again, as Ray would do."""
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


NO_FAULTS = Faults()


class Simulation:
    """One simulated run: `run` gives an `AsyncEngine` to your async function and returns its result.

    The same seed gives the same run. `limits` and other settings are those of `connect`. Plain protocols run on the
    event loop here, so they must not block.
    """

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
        self.cluster: SimulatedCluster
        self.loop = VirtualLoop()
        self._folders: tempfile.TemporaryDirectory[str] | None = None

    def run(self, work: Callable[[AsyncEngine], Awaitable[T]], within_s: float = 100_000.0) -> T:
        """Run `work(engine)` to its end, in simulated time, and return its result.

        Raises:
            TimeoutError: It has not ended within `within_s` simulated seconds.
        """
        try:
            return self.loop.run_until_complete(asyncio.wait_for(self._run(work), within_s))
        finally:
            self.loop.close()
            if self.loop.uncaught:
                raise self.loop.uncaught[0]

    async def _run(self, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
        self.cluster = SimulatedCluster(self)
        if self.trace is not None:
            self.trace.clock = self.loop.time
        chaos = self.loop.create_task(self._chaos())
        async with AsyncEngine(self.settings, _SimulatedSession(self)) as engine:
            result = await work(engine)
            chaos.cancel()
            return result

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

    def kill(self, address: str) -> None:
        """Kill the actor at `address` now, with everything that it owns."""
        self.note(address, "IS KILLED")
        self.killed.append(address)
        self.cluster.kill(address)

    def freeze(self, address: str, for_s: float, out_of_reach: bool = False) -> None:
        """Stop the actor at `address`, as SIGSTOP does, and let it go on after `for_s` seconds.

        If `out_of_reach`, it cannot be killed while it is stopped, and comes back beside its successor.
        """
        cell = self.cluster.alive(address)
        if cell is None or cell.process is None:
            return
        self.note(address, "IS STOPPED", f"for {for_s:.1f} s{', out of reach' if out_of_reach else ''}")
        self.frozen.append(address)
        cell.out_of_reach = out_of_reach
        cell.process.freeze()
        in_process(None, lambda: self.loop.call_later(for_s, self._thaw, cell))

    def _thaw(self, cell: Cell) -> None:
        self.note(cell.address, "goes on", f"dead: {cell.dead.reason}" if cell.dead else "")
        cell.out_of_reach = False
        if cell.process is not None:
            in_process(None, cell.process.thaw)

    def kill_all(self) -> None:
        """Kill every actor, as a power failure does. The cluster comes back by itself."""
        self.kill(COORDINATOR)

    async def _chaos(self) -> None:
        faults, rng = self.faults, self.rng
        strokes = [self._strike] * faults.kills + [self._stop_one] * faults.freezes + [self._jump] * faults.clock_jumps
        if faults.kill_all and faults.kills:
            strokes[rng.randrange(faults.kills)] = self.kill_all
        rng.shuffle(strokes)
        moments = sorted(rng.uniform(0, faults.kill_within_s) for _ in strokes)
        began = self.loop.time()
        for moment, stroke in zip(moments, strokes, strict=True):
            await asyncio.sleep(began + moment - self.loop.time())
            stroke()

    def _strike(self) -> None:
        """Kill a random actor, before one of its next 40 callbacks."""
        cell = self._victim()
        if cell is not None and cell.process is not None:
            cell.process.after(self.rng.randint(1, 40), lambda: self._kill_cell(cell))

    def _kill_cell(self, cell: Cell) -> None:
        if cell.dead is None and self.cluster.alive(cell.address) is cell:
            self.kill(cell.address)

    def _stop_one(self) -> None:
        cell = self._victim()
        if cell is not None:
            # a host runs where its supervisor does, or is killed by the kernel: only governors can be cut off
            governs = not isinstance(cell.actor, ProtocolHost)
            out_of_reach = governs and self.rng.random() < self.faults.zombies
            self.freeze(cell.address, self.rng.uniform(0, self.faults.freeze_s), out_of_reach)

    def _jump(self) -> None:
        self.clock_offset_s = self.rng.uniform(-self.faults.clock_jump_s, self.faults.clock_jump_s)
        self.note("-", "CLOCK IS SET", f"{self.clock_offset_s:+.1f} s off")

    def _victim(self) -> Cell | None:
        victims = self.cluster.addresses()
        return self.cluster.alive(self.rng.choice(victims)) if victims else None


class SimulatedCluster(InProcessCluster):
    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation.settings.store)
        self._simulation = simulation

    def addresses(self) -> list[str]:
        """Return the addresses of all living actors but the coordinator, with which all others would die."""
        return [address for address in self._cells if address != COORDINATOR and self.alive(address)]

    def every_address(self) -> list[str]:
        """Return all addresses that were spawned and not killed since, the coordinator's too."""
        return list(self._cells)

    def new_world(self, cell: Cell) -> LoopWorld:
        cell.process = Process(cell.address)
        self._simulation.note(cell.address, "starts", f"owned by {cell.owner.address}" if cell.owner else "")
        return _SimulatedWorld(self, cell, self._simulation)

    async def run_in(self, cell: Cell, work: Awaitable[T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        cell.calls.add(answer)

        async def inside() -> None:
            try:
                value = await work
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(value)

        in_process(cell.process, lambda: loop.create_task(inside()))
        try:
            return await answer
        finally:
            cell.calls.discard(answer)

    async def carry(self, cell: Cell, frame: bytes) -> bytes:
        simulation = self._simulation
        faults, rng = simulation.faults, simulation.rng
        await asyncio.sleep(rng.uniform(0, faults.delay_s))
        if rng.random() < faults.lose_request:
            simulation.note_frame(cell.address, "REQUEST LOST", frame)
            raise PeerUnreachable(address=cell.address, reason="the request was lost")
        simulation.note_frame(cell.address, "gets a frame", frame)
        if rng.random() < faults.repeat:
            simulation.note_frame(cell.address, "FRAME REPEATED", frame)
            repeated = asyncio.get_running_loop().create_task(super().carry(cell, frame))
            repeated.add_done_callback(lambda done: done.cancelled() or done.exception())
        answer = await super().carry(cell, frame)
        if rng.random() < faults.lose_reply:
            simulation.note_frame(cell.address, "REPLY LOST", frame)
            raise PeerUnreachable(address=cell.address, reason="the reply was lost")
        return answer

    def kill(self, address: str) -> None:
        cell = self.alive(address)
        super().kill(address)
        if cell is not None and address == COORDINATOR and not self.closing:
            in_process(None, lambda: asyncio.get_running_loop().create_task(self._restart_coordinator()))

    closing = False

    async def _restart_coordinator(self) -> None:
        await asyncio.sleep(COORDINATOR_RESTART_S)
        setup = {**coordinator_setup(self._simulation.settings), "cold": False}
        await self.spawn(None, "coordinator", COORDINATOR, setup)


class SimulatedStore:
    """The store of a simulation. Its commits take simulated time."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.reader: Reader = DiskReader(simulation.disk)

    def ownership(self) -> Ownership:
        return FolderOwnership()

    def cluster(self) -> dict[str, Any] | None:
        return None

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        faults, trace = self._simulation.faults, self._simulation.trace
        disk, rng = self._simulation.disk, self._simulation.rng
        opened = MemoryJournal if trace is None else partial(TracedJournal, trace)
        journal = opened(disk, shard, lambda: rng.uniform(0, faults.commit_s / 2))
        return journal, lambda: None


class _SimulatedWorld(CellWorld):
    def __init__(self, cluster: SimulatedCluster, cell: Cell, simulation: Simulation) -> None:
        super().__init__(cluster, cell)
        self._simulation = simulation
        self.store = SimulatedStore(simulation)
        self.random = Random(f"{simulation.seed}/{cell.address}/{simulation.rng.random()}")

    def load(self) -> Load:
        return Load(self._simulation.cpu_used, self._simulation.memory_used)

    def folder(self, name: str) -> str:
        return self._simulation.folder(name)

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        return lambda _line: None

    def _tell(self, level: Level, event: str, fields: Mapping[str, object], below: str = "") -> None:
        super()._tell(level, event, fields, below)
        self._simulation.log(self.address, self.epoch, level, event, fields)

    def keep_log(self, most_bytes: int, kept: int) -> None:
        """Do nothing: the simulation keeps the log lines itself."""

    async def run_command(self, command: str, text: str) -> None:
        self._simulation.told.append((command, text))

    def now(self) -> float:
        return self._simulation.now()

    def clock(self) -> tuple[str, float]:
        return "simulated", EPOCH_UTC + self._simulation.clock_offset_s

    def secret_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def release(self) -> None:
        """Cancel nothing, as a dead process runs no code; only note the death in the trace."""
        self._simulation.note(self.address, "is dead", self._cell.dead.reason if self._cell.dead else "")

    def from_thread(self, callback: Callable[[], None]) -> None:
        callback()

    async def in_thread(self, work: Callable[[], T]) -> T:
        return work()


class _SimulatedSession:
    joined = False
    on_rebuilt: Callable[[], None]
    on_closed: Callable[[PodiumError], None]

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.reader = SimulatedStore(simulation).reader
        self._cell = Cell("client", None)
        self.world: LoopWorld
        self._client_world: CellWorld

    async def open(self) -> None:
        cluster = self._simulation.cluster
        self._client_world = _SimulatedWorld(cluster, self._cell, self._simulation)
        self.world = self._cell.world = self._client_world
        setup = coordinator_setup(self._simulation.settings)
        await cluster.spawn(None, "coordinator", COORDINATOR, setup)

    def line(self, address: str) -> Connection:
        return self._client_world.line(address)

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        return {}

    async def close(self) -> None:
        self._simulation.cluster.closing = True
        await self._simulation.cluster.stop(COORDINATOR)
        self._cell.die("closed")


def simulate(
    workflow: Workflow,
    inputs: Sequence[object],
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    faults: Faults = NO_FAULTS,
) -> list[Any]:
    """Run a workflow on each input, in simulated time and without Ray, and return the results in order.

    Raises:
        TaskFailed: A task failed; the first one in the order of the inputs.
    """

    async def work(engine: AsyncEngine) -> list[Any]:
        tasks = await engine.submit_many(workflow, inputs)
        return [await task.result() for task in tasks]

    return Simulation(seed, limits, faults).run(work)


__all__ = ["Faults", "Simulation", "simulate"]
