"""What does a scarce quota cost, and do limit, shares and priority hold while 20 users compete for it? (W7)

Speed: 10,000 tasks of one step from 20 users over a quota of 5, in turns with the same tasks without the quota.

Order: the same tasks again, all accepted before the first permit is there, user after user; last of all 20 urgent
ones. Every step notes how many ran at once and when. Shares: Jain's index of the users' starts in the first half
(1 is equal). Meanwhile the limit goes from 5 to 3 and back, and then tasks come in one by one: how long does each
acceptance take under that load?

    python benchmarks/contention.py [--tasks 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter

from harness import Row, machine, percentile, report

import podium

USERS = [f"u{n}" for n in range(20)]
LIMIT, LOWER = 5, 3
URGENT, SINGLE = 20, 40
SETTLE_S = 0.2
"""After the limit is lowered, until all that began before has ended."""
_running = 0


async def noted(input: dict) -> dict:
    global _running
    _running += 1
    seen = {"running": _running, "at": time.monotonic(), "user": input["user"]}
    await asyncio.sleep(0)
    _running -= 1
    return seen


@podium.protocol(quotas={"llm": 1}, concurrency=50)
async def limited(input: dict) -> dict:
    return await noted(input)


@podium.protocol(concurrency=50)
async def free(input: dict) -> dict:
    return await noted(input)


LIMITED = podium.Workflow("limited", podium.Sequence(limited))
FREE = podium.Workflow("free", podium.Sequence(free))


def submit(engine: podium.Engine, workflow: podium.Workflow, count: int) -> list[podium.Task]:
    tasks = []
    for user in USERS:
        tasks += engine.submit_many(workflow, [{"user": user}] * (count // len(USERS)), user=user)
    return tasks


def results(tasks: list[podium.Task]) -> list[dict]:
    return [task.result(timeout_s=300) for task in tasks]


def speed(engine: podium.Engine, workflow: podium.Workflow, count: int) -> tuple[float, int]:
    """Tasks per second, and the most that ran at once."""
    began = time.monotonic()
    seen = results(submit(engine, workflow, count))
    return count / (time.monotonic() - began), max(each["running"] for each in seen)


def order(engine: podium.Engine, count: int, rows: dict[str, Row]) -> dict[str, float]:
    engine.set_limits(llm=0)
    tasks = submit(engine, LIMITED, count)
    urgent = engine.submit_many(LIMITED, [{"user": "urgent"}] * URGENT, user="urgent", priority=10)
    engine.set_limits(llm=LIMIT)
    engine.set_limits(llm=LOWER)
    lowered_at = time.monotonic() + SETTLE_S
    time.sleep(2 * SETTLE_S)
    raised_at = time.monotonic()
    engine.set_limits(llm=LIMIT)
    single, accepted = [], []
    for _ in range(SINGLE):
        began = time.monotonic()
        single.append(engine.submit(LIMITED, {"user": "single"}, user="single"))
        accepted.append((began, (time.monotonic() - began) * 1000))
    until = max(each["at"] for each in results(tasks))
    rows["acceptance"].values += [took_ms for began, took_ms in accepted if began < until]
    seen = sorted(results([*tasks, *urgent, *single]), key=lambda each: each["at"])
    while_low = [each["running"] for each in seen if lowered_at < each["at"] < raised_at]
    assert while_low, "nothing ran while the limit was low"
    return {
        "most at once": max(each["running"] for each in seen),
        "most at once while the limit was lower": max(while_low),
        "Jain's index": jain([each["user"] for each in seen[: len(seen) // 2]]),
        "urgent": max(n for n, each in enumerate(seen) if each["user"] == "urgent") / len(seen),
    }


def jain(starts: list[str]) -> float:
    counts = Counter(user for user in starts if user in USERS)
    return sum(counts.values()) ** 2 / (len(USERS) * sum(n**2 for n in counts.values()))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    rows = {name: Row(name, f"W7, {given.tasks} tasks", "tasks/s") for name in ("limited", "free")}
    rows["acceptance"] = Row("acceptance", "of one task, under load", "ms")
    most, orders = 0, []
    with (
        tempfile.TemporaryDirectory() as data,
        podium.connect(data=data, limits={"llm": LIMIT}, max_open_tasks=10**6) as engine,
    ):
        for workflow in (LIMITED, FREE):
            speed(engine, workflow, 1000)
        for _ in range(given.repeats):
            per_s, at_once = speed(engine, LIMITED, given.tasks)
            rows["limited"].values.append(per_s)
            rows["free"].values.append(speed(engine, FREE, given.tasks)[0])
            orders.append(order(engine, given.tasks, rows))
            most = max(most, at_once, int(orders[-1]["most at once"]))
    lower = max(each["most at once while the limit was lower"] for each in orders)
    print(f"at most {most} ran at once, the limit is {LIMIT}; while it was {LOWER}, at most {lower}")
    ratios = {
        "with the quota over without it (target >= 0.5)": rows["limited"].median / rows["free"].median,
        "Jain's index of shares, the worst (target >= 0.95)": min(each["Jain's index"] for each in orders),
        "where the last urgent task came, as a share of all": max(each["urgent"] for each in orders),
        "p99 of one acceptance under load, ms": percentile(rows["acceptance"].values, 0.99),
    }
    report("contention", list(rows.values()), ratios, machine())
    assert most <= LIMIT and lower <= LOWER


if __name__ == "__main__":
    main()
