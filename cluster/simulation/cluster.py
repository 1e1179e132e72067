"""The simulated cluster: cells whose messages, commits and deaths follow the faults of a scene."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from random import Random
from typing import Any, TypeVar

from ...protocols.errors import PeerUnreachable, PodiumError
from ...protocols.file import Drafting
from ...protocols.workflow import Workflow
from ...supervisors.ports.journal import Journal
from ...supervisors.ports.messaging import Connection
from ...supervisors.ports.world import Level, Load
from ..blobs.memory import MemoryBlobs
from ..inprocess.cluster import Cell, CellWorld, InProcessCluster
from ..session import COORDINATOR, coordinator_setup
from ..store.contract import Ownership, Reader
from ..store.memory.journal import MemoryJournal
from ..store.memory.reading import DiskReader
from ..store.sqlite.store import FolderOwnership
from ..world import LoopWorld
from .scene import EPOCH_UTC, Scene
from .trace import TracedJournal
from .virtual_loop import Process, in_process

T = TypeVar("T")

COORDINATOR_RESTART_S = 0.5
"""Simulated seconds until a dead coordinator is started again, as Ray would do."""


class SimulatedCluster(InProcessCluster):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.settings.store)
        self._scene = scene

    def addresses(self) -> list[str]:
        """Return the addresses of all living actors but the coordinator, with which all others would die."""
        return [address for address in self._cells if address != COORDINATOR and self.alive(address)]

    def every_address(self) -> list[str]:
        """Return all addresses that were spawned and not killed since, the coordinator's too."""
        return list(self._cells)

    def new_world(self, cell: Cell) -> LoopWorld:
        cell.process = Process(cell.address)
        self._scene.note(cell.address, "starts", f"owned by {cell.owner.address}" if cell.owner else "")
        return self.world_of(cell)

    def world_of(self, cell: Cell) -> CellWorld:
        return SimulatedWorld(self, cell, self._scene, SimulatedStore(self._scene))

    def client(self) -> Cell:
        return Cell("client", None)

    async def run_in(self, cell: Cell, work: Coroutine[Any, Any, T]) -> T:
        if cell.dead is not None:
            work.close()
            raise cell.dead
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
        scene = self._scene
        faults, rng = scene.faults, scene.rng
        await asyncio.sleep(rng.uniform(0, faults.delay_s))
        if rng.random() < faults.lose_request:
            scene.note_frame(cell.address, "REQUEST LOST", frame)
            raise PeerUnreachable(address=cell.address, reason="the request was lost")
        scene.note_frame(cell.address, "gets a frame", frame)
        if rng.random() < faults.repeat:
            scene.note_frame(cell.address, "FRAME REPEATED", frame)
            repeated = asyncio.get_running_loop().create_task(super().carry(cell, frame))
            repeated.add_done_callback(lambda done: done.cancelled() or done.exception())
        answer = await super().carry(cell, frame)
        if rng.random() < faults.lose_reply:
            scene.note_frame(cell.address, "REPLY LOST", frame)
            raise PeerUnreachable(address=cell.address, reason="the reply was lost")
        return answer

    def kill(self, address: str) -> None:
        cell = self.alive(address)
        super().kill(address)
        if cell is not None and address == COORDINATOR and not self.closing:
            in_process(None, lambda: asyncio.get_running_loop().create_task(self.restart_coordinator(cell)))

    closing = False

    async def restart_coordinator(self, _dead: Cell) -> None:
        """Start the coordinator again after its death, as Ray does."""
        await asyncio.sleep(COORDINATOR_RESTART_S)
        setup = {**coordinator_setup(self._scene.settings), "cold": False}
        await self.spawn(None, "coordinator", COORDINATOR, setup)


class SimulatedStore:
    """The store of a simulation. Its commits take simulated time."""

    def __init__(self, scene: Scene, is_reached: Callable[[], bool] = lambda: True) -> None:
        self._scene, self._is_reached = scene, is_reached
        self.reader: Reader = DiskReader(scene.disk)
        self.blobs = MemoryBlobs(scene.disk.blobs, scene.now, lambda: is_reached() and scene.blobs_are_there)

    def ownership(self) -> Ownership:
        return FolderOwnership()

    def cluster(self) -> dict[str, Any] | None:
        return None

    async def open_journal(self, shard: str) -> tuple[Journal, Callable[[], None]]:
        faults, trace = self._scene.faults, self._scene.trace
        disk, rng = self._scene.disk, self._scene.rng
        opened = MemoryJournal if trace is None else partial(TracedJournal, trace)
        journal = opened(disk, shard, lambda: rng.uniform(0, faults.commit_s / 2), self._is_reached)
        return journal, lambda: None


class SimulatedWorld(CellWorld):
    def __init__(self, cluster: SimulatedCluster, cell: Cell, scene: Scene, store: SimulatedStore) -> None:
        super().__init__(cluster, cell)
        self._scene = scene
        self.store = store
        self.blobs = store.blobs
        self.random = Random(f"{scene.seed}/{cell.address}/{scene.rng.random()}")

    def load(self) -> Load:
        return Load(self._scene.cpu_used, self._scene.memory_used)

    def folder(self, name: str) -> str:
        return self._scene.folder(name)

    def blobs_for_code(self, timeout_s: float) -> Drafting:
        return self.blobs  # nothing may block here

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        return lambda _line: None

    def _tell(self, level: Level, event: str, fields: Mapping[str, object], below: str = "") -> None:
        super()._tell(level, event, fields, below)
        self._scene.log(self.address, self.epoch, level, event, fields)

    def keep_log(self, most_bytes: int, kept: int) -> None:
        """Do nothing: the simulation keeps the log lines itself."""

    async def run_command(self, command: str, text: str) -> None:
        self._scene.told.append((command, text))

    def now(self) -> float:
        return self._scene.now()

    def clock(self) -> tuple[str, float]:
        return "simulated", EPOCH_UTC + self._scene.clock_offset_s

    def secret_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def release(self) -> None:
        """Cancel nothing, as a dead process runs no code; only note the death in the trace."""
        self._scene.note(self.address, "is dead", self._cell.dead.reason if self._cell.dead else "")

    def from_thread(self, callback: Callable[[], None]) -> None:
        callback()

    async def in_thread(self, work: Callable[[], T]) -> T:
        return work()


class SimulatedSession:
    joined = False
    on_rebuilt: Callable[[], None]
    on_closed: Callable[[PodiumError], None]

    def __init__(self, scene: Scene, cluster: SimulatedCluster) -> None:
        self._scene, self._cluster = scene, cluster
        self.reader = SimulatedStore(scene).reader
        self._cell = cluster.client()
        self.world: LoopWorld
        self._client_world: CellWorld

    async def open(self) -> None:
        self._client_world = self.world = self._cell.world = self._cluster.world_of(self._cell)
        await self._cluster.spawn(None, "coordinator", COORDINATOR, coordinator_setup(self._scene.settings))

    def line(self, address: str) -> Connection:
        return self._client_world.line(address)

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        return {}

    async def close(self) -> None:
        self._cluster.closing = True
        await self._cluster.stop(COORDINATOR)
        self._cell.die("closed")
