"""What does a scarce quota cost, and do limit, shares and priority hold while 20 users compete for it? (W7)

Speed: 10,000 tasks of one step from 20 users over a quota of 5, in turns with the same tasks without the quota, and
with half of the users in another workflow over the same quota.

Order, in one workflow and in two: the same tasks, all accepted before the first permit is there, user after user; last
of all 20 urgent ones. Every step notes when it ran. Shares: Jain's index of the users' starts in the first half (1 is
equal). Meanwhile the limit goes from 5 to 3 and back, and then tasks come in one by one: how long does each acceptance
take under that load?

    python benchmarks/contention.py [--tasks 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections import Counter

from harness import Row, machine, percentile, report

import podium

USERS = [f"u{n}" for n in range(20)]
LIMIT, LOWER = 5, 3
URGENT, SINGLE = 20, 40
LOAD = 3
"""So many times as many tasks wait while limits change and single tasks come: else all would have ended by then."""
SETTLE_S = 0.5
"""After the limit is lowered, until all has ended that hosts had before: a tenth of a second, more under load."""


async def noted(input: dict) -> dict:
    began = time.monotonic()
    await asyncio.sleep(0)
    return {"at": began, "ended": time.monotonic(), "user": input["user"]}


@podium.protocol(quotas={"llm": 1}, concurrency=50)
async def limited(input: dict) -> dict:
    return await noted(input)


@podium.protocol(concurrency=50)
async def free(input: dict) -> dict:
    return await noted(input)


FREE = [podium.Workflow("free", podium.Sequence(free))]
TWO = [podium.Workflow(name, podium.Sequence(limited)) for name in ("limited", "limited-too")]
LIMITED = TWO[:1]


def submit(engine: podium.Engine, workflows: list[podium.Workflow], count: int) -> list[podium.Task]:
    tasks = []
    for n, user in enumerate(USERS):
        inputs = [{"user": user}] * (count // len(USERS))
        tasks += engine.submit_many(workflows[n % len(workflows)], inputs, user=user)
    return tasks


def results(tasks: list[podium.Task]) -> list[dict]:
    return [task.result(timeout_s=300) for task in tasks]


def speed(engine: podium.Engine, workflows: list[podium.Workflow], count: int) -> float:
    """Tasks per second."""
    began = time.monotonic()
    results(submit(engine, workflows, count))
    return count / (time.monotonic() - began)


def order(engine: podium.Engine, workflows: list[podium.Workflow], count: int, acceptance: Row) -> dict[str, float]:
    engine.set_limits(llm=0)
    tasks = submit(engine, workflows, count)
    urgent = engine.submit_many(workflows[0], [{"user": "urgent"}] * URGENT, user="urgent", priority=10)
    engine.set_limits(llm=LIMIT)
    engine.set_limits(llm=LOWER)
    lowered_at = time.monotonic() + SETTLE_S
    time.sleep(2 * SETTLE_S)
    raised_at = time.monotonic()
    engine.set_limits(llm=LIMIT)
    single, accepted = [], []
    for _ in range(SINGLE):
        began = time.monotonic()
        single.append(engine.submit(workflows[0], {"user": "single"}, user="single"))
        accepted.append((began, (time.monotonic() - began) * 1000))
    until = max(each["at"] for each in results(tasks))
    acceptance.values += [took_ms for began, took_ms in accepted if began < until]
    seen = sorted(results([*tasks, *urgent, *single]), key=lambda each: each["at"])
    return {
        "most": most_at_once(seen),
        "most while low": most_at_once([each for each in seen if lowered_at < each["at"] < raised_at]),
        "Jain's index": jain([each["user"] for each in seen[: len(seen) // 2]]),
        "urgent": max(n for n, each in enumerate(seen) if each["user"] == "urgent") / len(seen),
    }


def most_at_once(seen: list[dict]) -> int:
    """Over all hosts: each says when a step began and ended."""
    changes = sorted([(each["at"], 1) for each in seen] + [(each["ended"], -1) for each in seen])
    return max(itertools.accumulate(change for _, change in changes))


def jain(starts: list[str]) -> float:
    counts = Counter(user for user in starts if user in USERS)
    return sum(counts.values()) ** 2 / (len(USERS) * sum(n**2 for n in counts.values()))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    systems = {"limited": LIMITED, "limited, two workflows": TWO, "free": FREE}
    rows = {name: Row(name, f"W7, {given.tasks} tasks", "tasks/s") for name in systems}
    acceptance = Row("acceptance", "of one task, under load", "ms")
    orders = []
    with (
        tempfile.TemporaryDirectory() as data,
        podium.connect(data=data, limits={"llm": LIMIT}, max_open_tasks=10**6) as engine,
    ):
        for workflows in systems.values():
            speed(engine, workflows, 1000)
        for _ in range(given.repeats):
            for name, workflows in systems.items():
                rows[name].values.append(speed(engine, workflows, given.tasks))
            many = LOAD * given.tasks
            orders += [order(engine, workflows, many, acceptance) for workflows in (LIMITED, TWO)]
    most, low = (int(max(each[key] for each in orders)) for key in ("most", "most while low"))
    print(f"at most {most} ran at once, the limit is {LIMIT}; while it was {LOWER}, at most {low}")
    free_per_s = rows["free"].median
    ratios = {
        "with the quota over without it (target >= 0.5)": rows["limited"].median / free_per_s,
        "with it, two workflows, over without it": rows["limited, two workflows"].median / free_per_s,
        "Jain's index of shares, the worst (target >= 0.95)": min(each["Jain's index"] for each in orders[::2]),
        "Jain's index in two workflows, the worst": min(each["Jain's index"] for each in orders[1::2]),
        "where the last urgent task came, as a share of all": max(each["urgent"] for each in orders),
        "p99 of one acceptance under load, ms": percentile(acceptance.values, 0.99),
    }
    report("contention", [*rows.values(), acceptance], ratios, machine())
    assert most <= LIMIT and low <= LOWER


if __name__ == "__main__":
    main()
