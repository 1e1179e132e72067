"""Limits that follow the load of the machine."""

from __future__ import annotations

import asyncio
from collections import Counter

import podium
from podium import Sequence, Workflow
from podium.status import LimitUse
from podium.supervisors.limits.throttle import Thresholds, Throttle
from podium.supervisors.ports.world import Load
from podium.testing import Simulation

PATIENCE = Thresholds().samples
LIMITS = {"request": 50, "llm": 5, "one": 1, "none": 0, "llm per user": 4, "tokens": "10/s burst 30"}


def after(loads):
    throttle = Throttle(Thresholds())
    for load in loads:
        throttle.look(load if isinstance(load, Load) else Load(load, 0.5), 0.0)
    return throttle


def test_a_load_above_the_threshold_lowers_limits_step_by_step_to_the_floor():
    assert after([0.9] * (PATIENCE - 1)).factor == 1.0
    assert after([0.9] * PATIENCE).factor == 0.9
    throttle = after([0.95] * 100)
    assert throttle.factor == 0.6
    assert throttle.lowered(LIMITS) == {"request": 30, "llm": 3}


def test_a_load_between_the_thresholds_changes_nothing_and_idling_restores():
    lowered = [0.9] * 100
    assert after([*lowered, *[0.5] * 100]).factor == 0.6
    assert after([*lowered, *[0.1] * PATIENCE]).factor == 0.7
    restored = after([*lowered, *[0.1] * 100])
    assert restored.factor == 1.0
    assert restored.lowered(LIMITS) == {}


def test_memory_and_a_late_event_loop_count_too_and_each_change_says_why():
    throttle = after([Load(0.1, 0.85)] * PATIENCE + [Load(0.1, 0.5, lag_s=0.45)] * PATIENCE)
    assert throttle.factor == 0.8
    reasons = [(change.factor, change.reason) for change in throttle.changes]
    assert reasons == [(0.9, "85% of the memory is used"), (0.8, "the event loop was 0.45 s late")]
    assert after([*[0.9] * 100, *[Load(0.1, 0.85)] * 100]).factor == 0.6, "not restored while memory is short"


def test_one_calm_sample_starts_the_count_again():
    assert after([0.9, 0.9, 0.9, 0.9, 0.5] * 20).factor == 1.0


def test_limits_follow_the_load_also_where_the_books_are_on_loan_and_changes_are_of_the_full_limit():
    running, most = Counter(), []

    @podium.protocol(quotas={"llm": 1}, concurrency=50)
    async def model(input):
        running["now"] += 1
        most.append(running["now"])
        await asyncio.sleep(1)
        running["now"] -= 1

    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(model)), [None] * 400)
        await asyncio.sleep(3)
        assert max(most[-5:]) == 5
        simulation.cpu_used = 0.95
        await asyncio.sleep(60)
        assert max(most[-5:]) == 3
        use = (await engine.status()).quotas["llm"]
        assert (use.limit, use.now) == (5, 3)
        use = (await engine.set_limits(llm=10))["llm"]
        assert (use.limit, use.now) == (10, 6)
        simulation.kill("resources")
        await asyncio.sleep(20)
        simulation.cpu_used = 0.1
        await asyncio.sleep(60)
        assert (await engine.status()).quotas["llm"].now is None
        for task in tasks:
            await task.result()

    simulation = Simulation(limits={"llm": 5}, throttle=True)
    simulation.run(work)


def test_without_the_setting_the_load_changes_nothing():
    async def work(engine):
        await engine.deploy(Workflow("w", Sequence(podium.Step("tests.sample:model"))))
        await asyncio.sleep(100)
        assert (await engine.status()).quotas["llm"] == LimitUse(5, held=0, waiting=0)

    simulation = Simulation(limits={"llm": 5})
    simulation.cpu_used = 1.0
    simulation.run(work)
