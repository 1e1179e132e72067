"""A version that is not in force any more may still get tasks, long after its hosts have ended."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.errors import TaskFailed
from podium.supervisors.messages.client import Deploy, Deployed
from podium.testing import Simulation
from tests.support.cells import last, lead


@podium.protocol(concurrency=10)
async def slow(x):
    await asyncio.sleep(3)
    return x


@pytest.mark.parametrize("after_s", [5.0, 30])
def test_a_version_whose_hosts_have_ended_takes_tasks_again(after_s):
    async def work(engine):
        old, new = Workflow("w", Sequence(Step(slow, name="a"))), Workflow("w", Sequence(Step(last, name="a")))
        await engine.deploy(old)
        await engine.deploy(new)
        await asyncio.sleep(after_s)
        tasks = [await engine.submit(flow, n) for n, flow in enumerate([old, new, old])]
        await asyncio.sleep(1)
        simulation.kill("supervisor/w")
        return [await task.result(timeout_s=60) for task in tasks]

    simulation = Simulation()
    assert simulation.run(work) == [0, 1, 2]


class EndsSlowly(podium.Protocol):
    replicas = 3

    async def run(self, ctx, x):
        return x

    async def stop(self):
        await asyncio.sleep(1)


def test_a_version_gets_all_its_hosts_while_earlier_ones_of_it_are_ending():
    async def work(engine):
        old = Workflow("w", Sequence(Step(EndsSlowly, name="a")))
        await engine.deploy(old)
        await engine.deploy(Workflow("w", Sequence(Step(last, name="a"))))
        await asyncio.sleep(5.5)
        task = await engine.submit(old, 1)
        await asyncio.sleep(3)
        pools = (await engine.status()).workflows["w"].pools
        return await task.result(timeout_s=60), [pool.up for pool in pools]

    assert Simulation().run(work) == (1, [1, 3])


def test_a_failed_task_of_another_tree_is_driven_again_when_its_hosts_have_ended():
    calls = []

    @podium.protocol
    async def flaky(x):
        calls.append(x)
        if len(calls) == 1:
            raise ValueError("no")
        return x

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(flaky)), 1)
        with pytest.raises(TaskFailed):
            await task.result()
        await engine.deploy(Workflow("w", Sequence(last)))
        await asyncio.sleep(30)
        (again,) = await engine.redrive([task.id])
        return await again.result(timeout_s=60)

    assert Simulation().run(work) == 1


def test_an_open_task_comes_to_its_nested_hierarchy_long_after_another_version_took_its_place():
    def flow(member):
        team = Hierarchy(lead, team={"m": member}, name="h", with_="7")
        return Workflow("w", Sequence(Step(asks_late, name="waits"), team))

    async def work(engine):
        old = await engine.submit(flow(slow), 60)
        await asyncio.sleep(1)
        new = await engine.submit(flow(last), 20)
        return await new.result(timeout_s=100), await old.result(timeout_s=100)

    assert Simulation().run(work) == (7, 7)


@podium.protocol(concurrency=10)
async def asks_late(seconds):
    await asyncio.sleep(seconds)


def test_a_nested_hierarchy_knows_which_version_is_in_force():
    def flow(member):
        return Workflow("w", Sequence(Step(last), Hierarchy(lead, team={"m": member}, name="h")))

    def current():
        return simulation.disk.shards["w.h"].notes["current"]

    async def deploy(engine, workflow, **more):
        message = Deploy(definition_of(workflow), {}, **more)
        await engine._core.ask_coordinator(message, Deployed)
        await asyncio.sleep(1)

    async def work(engine):
        first, second = flow(slow), flow(last)
        for each in (first, second):
            assert await (await engine.submit(each, 1)).result() == 1
        await deploy(engine, first)
        in_force = current()
        simulation.kill("supervisor/w/h")
        await asyncio.sleep(10)
        assert current() == in_force, "the one that was deployed last, not the one that was new last"
        await deploy(engine, second, again=True)
        assert current() == in_force, "a client has only brought another again"

    simulation = Simulation()
    simulation.run(work)


class StartsSlowly(podium.Protocol):
    async def start(self):
        await asyncio.sleep(4)

    async def run(self, ctx, x):
        return x


class StartsSlowlyToo(StartsSlowly):
    pass


class StartsSlowlyAsWell(StartsSlowly):
    pass


SLOW = [StartsSlowly, StartsSlowlyToo, StartsSlowlyAsWell]


@pytest.mark.parametrize("starts", ["at_once", "as_needed"])
def test_nothing_of_a_version_starts_after_it_was_retired(starts):
    async def work(engine):
        old = Workflow("w", Sequence(*[Step(each, name=f"s{n}") for n, each in enumerate(SLOW)]), starts=starts)
        deploying = asyncio.get_running_loop().create_task(engine.deploy(old))
        await asyncio.sleep(0.5)
        await engine.deploy(Workflow("w", Sequence(last)))
        await asyncio.sleep(60)
        await deploying
        return [address for address in simulation.cluster.addresses() if "Slowly" in address]

    simulation = Simulation()
    assert simulation.run(work) == []
