"""Simulated machines: which reach each other and the store, and the keeper that each has while something runs there.

The decisions of the keepers are those of a real cluster (supervisors/upkeep/machine_lease.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from ...protocols.errors import PeerLost
from ...protocols.probes import hit
from ...supervisors.upkeep.machine_lease import RETRY_S, MachineLease, MachineState
from ..inprocess.cluster import Cell
from ..session import COORDINATOR
from ..store.memory.machines import MemoryMachines
from .virtual_loop import PROCESS, VirtualLoop, in_process

RENEWAL_S = 0.05
"""The upper bound of the time of a renewal, in simulated seconds."""
RAY_NOTICES_S = 15.0, 65.0
"""Simulated seconds until Ray ends an actor whose owner was on a machine that is gone."""


class Machine:
    """A machine of the simulation."""

    def __init__(self, name: str, has_client: bool) -> None:
        """`has_client`: whether the client is there, which uses the cluster and is no part of it."""
        self.name, self.has_client = name, has_client
        self.boots = 1
        """Number of times that it was started; each start has a clock of its own."""
        self.is_up, self.is_cut, self.is_cut_from_store, self.is_draining = True, False, False, False
        self.cells: list[MachineCell] = []
        self.lease: MachineLease | None = None
        self.keeper: list[asyncio.Task[None]] = []
        self.starting: asyncio.Task[None] | None = None
        """The start of a coordinator that is under way here."""

    @property
    def state(self) -> MachineState | None:
        return None if self.lease is None else self.lease.state

    def living(self) -> list[MachineCell]:
        self.cells = [cell for cell in self.cells if cell.dead is None]
        return list(self.cells)

    def is_lost(self, id: str) -> bool:
        """Whether this machine knows that the machine of that id is lost."""
        return self.state is not None and id in self.state.lost


class MachineCell(Cell):
    """A cell on a machine. Its death is not noticed elsewhere while the machine cannot be reached."""

    def __init__(self, address: str, owner: Cell | None, machine: Machine, machines: Machines) -> None:
        super().__init__(address, owner)
        self.machine, self._machines = machine, machines
        self.member = "" if machine.state is None else machine.state.id
        """Id of the machine in the cluster when the cell was made."""
        self.lost_power = False
        """Whether it died with its machine, so that nobody can tell until the machine is lost."""
        self.has_started = False

    def orphan(self, child: Cell) -> None:
        assert isinstance(child, MachineCell)
        if self.lost_power or not self._machines.reaches(self.machine, child.machine):
            self._machines.end_later(child)
        else:
            super().orphan(child)


class Machines:
    def __init__(
        self,
        count: int,
        rng: Random,
        lease_s: float,
        loop: VirtualLoop,
        note: Callable[[str, str, object], None],
        start_coordinator: Callable[[Machine], None],
    ) -> None:
        """Make the machines. The client is on the first.

        Args:
            note: told of what happens to a machine: its name, the event, details.
            start_coordinator: called, again and again, while a machine is the home and has no coordinator.
        """
        self._rng, self._lease_s, self._loop, self._note = rng, lease_s, loop, note
        self._start_coordinator = start_coordinator
        self.all = [Machine(f"machine-{n}", n == 1) for n in range(1, count + 1)]
        self.rows = MemoryMachines(loop.time)
        self.is_store_down = self._is_closed = False
        self._waiting: list[asyncio.Future[None]] = []
        self._members = 0

    # who reaches whom

    def reaches(self, here: Machine, there: Machine) -> bool:
        return here is there or not (here.is_cut or there.is_cut or not there.is_up)

    def reaches_store(self, machine: Machine) -> bool:
        return not (machine.is_cut or machine.is_cut_from_store or self.is_store_down)

    async def heard_of(self, here: Machine, cell: MachineCell) -> None:
        """Wait until `here` can hear of a cell, alive or dead. Raises PeerLost when the cell's machine is lost."""

        def is_whole() -> bool:
            return not cell.lost_power and self.reaches(here, cell.machine)

        await self.until(lambda: is_whole() or here.is_lost(cell.member))
        if not is_whole():
            hit("machine lost")
            raise PeerLost(address=cell.address, reason="its machine is lost")

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so that depends on machines, their leases, or who reaches whom."""
        while not is_so():
            change: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(change)
            await change

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    async def ended(self, here: Machine, cell: MachineCell) -> None:
        """End a cell as seen from `here`, and return when it is certainly gone."""
        try:
            await self.heard_of(here, cell)
        except PeerLost:
            if cell.dead is None:
                problem = f"{cell.address} still runs on {cell.machine.name}, which is lost"
                self._loop.uncaught.append(AssertionError(problem))
        cell.die("killed")

    def end_later(self, cell: MachineCell) -> None:
        """End a cell whose owner is gone, when Ray has noticed it."""

        async def end() -> None:
            await asyncio.sleep(self._rng.uniform(*RAY_NOTICES_S))
            await self.until(lambda: not cell.machine.is_cut)
            cell.die("its owner is gone")

        self.beside(end())

    def choose(self, here: Machine) -> Machine | None:
        """Choose a machine for an actor, perhaps one that is gone and not lost yet; None if there is none now."""
        avoided = set() if here.state is None else here.state.avoided(self._loop.time())
        usable = [each for each in self.all if each.name not in avoided and not each.is_draining]
        usable = [each for each in usable if self.reaches(here, each) or (each.state and not each.state.over)]
        return self._rng.choice(usable) if usable else None

    # faults

    def cut(self, machine: Machine, for_s: float, from_store: bool) -> None:
        """Cut a machine off from everything, or only from the store."""
        self._note(machine.name, "IS CUT OFF FROM THE STORE" if from_store else "IS CUT OFF", f"for {for_s:.1f} s")
        machine.is_cut, machine.is_cut_from_store = machine.is_cut or not from_store, from_store
        self._loop.call_later(for_s, self._heal, machine)

    def _heal(self, machine: Machine) -> None:
        self._note(machine.name, "is not cut off any more", "")
        machine.is_cut = machine.is_cut_from_store = False
        self.changed()

    def drain(self, machine: Machine, within_s: float, for_s: float) -> None:
        """Take the power of a machine after a while; those who have actors there are told of it in advance."""
        self._note(machine.name, "IS DRAINED", f"within {within_s:.1f} s")
        machine.is_draining = True
        there = machine.living()
        for cell in dict.fromkeys([*there, *(cell.owner for cell in there if cell.owner is not None)]):
            assert isinstance(cell, MachineCell)
            here = {each.address: within_s for each in cell.children if each in machine.cells}
            own = {cell.address: within_s} if cell.machine is machine else {}
            in_process(cell.process, partial(self._loop.call_soon, cell.world.on_leaving, {**here, **own}))
        self._loop.call_later(within_s, self._end_of_drain, machine, for_s)

    async def hand_over(self, here: Machine) -> bool:
        """Make another machine the home instead of this one; returns False if there is none now."""
        there = self.choose(here)
        if there is None or there is here or not await self.hold(there):
            return False
        await self.until(lambda: self.reaches_store(here))
        assert here.state is not None and there.state is not None
        has_moved = self.rows.take_home(there.state.id, here.state.id)
        hit("home handed over")
        self._note(there.name, "is to be the home", has_moved)
        return has_moved

    def _end_of_drain(self, machine: Machine, for_s: float) -> None:
        machine.is_draining = False
        if machine.is_up:
            self.take_power(machine, for_s)

    def take_power(self, machine: Machine, for_s: float) -> None:
        self._note(machine.name, "LOSES ITS POWER", f"for {for_s:.1f} s")
        machine.is_up = False
        for cell in machine.living():
            cell.lost_power = True
        for cell in machine.living():
            cell.die("its machine lost its power")
        for work in [*machine.keeper, *([machine.starting] if machine.starting else [])]:
            work.cancel()
        self.changed()
        self._loop.call_later(for_s, self._boot, machine)

    def _boot(self, machine: Machine) -> None:
        self._note(machine.name, "starts again", "")
        machine.is_up, machine.lease = True, None
        machine.boots += 1
        self.changed()

    def stop_store(self, for_s: float) -> None:
        self._note("store", "DATABASE IS STOPPED", f"for {for_s:.1f} s")
        self.is_store_down = True
        self._loop.call_later(for_s, self._start_store)

    def _start_store(self) -> None:
        self._note("store", "runs again", "")
        self.is_store_down = False
        self.changed()

    # keepers

    async def hold(self, machine: Machine) -> bool:
        """See to it that a machine has a keeper, and wait until it has a lease; returns False if it gets none."""
        if machine.lease is None or machine.lease.over:
            self._members += 1
            id = f"{machine.name}.{self._members}"
            state = MachineState(id, machine.name, machine.name, 1, 0.0)
            machine.lease = lease = MachineLease(state, self._lease_s, True, self._loop.time())
            works = self._renew_for_ever(machine, lease), self._watch(machine, lease)
            machine.keeper = [self.beside(work) for work in works]
        lease = machine.lease
        await self.until(lambda: bool(lease.state.until or lease.over or not machine.is_up))
        return machine.is_up and not lease.over

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that belongs to no process."""
        context = copy_context()
        context.run(PROCESS.set, None)
        return self._loop.create_task(work, context=context)

    def close(self) -> None:
        self._is_closed = True

    async def _renew_for_ever(self, machine: Machine, lease: MachineLease) -> None:
        has_entered = False
        while not (lease.over or self._is_closed):
            began = self._loop.time()
            await asyncio.sleep(self._rng.uniform(0, RENEWAL_S))
            wait_s = RETRY_S
            if not self.reaches_store(machine):
                lease.failed(began, self._loop.time(), self.is_store_down and not machine.is_cut)
            elif not lease.over:
                if not has_entered:
                    self.rows.enter(lease.state.id, machine.name, machine.name, self._lease_s)
                    self.rows.home = self.rows.home or lease.state.id
                    has_entered = True
                wait_s = await self._renewed(machine, lease, began)
            await asyncio.sleep(wait_s)

    async def _renewed(self, machine: Machine, lease: MachineLease, began: float) -> float:
        """Renew a lease; returns the seconds until the next renewal."""
        news = self.rows.renew(lease.state.id, lease.may_declare(began))
        await asyncio.sleep(self._rng.uniform(0, RENEWAL_S))
        if not self.reaches_store(machine):
            lease.failed(began, self._loop.time(), False)  # the answer is lost
        elif lease.heard(began, news) and self.rows.take_home(lease.state.id, lease.state.home):
            self._note(machine.name, "becomes the home", "")
            lease.became_home()
            hit("another home")
        self.changed()
        return lease.next_renewal_s(news)

    async def _watch(self, machine: Machine, lease: MachineLease) -> None:
        while not (lease.over or self._is_closed):
            await asyncio.sleep(lease.next_look_s(self._loop.time()) + 0.001)
            here = machine.living()
            has_coordinator = any(cell.address == COORDINATOR for cell in here)
            if not self._is_closed:
                is_used = bool(here) or machine.has_client
                lease.look(self._loop.time(), is_used, has_coordinator, machine.is_draining)
            if lease.state.coordinator_is_missing and not lease.over:
                self._start_coordinator(machine)
        if not self._is_closed:
            self._leave(machine, lease)
            if machine.has_client:
                await self.hold(machine)  # whoever uses the cluster sees to it that there is a keeper

    def _leave(self, machine: Machine, lease: MachineLease) -> None:
        """End what runs on a machine whose lease is over."""
        self._note(machine.name, "leaves the cluster", lease.over)
        if machine.living():
            hit("machine ends itself")
        for cell in machine.living():
            cell.die(f"its machine leaves: {lease.over}")
        lease.state = replace(lease.state, over=lease.over)
        if self.reaches_store(machine):
            self.rows.leave(lease.state.id)
        self.changed()
