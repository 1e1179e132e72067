"""A cluster with all actors in one process, on one event loop, in real time. For trials, and base of the simulation.

It has the same actor classes, frames and journal as a cluster on Ray. But it ends with its process, and no other
process can join it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

from ...actors.exchange import ExchangeClient, Transport
from ...actors.exchange_server import ExchangeServer
from ...protocols.errors import Fenced, PeerLost, SpawnFailed, Unknown
from ...protocols.values import Value, pack, unpack
from ...supervisors.ports.messaging import Actor, Connection
from ...supervisors.ports.world import Needs, Role, Timer
from ..engine_log import LOG
from ..simulation.virtual_loop import Process, in_process
from ..store.address import StoreAddress
from ..world import LoopWorld, new_actor

T = TypeVar("T")

STOP_S = 5.0
"""Seconds that an actor gets to end in order."""


Carry: TypeAlias = Callable[["Cell", bytes], Awaitable[bytes]]
"""Passes one frame to a cell and returns its answer. Raises PeerLost when the cell dies."""


class Cell:
    """One incarnation of an actor: its object, its exchange server, its world, and the actors that it spawned."""

    def __init__(self, address: str, owner: Cell | None) -> None:
        self.address, self.owner = address, owner
        self.children: list[Cell] = []
        self.dead: PeerLost | None = None
        self.process: Process | None = None
        """The simulated process of the cell's callbacks, so that they die with it. None on a real event loop."""
        self.out_of_reach = False
        """Whether a kill only takes the cell off its address, and leaves it alive as a zombie. For simulations."""
        self.world: LoopWorld
        self.actor: Actor
        self.far: ExchangeServer | None = None
        """Takes frames from callers. None for a client."""
        self.calls: set[asyncio.Future[Any]] = set()
        if owner is not None:
            owner.children.append(self)

    def die(self, reason: str) -> None:
        """End the cell, and all cells that it owns. Open calls to it fail with PeerLost."""
        if self.dead is not None:
            return
        self.dead = PeerLost(address=self.address, reason=reason)
        if self.process is not None:
            self.process.dead = True
        for child in list(self.children):
            self.orphan(child)
        if self.owner is not None:
            self.owner.children.remove(self)
        self.world.release()
        if self.far is not None:
            self.far.close()
        for call in list(self.calls):
            if not call.done():
                call.set_exception(self.dead)
        self.calls.clear()

    def orphan(self, child: Cell) -> None:
        """End a cell that this one has spawned, because this one is dead."""
        child.die(f"its owner {self.address} is gone")


class InProcessCluster:
    """Runs cells on the current event loop."""

    def __init__(self, place: StoreAddress) -> None:
        self.place = place
        self._cells: dict[str, Cell] = {}
        self._numbers = itertools.count(1)
        self.ignores_environments = False
        """Whether protocols that need an environment of their own run all the same, in that of this process."""
        self._epochs: dict[tuple[str, str], int] = {}
        """By machine and address: the newest epoch of an actor that spawned there."""

    def new_world(self, cell: Cell) -> LoopWorld:
        return CellWorld(self, cell)

    async def spawn(
        self, owner: Cell | None, role: Role, address: str, setup: Mapping[str, object], epoch: int = 0
    ) -> Value:
        """Start an actor at `address`, in place of any that is there; returns its answer. Raises SpawnFailed."""
        self.fence(address, epoch)
        self.kill(address)
        cell = Cell(address, owner)
        cell.world = self.new_world(cell)
        return await self.start(cell, role, setup)

    def fence(self, address: str, epoch: int, of: str = "") -> None:
        """Raise SpawnFailed if an actor of a newer epoch was spawned at an address before; `of` names the machine."""
        newest = self._epochs[of, address] = max(epoch, self._epochs.get((of, address), 0))
        if newest > epoch:
            fenced = Fenced(shard=address, epoch=epoch, newer=newest)
            raise SpawnFailed(address=address, reason=str(fenced), kind="Fenced")

    async def start(self, cell: Cell, role: Role, setup: Mapping[str, object]) -> Value:
        """Start the actor of a cell, at the cell's address; returns its answer. Raises SpawnFailed."""
        address = cell.address
        cell.actor = new_actor(role, cell.world)  # type: ignore[arg-type]
        cell.far = ExchangeServer(cell.actor.receive, f"{address}@{next(self._numbers)}")
        self._cells[address] = cell
        try:
            return await self.run_in(cell, cell.actor.start(unpack(pack(setup), max_bytes=1 << 30)))
        except Exception as error:
            cell.die("it did not start")
            raise SpawnFailed(address=address, reason=str(error), kind=type(error).__name__) from error

    async def run_in(self, cell: Cell, work: Coroutine[Any, Any, T]) -> T:
        """Await work of a cell. A simulation runs it in the cell's process, and raises PeerLost when the cell dies."""
        return await work

    def kill(self, address: str) -> None:
        cell = self._cells.pop(address, None)
        if cell is not None and not cell.out_of_reach:
            cell.die("killed")

    def crashed(self, cell: Cell) -> None:
        """End a cell that crashed or stopped. Another cell that lives at its address by now is left alone."""
        if self._cells.get(cell.address) is cell:
            self.kill(cell.address)
        cell.die("crashed")

    async def stop(self, address: str) -> None:
        cell = self._cells.get(address)
        if cell is not None and cell.dead is None:
            try:
                await asyncio.wait_for(self.run_in(cell, self.end_in_order(cell)), STOP_S)
            except Exception as error:
                LOG.warning("%s did not stop in order: %r", address, error)
        self.kill(address)

    async def end_in_order(self, cell: Cell) -> None:
        """Stop the actor in order, then end its cell, because the caller may be gone before it can kill the cell."""
        try:
            await cell.actor.stop()
        finally:
            asyncio.get_running_loop().call_soon(self.crashed, cell)

    def alive(self, address: str) -> Cell | None:
        cell = self._cells.get(address)
        return None if cell is None or cell.dead else cell

    def call_to(self, address: str, carry: Carry | None = None) -> Transport:
        """Return the transport of one exchange, bound to the incarnation of the actor that lives now.

        `carry` passes a frame to a cell; the method of that name if it is None.
        """
        cell = self.alive(address)

        def call(frame: bytes, then: Callable[[bytes | Unknown], None]) -> None:
            called = self._called(cell, address, frame, then, carry or self.carry)
            asyncio.get_running_loop().create_task(called)

        return call

    async def _called(
        self, cell: Cell | None, address: str, frame: bytes, then: Callable[[bytes | Unknown], None], carry: Carry
    ) -> None:
        try:
            answer: bytes | Unknown = await carry(cell, frame) if cell else PeerLost(address=address)
        except Unknown as error:
            answer = error
        then(answer)

    async def carry(self, cell: Cell, frame: bytes) -> bytes:
        """Pass one frame to the cell and return its answer. Raises PeerLost when the cell dies."""
        if cell.dead is not None:
            raise cell.dead
        assert cell.far is not None, f"{cell.address} is a client"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        cell.calls.add(answer)
        arrive = partial(cell.far.take_in, frame, partial(_settle, answer))
        in_process(cell.process, lambda: loop.call_soon(arrive))
        try:
            return await answer
        finally:
            cell.calls.discard(answer)


def _settle(answer: asyncio.Future[bytes], packed: bytes) -> None:
    if not answer.done():
        answer.set_result(packed)


class CellWorld(LoopWorld):
    """The world of an actor in an in-process cluster."""

    def __init__(self, cluster: InProcessCluster, cell: Cell) -> None:
        super().__init__(cell.address, cluster.place, lambda error: cluster.crashed(cell))
        self._cluster, self._cell = cluster, cell
        self._lines: list[ExchangeClient] = []
        self._timers: WeakSet[asyncio.TimerHandle] = WeakSet()
        """Timers that may be pending. They are cancelled when the actor is gone."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = self.loop.call_later(delay_s, callback)
        self._timers.add(timer)
        return timer

    def line(self, address: str) -> Connection:
        return self.keep(ExchangeClient(address, self._cluster.call_to(address), self.address))

    def keep(self, near: ExchangeClient) -> ExchangeClient:
        """Keep a connection, to close it with this world."""
        self._lines = [line for line in self._lines if not line.is_over] + [near]
        return near

    async def spawn(self, role: Role, address: str, setup: Mapping[str, object], needs: Needs) -> Value:
        if needs.environment is not None and not self._cluster.ignores_environments:
            given = ", ".join(sorted(needs.environment.spec))
            reason = (
                f"it needs an environment of its own ({given}), which one process cannot give: use "
                "cluster='ray', or leave out runtime_env and working_dir; tests: simulate(…, ignore_runtime_env=True)"
            )
            raise SpawnFailed(address=address, reason=reason, kind="LookupError")
        return await self._cluster.spawn(self._cell, role, address, setup, self.epoch)

    async def kill(self, address: str) -> None:
        self._cluster.kill(address)

    async def stop(self, address: str) -> None:
        await self._cluster.stop(address)

    def release(self) -> None:
        super().release()
        for timer in list(self._timers):
            timer.cancel()
        for line in self._lines:
            line.close()
