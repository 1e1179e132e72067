"""What limits can say beyond so many at once: keys, amounts known afterwards, who is shed first."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

import pytest

import podium
from podium import Sequence, Workflow
from podium.actors.host import _Attempt
from podium.errors import InvalidInput, Overloaded, TaskFailed
from podium.status import LimitUse
from podium.testing import Simulation
from tests import sample


def run(work, **options):
    return Simulation(**options).run(work)


def test_what_a_run_really_used_takes_the_place_of_what_it_asked_for():
    began = []

    @podium.protocol(quotas={"tokens": 100})
    async def model(ctx, used):
        began.append(asyncio.get_running_loop().time())
        ctx.used(tokens=used)

    async def work(engine):
        workflow = Workflow("w", Sequence(model))
        for used in (0, 0, 0, 400, 100):
            await (await engine.submit(workflow, used)).result()

    run(work, limits={"tokens": "10/s burst 100"})
    waits = [round(later - sooner, 1) for sooner, later in itertools.pairwise(began)]
    assert waits == [0, 0, 0, 40]


def test_negative_use_is_refused():
    @podium.protocol
    async def model(ctx, _input):
        ctx.used(tokens=-1)

    async def work(engine):
        with pytest.raises(TaskFailed, match=r"an amount is a number from 0 to [0-9]+, not -1"):
            await (await engine.submit(Workflow("w", Sequence(model)), None)).result()

    run(work)


def test_limits_per_key_count_apart_by_what_the_input_says():
    running, most = Counter(), Counter()

    @podium.protocol(quotas={"llm": 1}, limit_key="input.model", concurrency=50)
    async def model(input):
        running[input["model"]] += 1
        most[input["model"]] = max(most[input["model"]], running[input["model"]])
        await asyncio.sleep(1)
        running[input["model"]] -= 1

    async def work(engine):
        inputs = [{"model": name} for name in ("large", "small") for _ in range(9)]
        workflow = Workflow("w", Sequence(model))
        for task in await engine.submit_many(workflow, inputs):
            await task.result()
        with pytest.raises(TaskFailed, match=r"limit_key: `input\.model`: .*Key not found"):
            await (await engine.submit(workflow, {})).result()
        with pytest.raises(TaskFailed, match="a key must be a text"):
            await (await engine.submit(workflow, {"model": [1]})).result()

    run(work, limits={"llm": 5, "llm per key": 2})
    assert most == {"large": 2, "small": 2}


def test_a_limit_key_that_does_not_compile_names_the_protocol():
    with pytest.raises(podium.errors.InvalidDefinition, match=r"limit_key: .*undeclared reference to 'output.model'"):

        @podium.protocol(limit_key="output.model")
        async def model(_input):
            return None


def test_what_matters_least_is_refused_first():
    order = ("sheddable", "sheddable_plus", "critical", "critical_plus")

    @podium.protocol
    async def slow(_input):
        await asyncio.sleep(1)

    async def work(engine):
        workflow = Workflow("w", Sequence(slow))
        room = Counter()
        for criticality in order:
            with pytest.raises(Overloaded) as refused:
                while True:
                    await engine.submit(workflow, None, criticality=criticality)
                    room[criticality] += 1
            assert ("of which" in str(refused.value)) == (criticality != "critical")
        return list(itertools.accumulate(room[criticality] for criticality in order))

    assert run(work, max_open_tasks=20) == [10, 16, 20, 22]
    assert run(work, max_open_per_user=10) == [5, 8, 10, 11]


def test_an_unknown_criticality_is_refused():
    async def work(engine):
        with pytest.raises(InvalidInput, match="'high' is none of critical_plus, critical, sheddable_plus, sheddable"):
            await engine.submit(Workflow("w", Sequence(sample.echo)), 1, criticality="high")

    run(work)


def test_background_work_gives_way_to_what_came_later_and_is_not_forgotten():
    order = []

    @podium.protocol
    async def slow(input):
        order.append(input)
        await asyncio.sleep(1)

    async def work(engine):
        workflow = Workflow("w", Sequence(slow))
        tasks = await engine.submit_many(workflow, ["background"] * 3, priority=podium.BACKGROUND)
        for _ in range(90):
            tasks.append(await engine.submit(workflow, "interactive"))
            await asyncio.sleep(1)
        for task in tasks:
            await task.result()

    run(work, lookahead_s=0, age_s=5.0)
    background = [place for place, each in enumerate(order) if each == "background"]
    assert background[0] <= 1 and 50 <= background[1] <= 55  # the first once it has its permit


def test_tasks_that_were_accepted_under_a_limit_wait_for_it_in_a_cluster_without():
    before = Simulation(1, limits={"gpu": 1})

    @podium.protocol(quotas={"gpu": 1})
    async def render(input):
        await asyncio.sleep(100)
        return input

    async def first(engine):
        return await engine.submit(Workflow("w", Sequence(render)), 7)

    async def second(engine):
        await asyncio.sleep(500)
        assert (await engine.status()).quotas["gpu"] == LimitUse(None, held=0, waiting=1)
        assert await (await engine.task(task.id)).read_status() in ("pending", "running")
        await engine.set_limits(gpu=1)
        return await (await engine.task(task.id)).result()

    task = before.run(first)
    after = Simulation(2)
    after.disk = before.disk
    assert after.run(second) == 7


def test_the_answer_of_code_that_does_not_stop_gives_no_permit_back(monkeypatch):
    """It is free only when the host is certainly dead; here a kill takes no time, so the answer itself is looked at."""
    answers = []
    answer = _Attempt._answer
    monkeypatch.setattr(_Attempt, "_answer", lambda self, result: (answers.append(result), answer(self, result)))

    @podium.protocol(quotas={"llm": 1}, replicas=2, timeout_s=1)
    async def stubborn(input):
        while input == "stubborn":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(stubborn)), ["stubborn", "good"])
        with pytest.raises(TaskFailed, match="ran out of time"):
            await tasks[0].result()
        await tasks[1].result()

    run(work, limits={"llm": 1})
    (stuck, permit), (ended, came_back) = [(result[3], result[4]) for result in answers]
    assert (stuck, permit) == (True, None)
    assert not ended and came_back is not None
