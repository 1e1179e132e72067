"""A thousand users with skewed load over a scarce quota: the limit holds, shares are equal, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import podium
from podium import Sequence, Workflow
from podium.testing import Simulation

USERS, LIMIT, EACH = 1_000, 20, 3
AGE_S = 5.0


class Seen:
    def __init__(self) -> None:
        self.running = self.most = 0
        self.starts: list[tuple[float, str]] = []

    def workflow(self) -> Workflow:
        @podium.protocol(quotas={"llm": 1}, concurrency=100)
        async def model(ctx, _input):
            self.running += 1
            self.most = max(self.most, self.running)
            self.starts.append((asyncio.get_running_loop().time(), ctx.user))
            await asyncio.sleep(0.1)
            self.running -= 1

        return Workflow("w", Sequence(model))


def jain(counts: list[int]) -> float:
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))


def test_a_thousand_users_with_skewed_load_have_equal_shares_while_they_wait():
    """One user in ten has five times as much, and comes first; as long as all have something waiting, all get alike."""
    seen, rng = Seen(), Random(1)
    users = [f"u{n}" for n in range(USERS)]
    rng.shuffle(users)
    users.sort(key=lambda user: not user.endswith("7"))

    async def work(engine):
        workflow = seen.workflow()
        await engine.set_limits(llm=0)
        tasks = []
        for user in users:
            count = EACH * (5 if user.endswith("7") else 1)
            tasks += await engine.submit_many(workflow, [None] * count, user=user)
        await engine.set_limits(llm=LIMIT)
        for task in tasks:
            await task.result()

    Simulation(1, {"llm": LIMIT}).run(work, 10_000)
    all_wait = seen.starts[: USERS * (EACH - 1)]
    counts = Counter(user for _, user in all_wait)
    assert seen.most == LIMIT
    assert jain([counts[user] for user in users]) >= 0.95


def test_the_least_important_starts_within_the_bound_of_ageing():
    """A level n higher goes first only if its task was accepted less than n times `age_s` later."""
    seen = Seen()
    levels, behind = 4, 100

    async def work(engine):
        workflow = seen.workflow()
        began = asyncio.get_running_loop().time()
        tasks = await engine.submit_many(workflow, [None] * behind, user="u0", priority=levels)
        tasks.append(await engine.submit(workflow, None, user="low", priority=0))
        for n in range(160):  # 220 per second come, 200 are done
            tasks += await engine.submit_many(workflow, [None] * 55, user=f"u{n % 7}", priority=levels)
            await asyncio.sleep(0.25)
        for task in tasks:
            await task.result()
        return began

    began = Simulation(1, {"llm": LIMIT}, age_s=AGE_S).run(work, 10_000)
    (waited_s,) = [at - began for at, user in seen.starts if user == "low"]
    bound_s = (behind + 220 * levels * AGE_S) / 200
    assert seen.most == LIMIT
    assert levels * AGE_S <= waited_s <= 1.05 * bound_s + 0.5
