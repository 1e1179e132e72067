"""Permits that pass on at the host (lanes.py): as fast as if they did not count, and never one too many."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from random import Random

import pytest

import podium
from podium import Sequence, Workflow
from podium.actors.resources import ResourceActor
from podium.errors import TaskCancelled
from podium.supervisors.limits.regimes import KEEP_IDLE_S
from podium.testing import Faults, Simulation


class Seen:
    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most = 0
        self.most_of_one = 0
        self.order: list[str] = []

    def begin(self, user: str) -> None:
        self.running[user] += 1
        self.order.append(user)
        self.most = max(self.most, self.running.total())
        self.most_of_one = max(self.most_of_one, self.running[user])

    def workflow(self, took_s: float, **options: object) -> Workflow:
        return self.workflows(1, took_s, **options)[0]

    def workflows(self, count: int, took_s: float, **options: object) -> list[Workflow]:
        @podium.protocol(quotas={"llm": 1}, **options)
        async def model(ctx, _input):
            self.begin(ctx.user)
            try:
                await asyncio.sleep(took_s)
            finally:
                self.running[ctx.user] -= 1

        return [Workflow(f"w{n}", Sequence(model)) for n in range(count)]


def test_a_scarce_quota_costs_no_way_to_the_host_and_back():
    seen = Seen()

    async def work(engine):
        began = asyncio.get_running_loop().time()
        tasks = await engine.submit_many(seen.workflow(0.001, concurrency=20), [None] * 300)
        for task in tasks:
            await task.result()
        return asyncio.get_running_loop().time() - began

    took_s = Simulation(1, {"llm": 2}, Faults(delay_s=0.2)).run(work, 100)
    assert seen.most == 2
    assert took_s < 6, "150 ways to the host and back take 30 s"


def test_two_workflows_over_one_quota_pay_a_round_trip_per_stint_and_get_equal_shares():
    seen = Seen()

    async def work(engine):
        began = asyncio.get_running_loop().time()
        await engine.set_limits(llm=0)
        tasks = []
        for n, workflow in enumerate(seen.workflows(2, 0.001, concurrency=20)):
            tasks += await engine.submit_many(workflow, [None] * 500, user=f"u{n}")
        await engine.set_limits(llm=2)
        for task in tasks:
            await task.result()
        return asyncio.get_running_loop().time() - began

    took_s = Simulation(1, {"llm": 2}, Faults(delay_s=0.05)).run(work, 100)
    assert seen.most == 2
    assert took_s < 10, "500 ways to the host and back, and to the ResourceActor, take 50 s"
    first_half = Counter(seen.order[:500])
    assert min(first_half.values()) > 150, first_half


def test_two_workflows_over_a_plentiful_quota_ask_once_and_keep_what_nobody_waits_for(monkeypatch):
    seen, asked = Seen(), []
    acquire = ResourceActor._acquire
    monkeypatch.setattr(ResourceActor, "_acquire", lambda *args: (asked.append(args), acquire(*args)))

    async def work(engine):
        workflows = seen.workflows(2, 0.1, concurrency=20)
        for workflow in workflows * 20:
            await (await engine.submit(workflow, None)).result()
        often = len(asked)
        for task in await engine.submit_many(workflows[0], [None] * 10):
            await task.result()
        await asyncio.sleep(2 * KEEP_IDLE_S)
        return often, (await engine.status()).quotas["llm"].held

    often, held = Simulation(1, {"llm": 2}).run(work, 100)
    assert often <= 8 and held == 0
    assert seen.most == 2, "what one keeps is given to whoever waits for it"


def test_long_steps_stay_in_order():
    """What would wait long at a host waits here, where others may still go before it."""
    seen = Seen()

    async def work(engine):
        workflow = seen.workflow(1.0, concurrency=20)
        many = await engine.submit_many(workflow, [None] * 10, user="many")
        await asyncio.sleep(2.5)
        urgent = await engine.submit(workflow, None, user="urgent", priority=9)
        for task in [*many, urgent]:
            await task.result()

    Simulation(1, {"llm": 1}).run(work, 100)
    assert seen.order.index("urgent") == 3


@pytest.mark.parametrize("seed", range(40))
def test_never_one_too_many_whatever_is_late_cancelled_or_changed(seed):
    rng = Random(seed)
    seen = Seen()
    limit, per_user = rng.choice([1, 2, 5]), rng.choice([None, 1, 2])
    limits = {"llm": limit} | ({"llm per user": per_user} if per_user else {})
    faults = Faults(delay_s=rng.choice([0, 0.01, 0.2]), repeat=0.05, commit_s=0.01)

    async def cancel(task):
        await asyncio.sleep(rng.uniform(0, 1))
        await task.cancel()

    async def work(engine):
        took_s, count = rng.choice([0.001, 0.01]), rng.choice([1, 2])
        workflows = seen.workflows(count, took_s, concurrency=3, replicas=rng.choice([1, 2]))
        tasks = []
        for n, user in enumerate(("ada", "bob", "cyn")):
            tasks += await engine.submit_many(workflows[n % count], [None] * 40, user=user)
        cancelling = [asyncio.ensure_future(cancel(task)) for task in rng.sample(tasks, 20)]
        await engine.set_limits(llm=rng.randint(0, limit))
        await asyncio.sleep(rng.uniform(0, 1))
        await engine.set_limits(llm=limit)
        for task in tasks:
            with contextlib.suppress(TaskCancelled):
                await task.result()
        await asyncio.gather(*cancelling)
        await asyncio.sleep(2 * KEEP_IDLE_S)
        return (await engine.status()).quotas["llm"]

    at_rest = Simulation(seed, limits, faults).run(work, 1_000)
    assert (at_rest.held, at_rest.waiting) == (0, 0)
    assert seen.most <= limit and (per_user is None or seen.most_of_one <= per_user)
