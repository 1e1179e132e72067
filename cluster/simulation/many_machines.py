"""The simulated cluster on several machines: actors live apart, and messages between them cross a network.

What a machine does not hear of, it does not know. A call to a machine that is cut off or gone hangs, until the machine
is reached again or is lost by its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import cast

from ...actors.exchange import ExchangeClient
from ...protocols.errors import PeerLost, SpawnFailed, Unknown
from ...protocols.probes import hit
from ...protocols.values import Value
from ...supervisors.ports.journal import Journal
from ...supervisors.ports.messaging import Connection
from ...supervisors.ports.world import Role
from ..inprocess.cluster import STOP_S, Cell, CellWorld
from ..session import COORDINATOR, coordinator_setup
from .cluster import COORDINATOR_RESTART_S, SimulatedCluster, SimulatedStore, SimulatedWorld
from .machines import Machine, MachineCell, Machines
from .scene import Scene

AGAIN_S = 0.25
"""Simulated seconds until another machine is chosen for an actor."""


class ManyMachinesCluster(SimulatedCluster):
    def __init__(self, scene: Scene, count: int) -> None:
        super().__init__(scene)
        self.machines = Machines(
            count, scene.rng, scene.settings.database_lease_s, scene.loop, scene.note, self._start_again
        )
        self._known: dict[str, list[MachineCell]] = {}
        """Every cell that was spawned, by address."""

    def client(self) -> Cell:
        return MachineCell("client", None, self.machines.all[0], self.machines)

    def world_of(self, cell: Cell) -> CellWorld:
        machine = _machine_of(cell)
        store = SimulatedStore(self._scene, partial(self.machines.reaches_store, machine))
        return ManyMachinesWorld(self, cast(MachineCell, cell), self._scene, store)

    # starts

    async def spawn(
        self, owner: Cell | None, role: Role, address: str, setup: Mapping[str, object], epoch: int = 0
    ) -> Value:
        """Start an actor on one of the machines; on another if that one is lost meanwhile."""
        if owner is None:
            await self._begin(setup)
            return None
        here = _machine_of(owner)
        while True:
            await self.end(here, address)
            there = self.machines.choose(here)
            if there is None or not await self._is_reached(here, there):
                await asyncio.sleep(AGAIN_S)
                continue
            self.fence(address, epoch, of=there.name)
            try:
                return await self._start_on(there, here, owner, role, address, setup)
            except PeerLost:
                hit("started elsewhere")
                self._scene.note(address, "was starting on a machine that is lost", there.name)

    async def _begin(self, setup: Mapping[str, object]) -> None:
        """Start the first coordinator, on any machine; on another if that one fails meanwhile."""
        while not self._has_coordinator():
            machine = self._scene.rng.choice([each for each in self.machines.all if each.is_up])
            if await self.machines.hold(machine) and machine.state is not None:
                self.machines.rows.home = machine.state.id
                await asyncio.wait([self._start_coordinator(machine, setup)])
        await self.machines.hold(self.machines.all[0])

    def _has_coordinator(self) -> bool:
        cell = self.alive(COORDINATOR)
        return isinstance(cell, MachineCell) and cell.has_started

    async def _is_reached(self, here: Machine, there: Machine) -> bool:
        """Wait until a machine is reached, and has a lease; returns False if it is lost meanwhile, or has no power."""
        id = "" if there.state is None else there.state.id
        await self.machines.until(lambda: self.machines.reaches(here, there) or here.is_lost(id) or not id)
        if not self.machines.reaches(here, there):
            return False
        return await self.machines.hold(there) and self.machines.reaches(here, there)

    async def _start_on(
        self, there: Machine, here: Machine, owner: Cell | None, role: Role, address: str, setup: Mapping[str, object]
    ) -> Value:
        """Start an actor on a machine. Raises PeerLost if the machine is lost before `here` has the answer."""
        cell = MachineCell(address, owner, there, self.machines)
        cell.world = self.new_world(cell)
        there.cells.append(cell)
        earlier = self._known.setdefault(address, [])
        is_first = not earlier
        earlier.append(cell)
        try:
            if role != "host" and not is_first:
                await self._swept(cell, "" if role == "coordinator" else f"{address}/")
            value = await self.start(cell, role, setup)
        except SpawnFailed:
            await self.machines.heard_of(here, cell)
            raise
        cell.has_started = True
        self.machines.changed()
        await self.machines.heard_of(here, cell)
        return value

    async def _swept(self, cell: MachineCell, prefix: str) -> None:
        """End in a cell what its predecessors have left. Raises SpawnFailed if the cell dies meanwhile."""
        try:
            await self.run_in(cell, self._sweep(cell, prefix))
        except PeerLost as error:
            raise SpawnFailed(address=cell.address, reason=str(error), kind="PeerLost") from error

    async def _sweep(self, cell: MachineCell, prefix: str) -> None:
        """End what predecessors at an address have left on any machine, before the actor of a cell starts."""
        found = [
            other
            for address, others in self._known.items()
            for other in others
            if address.startswith(prefix) and other is not cell and (other.dead is None or other.lost_power)
        ]
        await asyncio.gather(*[self.machines.ended(cell.machine, other) for other in found])

    def _start_coordinator(self, machine: Machine, setup: Mapping[str, object]) -> asyncio.Task[None]:
        """Start the coordinator on its home, unless that is under way; returns the start that is."""

        async def start() -> None:
            try:
                await self._spawn_coordinator(machine, setup)
            except (SpawnFailed, PeerLost) as error:
                self._scene.note(machine.name, "starts no coordinator", error)

        if machine.starting is None or machine.starting.done():
            machine.starting = self.machines.beside(start())
        return machine.starting

    def _start_again(self, machine: Machine) -> None:
        if not self.closing:
            self._start_coordinator(machine, {**coordinator_setup(self._scene.settings), "cold": False})

    async def _spawn_coordinator(self, machine: Machine, setup: Mapping[str, object]) -> None:
        if not await self.machines.hold(machine):
            raise PeerLost(address=COORDINATOR, reason=f"{machine.name} has no lease")
        await self.end(machine, COORDINATOR)
        await self._start_on(machine, machine, None, "coordinator", COORDINATOR, setup)

    async def restart_coordinator(self, dead: Cell) -> None:
        """Start the coordinator again on its machine, if that is there."""
        await asyncio.sleep(COORDINATOR_RESTART_S)
        machine = _machine_of(dead)
        may_start = machine.is_up and not machine.is_draining
        if may_start and machine.lease is not None and not machine.lease.over:
            self._start_again(machine)

    # ends

    async def end(self, here: Machine, address: str) -> None:
        """End the actor at an address, as seen from a machine, and return when it is certainly gone."""
        cell = self._cells.get(address)
        if isinstance(cell, MachineCell):
            await self.machines.ended(here, cell)
            if self._cells.get(address) is cell:
                del self._cells[address]

    async def stop_from(self, here: Machine, address: str) -> None:
        cell = self.alive(address)
        if isinstance(cell, MachineCell):
            try:
                await asyncio.wait_for(self._told_to_end(here, cell), STOP_S)
            except Exception as error:
                self._scene.note(address, "did not stop in order", error)
        await self.end(here, address)

    async def _told_to_end(self, here: Machine, cell: MachineCell) -> None:
        await self.machines.heard_of(here, cell)
        await self.run_in(cell, self.end_in_order(cell))
        await self.machines.heard_of(here, cell)

    async def stop(self, address: str) -> None:
        await self.stop_from(self.machines.all[0], address)
        self.machines.close()

    # messages

    async def carry_from(self, here: Machine, cell: Cell, frame: bytes) -> bytes:
        there = cast(MachineCell, cell)
        await self.machines.heard_of(here, there)
        await self.machines.until(lambda: there.has_started or there.dead is not None)
        try:
            answer = await self.carry(there, frame)
        except Unknown:
            await self.machines.heard_of(here, there)
            raise
        await self.machines.heard_of(here, there)
        return answer


class ManyMachinesWorld(SimulatedWorld):
    def __init__(self, cluster: ManyMachinesCluster, cell: MachineCell, scene: Scene, store: SimulatedStore) -> None:
        super().__init__(cluster, cell, scene, store)
        self._many, self._machine = cluster, cell.machine

    def clock(self) -> tuple[str, float]:
        _, offset_s = super().clock()
        return f"{self._machine.name}.{self._machine.boots}", offset_s

    async def open_journal(self, shard: str) -> Journal:
        await self._many.machines.until(lambda: self._many.machines.reaches_store(self._machine))
        return await super().open_journal(shard)

    def line(self, address: str) -> Connection:
        call = self._many.call_to(address, partial(self._many.carry_from, self._machine))
        return self.keep(ExchangeClient(address, call, self.address))

    async def kill(self, address: str) -> None:
        await self._many.end(self._machine, address)

    async def hand_over(self) -> bool:
        return await self._many.machines.hand_over(self._machine)

    async def stop(self, address: str) -> None:
        await self._many.stop_from(self._machine, address)


def _machine_of(cell: Cell) -> Machine:
    assert isinstance(cell, MachineCell)
    return cell.machine
