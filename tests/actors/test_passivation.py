"""Workflows with nothing to do cost no process, and are there again for whatever comes next."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.gateways.cli.metrics import exposition
from podium.testing import Faults, Simulation
from tests import sample

CHAIN = Workflow("chain", Sequence(sample.add, sample.add))
TIERED = Workflow("tiered", Sequence(Hierarchy(sample.lead, team={"x": Step(sample.echo)}, name="h")))


def actors(sim):
    return sorted(sim.cluster.addresses())


def test_a_workflow_at_rest_has_no_actors_and_wakes_for_a_task():
    async def work(engine):
        first = await engine.submit(CHAIN, {"n": 1})
        await first.result()
        await asyncio.sleep(899)
        busy = actors(sim)
        await asyncio.sleep(10)
        idle = actors(sim)
        status = await engine.status()
        assert 'podium_workflow_up{workflow="chain"} 1' in exposition(status)
        state = status.workflows["chain"].state
        again = await engine.submit(CHAIN, {"n": 2})
        return busy, idle, state, await again.result(), await first.result()

    sim = Simulation()
    busy, idle, state, again, first = sim.run(work)
    assert "supervisor/chain" in busy
    assert idle == []
    assert state == "idle"
    assert (again, first) == ({"n": 4}, {"n": 3})


def test_what_is_asked_of_a_workflow_at_rest_is_answered():
    async def work(engine):
        task = await engine.submit(CHAIN, {"n": 1})
        await task.result()
        await asyncio.sleep(1_000)
        events = [event.kind async for event in task.events()]
        return events, engine._core.reader.find_task(task.id).record.status

    events, status = Simulation().run(work)
    assert events[0] == "accepted" and events[-1] == status == "completed"


@pytest.mark.parametrize("waits", ["open", "parked"])
def test_a_workflow_with_open_tasks_does_not_rest(waits):
    step = (
        Step(sample.wide, with_={"s": "5000", "n": "1"})
        if waits == "open"
        else Step(sample.fail, on_error={"internal": ["park"]})
    )
    workflow = Workflow("w", Sequence(step))

    async def work(engine):
        await engine.submit(workflow, {})
        await asyncio.sleep(4_000)
        return actors(sim)

    sim = Simulation()
    assert "supervisor/w" in sim.run(work)


def test_zero_is_for_never():
    async def work(engine):
        await (await engine.submit(CHAIN, {"n": 1})).result()
        await asyncio.sleep(90_000)
        return actors(sim)

    sim = Simulation(rest_after_s=0)
    assert "supervisor/chain" in sim.run(work)


def test_fifty_workflows_at_rest_cost_nothing_and_all_wake():
    workflows = [Workflow(f"w{n}", Sequence(sample.add)) for n in range(50)]

    async def work(engine):
        for workflow in workflows:
            await engine.deploy(workflow)
        await asyncio.sleep(2_000)
        idle = actors(sim)
        tasks = [await engine.submit(workflow, {"n": 1}) for workflow in workflows]
        return idle, [await task.result() for task in tasks]

    sim = Simulation()
    idle, results = sim.run(work)
    assert idle == []
    assert results == [{"n": 2}] * 50


def test_a_workflow_at_rest_forgets_what_is_too_old():
    async def work(engine):
        task = await engine.submit(CHAIN, {"n": 1})
        await task.result()
        await asyncio.sleep(45_000)
        return engine._core.reader.find_task(task.id), actors(sim)

    sim = Simulation(keep_finished_s=20_000)
    assert sim.run(work) == (None, [])


@pytest.mark.parametrize("seed", range(40))
def test_tasks_that_come_while_it_is_laid_to_rest_are_not_lost(seed):
    """Submissions at random moments around the one at which the supervisor ends, in a cluster with faults."""

    async def work(engine):
        tasks = []
        for n in range(30):
            await asyncio.sleep(sim.rng.uniform(0.0, 2.5))
            tasks.append(await engine.submit(CHAIN if n % 2 else TIERED, {"n": n}))
        return [await task.result() for task in tasks]

    faults = Faults(lose_reply=0.05, lose_request=0.05, repeat=0.05, delay_s=0.2, commit_s=0.1, kills=3)
    settings = {"rest_after_s": 1.0, "top_restart_intensity": 100, "restart_intensity": 100}
    sim = Simulation(seed=seed, faults=faults, **settings)
    results = sim.run(work)
    assert results[1::2] == [{"n": n + 2} for n in range(1, 30, 2)]


def test_permits_of_a_workflow_at_rest_are_free():
    @podium.protocol(quotas={"llm": 1})
    async def call(input: dict) -> dict:
        return input

    async def work(engine):
        one, other = (Workflow(name, Sequence(call)) for name in ("one", "other"))
        await (await engine.submit(one, {})).result()
        await asyncio.sleep(1_000)
        for _ in range(5):
            await (await engine.submit(other, {})).result()
        return (await engine.status()).quotas["llm"].held

    assert Simulation(limits={"llm": 1}).run(work) == 0
