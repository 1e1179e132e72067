"""The simulated cluster on several machines: what fails as a whole, and what the others see of it."""

from __future__ import annotations

import asyncio

import podium
from podium import Workflow
from podium.supervisors.upkeep.machine_lease import GRACE_SHARE, RENEWALS
from podium.testing import Faults, Simulation

LEASE_S = 5.0


@podium.protocol(replicas=3, quotas={"llm": 1})
async def slow(ctx, input):
    RUNS.append((ctx.task_id, "starts"))
    await asyncio.sleep(2)
    RUNS.append((ctx.task_id, "ends"))
    return input + 1


WORK = Workflow("work", slow)
RUNS: list = []


def simulation(seed=1, **faults):
    RUNS.clear()
    return Simulation(seed, {"llm": 3}, Faults(**faults), machines=3, database_lease_s=LEASE_S)


def at(sim, address):
    return sim.cluster.alive(address)


async def all_done(engine, count=12):
    tasks = await engine.submit_many(WORK, list(range(count)))
    assert [await task.result() for task in tasks] == list(range(1, count + 1))


def test_actors_are_spread_over_the_machines():
    sim = simulation()

    async def work(engine):
        await all_done(engine)
        return {at(sim, address).machine.name for address in sim.cluster.every_address()}

    assert len(sim.run(work)) > 1


def test_a_machine_without_power_is_missed_when_its_lease_is_over_and_not_before():
    sim = simulation()

    async def work(engine):
        tasks = await engine.submit_many(WORK, list(range(12)))
        await asyncio.sleep(3)
        victim = next(m for m in sim.cluster.machines.all[1:] if m.living())
        gone = victim.living()
        cut_at = sim.loop.time()
        sim.cluster.machines.take_power(victim, 1_000)
        assert all(cell.dead for cell in gone)
        addresses = {cell.address for cell in gone}
        while any(at(sim, address) is None for address in addresses):
            await asyncio.sleep(0.1)
        waited_s = sim.loop.time() - cut_at
        assert [await task.result() for task in tasks] == list(range(1, 13))
        return waited_s

    waited_s = sim.run(work)
    after_renewal = 1 + GRACE_SHARE - 1 / RENEWALS
    assert after_renewal * LEASE_S - 0.2 < waited_s < 3 * LEASE_S


def test_what_is_cut_off_ends_itself_before_anybody_takes_its_place():
    sim = simulation()

    async def work(engine):
        tasks = await engine.submit_many(WORK, list(range(12)))
        await asyncio.sleep(3)
        victim = next(m for m in sim.cluster.machines.all[1:] if m.living())
        cut_off = victim.living()
        sim.cluster.machines.cut(victim, 60, from_store=False)
        began = sim.loop.time()
        await asyncio.sleep(1)
        assert not any(cell.dead for cell in cut_off)
        while not all(cell.dead for cell in cut_off):
            await asyncio.sleep(0.1)
            assert all(at(sim, cell.address) in (cell, None) for cell in cut_off)
        assert sim.loop.time() - began < LEASE_S + 0.2
        assert [await task.result() for task in tasks] == list(range(1, 13))

    sim.run(work)


def test_a_successor_waits_for_what_its_predecessor_left_on_a_machine_that_is_cut_off():
    waited = 0

    async def work(engine):
        nonlocal waited
        tasks = await engine.submit_many(WORK, list(range(12)))
        await asyncio.sleep(3)
        supervisor = at(sim, "supervisor/work").machine
        left = [cell for m in sim.cluster.machines.all[1:] if m is not supervisor for cell in m.living()]
        left = [cell for cell in left if cell.address.startswith("supervisor/work/")]
        for machine in {cell.machine for cell in left}:
            sim.cluster.machines.cut(machine, 60, from_store=False)
        sim.kill("supervisor/work")
        while not all(cell.dead for cell in left):
            await asyncio.sleep(0.1)
            assert all(at(sim, cell.address) in (cell, None) for cell in left)
            waited += 1
        assert [await task.result() for task in tasks] == list(range(1, 13))

    for sim in map(simulation, range(4)):
        sim.run(work)
    assert waited > 40


def test_a_short_cut_ends_nothing():
    sim = simulation()

    async def work(engine):
        tasks = await engine.submit_many(WORK, list(range(12)))
        await asyncio.sleep(3)
        before = {address: at(sim, address) for address in sim.cluster.every_address()}
        for machine in sim.cluster.machines.all:
            sim.cluster.machines.cut(machine, 2.5, from_store=False)
        assert [await task.result() for task in tasks] == list(range(1, 13))
        assert {address: at(sim, address) for address in sim.cluster.every_address()} == before

    sim.run(work)


def test_a_database_that_is_stopped_ends_nothing_and_results_wait():
    sim = simulation()

    async def work(engine):
        tasks = await engine.submit_many(WORK, list(range(3)))
        await asyncio.sleep(1)
        before = {address: at(sim, address) for address in sim.cluster.every_address()}
        sim.cluster.machines.stop_store(60)
        stopped_at = sim.loop.time()
        assert [await task.result() for task in tasks] == [1, 2, 3]
        assert sim.loop.time() - stopped_at >= 60
        assert {address: at(sim, address) for address in sim.cluster.every_address()} == before

    sim.run(work)


def test_the_home_is_lost_and_another_machine_has_the_coordinator():
    moved = 0

    async def work(engine):
        nonlocal moved
        home = at(sim, "coordinator").machine
        tasks = await engine.submit_many(WORK, list(range(3)))
        if not home.has_client:
            sim.cluster.machines.take_power(home, 1_000)
            moved += 1
        assert [await task.result() for task in tasks] == [1, 2, 3]
        assert (at(sim, "coordinator").machine is home) is home.has_client

    for sim in map(simulation, range(6)):
        sim.run(work)
    assert moved > 1


@podium.protocol(replicas=3)
async def timed(ctx, seconds):
    RUNS.append((ctx.task_id, ctx.attempt))
    await asyncio.sleep(seconds)
    return seconds


TIMED = Workflow("timed", timed)


def drained(sim, work_s, within_s):
    """Run steps of that length, and drain a machine in their middle; returns what each task ran as attempts.

    None if every actor lives with the client or the coordinator.
    """
    victims = []

    async def work(engine):
        tasks = await engine.submit_many(TIMED, [work_s] * 12)
        await asyncio.sleep(3)
        machines = sim.cluster.machines
        home = at(sim, "coordinator").machine
        victim = next((each for each in machines.all[1:] if each.living() and each is not home), None)
        if victim is None:
            return []
        victims.append(victim)
        machines.drain(victim, within_s, 1_000)
        await asyncio.sleep(within_s - 0.5)
        left = [cell.address for cell in victim.living()]
        assert [await task.result() for task in tasks] == [work_s] * 12
        return left

    assert sim.run(work) == [], "nothing runs there when the machine goes"
    return sorted(RUNS) if victims else None


def test_steps_end_on_a_machine_that_is_drained_and_none_runs_twice():
    played = [drained(sim, work_s=4, within_s=30) for sim in map(simulation, range(6))]
    assert sum(runs is not None for runs in played) > 2
    for runs in filter(None, played):
        assert len(runs) == len({task for task, _ in runs}) == 12


def test_steps_that_take_too_long_are_preempted_and_that_is_no_attempt():
    played = [drained(sim, work_s=100, within_s=20) for sim in map(simulation, range(6))]
    for runs in filter(None, played):
        assert {attempt for _, attempt in runs} == {1}
    assert any(len(runs) > 12 for runs in filter(None, played))


def test_the_coordinator_leaves_a_machine_in_order_and_no_step_runs_twice():
    moved = 0

    async def work(engine):
        nonlocal moved
        tasks = [await engine.submit(TIMED, 4) for _ in range(12)]
        await asyncio.sleep(3)
        machine, machines = at(sim, "coordinator").machine, sim.cluster.machines
        if machine.has_client:
            return
        moved += 1
        machines.drain(machine, 20, 1_000)
        await asyncio.sleep(3)
        tasks += [await engine.submit(TIMED, 4) for _ in range(12)]
        await asyncio.sleep(16)
        assert at(sim, "coordinator").machine is not machine and not machine.is_lost(machine.state.id)
        assert machine.living() == []
        assert [await task.result() for task in tasks] == [4] * 24
        assert len(RUNS) == len(set(RUNS)) == 24

    for sim in map(simulation, range(8)):
        sim.run(work)
    assert moved > 2


def test_a_protocol_with_one_host_goes_on_elsewhere_while_its_old_host_works_on():
    @podium.protocol(concurrency=1)
    async def alone(ctx, input):
        RUNS.append((input, asyncio.get_running_loop().time()))
        await asyncio.sleep(40 if input == 0 else 1)
        return input

    def played(sim):
        async def work(engine):
            first = await engine.submit(Workflow("w", alone), 0)
            await asyncio.sleep(2)
            host, supervisor = at(sim, "supervisor/w/alone-0"), at(sim, "supervisor/w")
            if host.machine.has_client or host.machine is supervisor.machine:
                return False
            began = sim.loop.time()
            sim.cluster.machines.drain(host.machine, 60, 1_000)
            second = await engine.submit(Workflow("w", alone), 1)
            assert await second.result() == 1
            assert sim.loop.time() - began < 5
            assert await first.result() == 0
            return True

        return sim.run(work) and [input for input, _ in RUNS] == [0, 1]

    assert any(played(simulation(seed)) for seed in range(6))


@podium.protocol
async def leads(brief):
    return podium.verdict.accept(1) if brief["outcomes"] else podium.verdict.assign({"x": 8})


def test_a_supervisor_waits_for_its_nested_runs_before_it_leaves():
    """It had no step of its own, stopped at once, and the step of its nested supervisor ran again."""
    workflow = Workflow("nested", podium.Sequence(podium.Hierarchy(leads, team={"x": timed}, name="team")))
    left = 0

    async def work(engine):
        nonlocal left
        task = await engine.submit(workflow, 0)
        await asyncio.sleep(3)
        machine = at(sim, "supervisor/nested").machine
        is_alone = not any(cell.address.startswith("supervisor/nested/") for cell in machine.living())
        if machine.has_client or machine is at(sim, "coordinator").machine or not is_alone:
            return
        left += 1
        sim.cluster.machines.drain(machine, 40, 1_000)
        assert await task.result() == 1
        assert len(RUNS) == 1

    for sim in map(simulation, range(40)):
        sim.run(work)
    assert left > 0


def test_faults_of_machines_are_drawn_from_the_seed():
    faults = {"machine_kills": 2, "cuts": 2, "cut_s": 20.0, "store_stops": 1, "kill_within_s": 10.0, "boot_s": 20.0}
    faults |= {"drains": 2, "drain_s": 20.0}
    ends = []
    for _ in range(2):
        sim = simulation(7, **faults)
        sim.run(all_done)
        ends.append((sim.loop.time(), list(RUNS)))
    assert ends[0] == ends[1]
