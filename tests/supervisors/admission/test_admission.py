"""Permits that a task holds from its first step to its end."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import podium
from podium import Hierarchy, Sequence, Workflow
from podium.errors import InvalidDefinition, InvalidInput
from podium.protocols.requests.pipelines import ask_workflow
from podium.supervisors.limits.holding import Needs, check_order
from podium.testing import Simulation
from tests import sample

RUNNING: Counter[str] = Counter()
MOST: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _nobody_runs():
    RUNNING.clear()
    MOST.clear()


@podium.protocol(concurrency=50)
async def enter(ctx, input):
    """One more task is open, by name of its user."""
    RUNNING["all"] += 1
    RUNNING[ctx.user] += 1
    for name, count in RUNNING.items():
        MOST[name] = max(MOST[name], count)
    await asyncio.sleep(1)
    return input


@podium.protocol(concurrency=50)
async def leave(ctx, input):
    await asyncio.sleep(1)
    RUNNING["all"] -= 1
    RUNNING[ctx.user] -= 1
    return input


@podium.protocol(quotas={"room": 1}, concurrency=50)
async def in_the_room(ctx, input):
    await asyncio.sleep(1)
    return input


def workflow(**settings):
    return Workflow("w", Sequence(enter, leave), **settings)


async def held(engine, name):
    return (await engine.status()).quotas[name].held


async def results(tasks):
    return [await task.result() for task in tasks]


def test_a_task_holds_its_permits_from_its_first_step_to_its_end():
    async def work(engine):
        tasks = await engine.submit_many(workflow(quotas={"room": 1}), range(9))
        await asyncio.sleep(0.5)
        assert await held(engine, "room") == 3
        statuses = Counter([await task.read_status() for task in tasks])
        assert statuses == {"running": 3, "pending": 6}
        assert await results(tasks) == list(range(9))
        assert await held(engine, "room") == 0

    Simulation(limits={"room": 3}).run(work)
    assert MOST["all"] == 3


def test_each_user_has_a_limit_of_its_own():
    async def work(engine):
        tasks = [await engine.submit(workflow(quotas={"room": 1}), n, user=user) for n in range(5) for user in "ab"]
        await results(tasks)

    Simulation(limits={"room": 5, "room per user": 2}).run(work)
    assert MOST["a"] == MOST["b"] == 2 and MOST["all"] == 4


def test_a_task_that_is_cancelled_while_it_waits_holds_up_nobody():
    async def work(engine):
        first, second, third = await engine.submit_many(workflow(quotas={"room": 1}), range(3))
        await asyncio.sleep(0.5)
        assert await second.cancel() == "cancelled"
        assert (await first.result(), await third.result()) == (0, 2)
        assert await held(engine, "room") == 0

    Simulation(limits={"room": 1}).run(work)


def test_permits_come_back_however_a_task_ends():
    async def work(engine):
        flow = Workflow("w", Sequence(sample.fail), quotas={"room": 1})
        for task in await engine.submit_many(flow, range(5)):
            with pytest.raises(podium.errors.TaskFailed):
                await task.result()
        task = await engine.submit(Workflow("w2", Sequence(enter, leave), quotas={"room": 1}, timeout_s=0.5), 1)
        with pytest.raises(podium.errors.TaskFailed, match=r"0\.5 s"):
            await task.result()
        await asyncio.sleep(2)
        assert await held(engine, "room") == 0

    Simulation(limits={"room": 1}).run(work)


def test_a_parked_task_holds_nothing_until_it_goes_on():
    tries = Counter()

    @podium.protocol(on_error={"internal": ("park",)})
    async def at_first_not(input):
        tries[input] += 1
        if tries[input] == 1:
            raise RuntimeError("not yet")
        return input

    async def work(engine):
        flow = Workflow("w", Sequence(at_first_not, enter, leave), quotas={"room": 1})
        first = await engine.submit(flow, 1)
        while await first.read_status() != "parked":
            await asyncio.sleep(0.1)
        assert await held(engine, "room") == 0
        second = await engine.submit(workflow(quotas={"room": 1}), 2)
        assert await second.result() == 2
        await engine.redrive([first.id])
        await asyncio.sleep(0.5)
        assert await held(engine, "room") == 1
        assert await first.result() == 1
        assert await held(engine, "room") == 0

    Simulation(limits={"room": 1}).run(work)


@pytest.mark.parametrize("seed", range(12))
def test_the_limit_holds_while_supervisors_hosts_and_the_resource_actor_die(seed):
    async def work(engine):
        flows = [Workflow(name, Sequence(enter, leave), quotas={"room": 1}) for name in ("a", "b")]
        tasks = [task for flow in flows for task in await engine.submit_many(flow, range(6))]
        victims = ["supervisor/a", "supervisor/b", "resources", "supervisor/a"]
        for victim in victims[seed % 2 :]:
            await asyncio.sleep(0.7 + seed / 10)
            simulation.kill(victim)
            assert await held(engine, "room") <= 2
        assert await results(tasks) == [*range(6)] * 2
        await asyncio.sleep(2)
        assert await held(engine, "room") == 0

    simulation = Simulation(seed, limits={"room": 2}, lease_s=2.0)
    simulation.run(work)


def test_what_had_begun_goes_on_before_others_begin_after_a_crash():
    async def work(engine):
        flow = workflow(quotas={"room": 1})
        low = await engine.submit(flow, "low")
        await asyncio.sleep(0.5)
        high = await engine.submit(flow, "high", priority=5)
        simulation.kill("supervisor/w")
        await low.result()
        assert await high.read_status() == "pending" or await high.read_status() == "running"
        await high.result()

    simulation = Simulation(limits={"room": 1})
    simulation.run(work)


def test_a_step_needs_no_more_of_what_its_task_holds():
    async def work(engine):
        flow = Workflow(
            "w",
            Sequence(in_the_room, Hierarchy(sample.lead, name="team", team={"member": in_the_room})),
            quotas={"room": 1},
        )
        await results(await engine.submit_many(flow, range(3)))
        assert await held(engine, "room") == 0

    Simulation(limits={"room": 1}).run(work)


@pytest.mark.parametrize("seed", range(8))
def test_runs_of_nested_hierarchies_wait_for_the_permits_of_their_task_after_a_crash(seed):
    async def work(engine):
        inner = Hierarchy(sample.lead, team={"member": Sequence(enter, leave)})
        team = Hierarchy(sample.lead, name="team", team={"member": inner})
        flows = [Workflow(name, Sequence(sample.echo, team), quotas={"room": 1}) for name in ("a", "b")]
        tasks = [task for flow in flows for task in await engine.submit_many(flow, range(3))]
        for victim in ("supervisor/a", "supervisor/a/team", "supervisor/b", "resources", "supervisor/a"):
            await asyncio.sleep(0.4 + seed / 7)
            simulation.kill(victim)
        await results(tasks)
        await asyncio.sleep(2)
        assert await held(engine, "room") == 0

    simulation = Simulation(seed, limits={"room": 1}, restart_intensity=1000, lease_s=2.0)
    simulation.run(work)


def test_background_work_counts_whatever_the_workflow_says():
    async def work(engine):
        tasks = await engine.submit_many(workflow(), range(10), priority=podium.BACKGROUND)
        await asyncio.sleep(0.9)
        assert await held(engine, "background") == 4
        other = await engine.submit(workflow(), 77)
        assert await other.result() == 77
        assert await results(tasks) == list(range(10))
        assert await held(engine, "background") == 0

    Simulation(limits={"background": 4}).run(work)
    assert MOST["all"] <= 5


def test_background_work_of_a_workflow_without_quotas_survives_the_death_of_its_supervisor():
    async def work(engine):
        tasks = await engine.submit_many(workflow(), range(6), priority=-1)
        await asyncio.sleep(1.5)
        simulation.kill("supervisor/w")
        assert await results(tasks) == list(range(6))
        await asyncio.sleep(2)
        assert await held(engine, "background") == 0

    simulation = Simulation(limits={"background": 2})
    simulation.run(work)


def test_quotas_that_cannot_be_granted_are_refused_when_it_is_deployed():
    async def work(engine):
        with pytest.raises(InvalidInput, match="no limit is set for quota 'romm'"):
            await engine.submit(workflow(quotas={"romm": 1}), 1)
        with pytest.raises(InvalidInput, match="4 permits of 'room', its limit is 3"):
            await engine.submit(workflow(quotas={"room": 4}), 1)

    Simulation(limits={"room": 3}).run(work)
    with pytest.raises(InvalidDefinition, match="quotas"):
        workflow(quotas={"room": 0})


def test_workflows_that_could_wait_for_each_other_for_ever_are_refused():
    @podium.protocol(quotas={"b": 1})
    async def needs_b(input):
        return input

    @podium.protocol(quotas={"a": 1})
    async def needs_a(input):
        return input

    async def work(engine):
        await engine.deploy(Workflow("one", Sequence(needs_b), quotas={"a": 1}))
        with pytest.raises(InvalidDefinition, match="ring b -> a -> b"):
            await engine.deploy(Workflow("two", Sequence(needs_a), quotas={"b": 1}))
        await engine.deploy(Workflow("two", Sequence(needs_a), quotas={"a": 1, "b": 1}))

    Simulation(limits={"a": 2, "b": 2}).run(work)


@pytest.mark.parametrize(
    ("workflows", "ring"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a")], "c -> a -> b -> c"),
        ([("a", "b"), ("b", "c"), ("d", "a")], None),
        ([("a", "b"), ("r", "a"), ("b", "r")], None),
        ([("ax", "b"), ("b", "x")], "b -> x -> b"),
        ([("a", "background"), ("a", "b"), ("", "a")], "background -> a -> background"),
    ],
)
def test_rings_are_found_over_any_number_of_workflows_and_not_over_rates(workflows, ring):
    limits = {"r": "5/s"}
    needs = [
        Needs(frozenset(held) | ({"background"} if needed != "background" else set()), frozenset([needed]))
        for held, needed in workflows
    ]
    if ring is None:
        check_order("new", needs[-1], needs[:-1], limits)
    else:
        with pytest.raises(InvalidDefinition, match=ring):
            check_order("new", needs[-1], needs[:-1], limits)


def test_requests_hold_a_permit_of_their_own():
    assert ask_workflow().quotas == {"request": 1}
    assert Workflow.model_validate(workflow(quotas={"room": 2}).to_dict()).quotas == {"room": 2}
