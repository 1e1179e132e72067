"""The simulated cluster: the real actors in one process, in virtual time, with seeded faults.

Public as `podium.testing`. Nothing here waits: an hour of time-outs passes in milliseconds. The same seed gives the
same run. After a crash no code of the dead actor runs, not even `finally` blocks. Frames are lost, repeated and
delayed, and commits take time. A crash leaves on the simulated disk what it would leave on a real one. Plain protocols
run on the event loop, so they must not block: use `await asyncio.sleep(...)` to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from ...actors.host import ProtocolHost
from ...protocols.workflow import Workflow
from ..client.engine_async import AsyncEngine
from ..inprocess.cluster import Cell
from ..session import COORDINATOR
from .cluster import SimulatedCluster, SimulatedSession
from .many_machines import ManyMachinesCluster
from .scene import NO_FAULTS, Faults, Scene
from .virtual_loop import in_process

T = TypeVar("T")


class Simulation(Scene):
    """One simulated run: `run` gives an `AsyncEngine` to your async function and returns its result.

    The same seed gives the same run. `limits` and other settings are those of `connect`. Plain protocols run on the
    event loop here, so they must not block. With `machines`, the actors live on as many machines, over a store that
    all of them reach, and the client is on the first. Each machine has a lease of `database_lease_s`.
    Protocols with a `runtime_env` are refused, unless `ignore_runtime_env`.
    """

    def __init__(
        self,
        seed: int = 0,
        limits: Mapping[str, int] | None = None,
        faults: Faults = NO_FAULTS,
        machines: int = 1,
        ignore_runtime_env: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(seed, limits, faults, **settings)
        self.machines, self.ignore_runtime_env = machines, ignore_runtime_env
        self.cluster: SimulatedCluster

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
        self.cluster = SimulatedCluster(self) if self.machines == 1 else ManyMachinesCluster(self, self.machines)
        self.cluster.ignores_environments = self.ignore_runtime_env
        if self.trace is not None:
            self.trace.clock = self.loop.time
        chaos = self.loop.create_task(self._chaos())
        async with AsyncEngine(self.settings, SimulatedSession(self, self.cluster)) as engine:
            result = await work(engine)
            if not chaos.cancel():
                chaos.result()
            return result

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
        strokes += [self._stop_blobs] * faults.blob_stops + self._of_machines()
        if faults.kill_all and faults.kills:
            strokes[rng.randrange(faults.kills)] = self.kill_all
        rng.shuffle(strokes)
        moments = sorted(rng.uniform(0, faults.kill_within_s) for _ in strokes)
        began = self.loop.time()
        for moment, stroke in zip(moments, strokes, strict=True):
            await asyncio.sleep(began + moment - self.loop.time())
            stroke()

    def _of_machines(self) -> list[Callable[[], None]]:
        """Return the strokes that fall on whole machines, or on the store between them."""
        faults, rng = self.faults, self.rng
        if not isinstance(self.cluster, ManyMachinesCluster):
            return []
        machines = self.cluster.machines

        def kill() -> None:
            machine, for_s = rng.choice(machines.all[1:]), rng.uniform(0, faults.boot_s)
            if machine.is_up:
                machines.take_power(machine, for_s)

        def drain() -> None:
            machine, for_s = rng.choice(machines.all[1:]), rng.uniform(0, faults.boot_s)
            within_s = rng.uniform(0, faults.drain_s)
            if machine.is_up and not machine.is_draining:
                machines.drain(machine, within_s, for_s)

        def cut() -> None:
            machines.cut(rng.choice(machines.all), rng.uniform(0, faults.cut_s), from_store=rng.random() < 0.3)

        def stop_store() -> None:
            machines.stop_store(rng.uniform(0, faults.store_stop_s))

        strokes = [kill] * faults.machine_kills + [drain] * faults.drains
        return strokes + [cut] * faults.cuts + [stop_store] * faults.store_stops

    def _stop_blobs(self) -> None:
        self.blobs_back_at = self.loop.time() + self.rng.uniform(0, self.faults.blob_stop_s)
        self.note("-", "BLOB STORE IS AWAY", f"until {self.blobs_back_at:.1f}")

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


def simulate(
    workflow: Workflow,
    inputs: Sequence[object],
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    faults: Faults = NO_FAULTS,
    ignore_runtime_env: bool = False,
) -> list[Any]:
    """Run a workflow on each input, in simulated time and without Ray, and return the results in order.

    Protocols with a `runtime_env` are refused, unless `ignore_runtime_env` says that this process has what they need.

    Raises:
        TaskFailed: A task failed; the first one in the order of the inputs.
    """

    async def work(engine: AsyncEngine) -> list[Any]:
        tasks = await engine.submit_many(workflow, inputs)
        return [await task.result() for task in tasks]

    return Simulation(seed, limits, faults, ignore_runtime_env=ignore_runtime_env).run(work)


__all__ = ["Faults", "Simulation", "simulate"]
