"""What begins after the clock was set, and before anybody has noticed, has its times all the same."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Retry, Sequence, Step, Workflow
from podium.errors import TaskFailed
from podium.testing import Simulation
from tests.sample import asks_left


@pytest.mark.parametrize("jump_s", [-3_600, 3_600, -40])
@pytest.mark.parametrize("limits", [{"task": 30}, {"step": 30}, {"node": 30}], ids=["task", "step", "node"])
def test_what_begins_right_after_the_clock_was_set_has_all_its_time(limits, jump_s):
    simulation = Simulation()
    step = Step(asks_left, total_timeout_s=limits.get("step"))
    flow = Workflow("w", Sequence(step, timeout_s=limits.get("node")), timeout_s=limits.get("task"))

    async def work(engine):
        await engine.deploy(flow)
        await asyncio.sleep(20.5)
        simulation.clock_offset_s = jump_s
        task = await engine.submit(flow, 10)
        return round(await task.result(timeout_s=100))

    assert simulation.run(work) == 20


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_a_later_node_that_begins_right_after_the_clock_was_set_has_all_its_time(jump_s):
    simulation = Simulation()
    flow = Workflow(
        "w", Sequence(Step(asks_left, name="a", with_="7"), Step(asks_left, name="b", with_="7", total_timeout_s=30))
    )

    async def work(engine):
        task = await engine.submit(flow, 10)
        await asyncio.sleep(6.9)
        simulation.clock_offset_s = jump_s
        return round(await task.result(timeout_s=100))

    assert simulation.run(work) == 23


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_a_retry_that_is_set_right_after_the_clock_was_set_waits_as_long_as_it_should(jump_s):
    simulation = Simulation()
    retry = Retry(attempts=2, initial_delay_s=50, max_delay_s=50, jitter=False)
    flow = Workflow("w", Sequence(Step("tests.supervisors.upkeep.test_set_clock:fails_late", retry=retry)))

    async def work(engine):
        loop = asyncio.get_running_loop()
        task = await engine.submit(flow, 1)
        began = loop.time()
        await asyncio.sleep(6.9)
        simulation.clock_offset_s = jump_s
        with pytest.raises(TaskFailed):
            await task.result(timeout_s=1000)
        return round(loop.time() - began)

    assert simulation.run(work) == 64


@podium.protocol
async def fails_late(x):
    await asyncio.sleep(7)
    raise ConnectionError("late")
