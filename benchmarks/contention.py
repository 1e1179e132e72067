"""What does a scarce quota cost, and do limit, shares and priority hold while 20 users compete for it? (W7)

10,000 tasks of one step from 20 users, submitted user after user, over a quota of 5; the same tasks without the quota
take turns with them. Every step notes how many ran at once and when it ran. Shares: Jain's index of the users' starts
in the first half of all (1 is equal). Priority: 20 urgent tasks, submitted last of all.

    python benchmarks/contention.py [--tasks 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass

from harness import Row, machine, report

import podium

USERS = [f"u{n}" for n in range(20)]
LIMIT = 5
URGENT = 20
_running = 0


async def noted(input: dict) -> dict:
    global _running
    _running += 1
    seen = {"n": input["n"] + 1, "running": _running, "at": time.monotonic(), "user": input["user"]}
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


@dataclass
class Run:
    per_s: float
    most: int
    """Steps that ran at once."""
    shares: float
    """Jain's index of the users' starts in the first half."""
    urgent: float
    """Where the last urgent task came, as a share of all that started after it was accepted."""


def run(engine: podium.Engine, workflow: podium.Workflow, count: int) -> Run:
    began = time.monotonic()
    tasks = []
    for user in USERS:
        inputs = [{"n": n, "user": user} for n in range(count // len(USERS))]
        tasks += engine.submit_many(workflow, inputs, user=user)
    urgent = engine.submit_many(workflow, [{"n": 0, "user": "vip"}] * URGENT, user="vip", priority=10)
    accepted = time.monotonic()
    seen = [task.result(timeout_s=300) for task in [*tasks, *urgent]]
    took_s = time.monotonic() - began
    order = sorted(seen, key=lambda each: each["at"])
    starts = Counter(each["user"] for each in order[: len(order) // 2] if each["user"] != "vip")
    shares = sum(starts.values()) ** 2 / (len(USERS) * sum(n**2 for n in starts.values()))
    after = [each["user"] for each in order if each["at"] > accepted]
    last = max((n + 1 for n, user in enumerate(after) if user == "vip"), default=0)
    return Run(len(seen) / took_s, max(each["running"] for each in seen), shares, last / max(1, len(after)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        podium.connect(data=data, limits={"llm": LIMIT}, max_open_tasks=10**6) as engine,
    ):
        rows = {w.name: Row(w.name, f"W7, {given.tasks} tasks", "tasks/s") for w in (LIMITED, FREE)}
        runs = []
        for workflow in (LIMITED, FREE):
            run(engine, workflow, 1000)
        for _ in range(given.repeats):
            runs.append(run(engine, LIMITED, given.tasks))
            rows["limited"].values.append(runs[-1].per_s)
            rows["free"].values.append(run(engine, FREE, given.tasks).per_s)
        most = max(each.most for each in runs)
        print(f"at most {most} ran at once, the limit is {LIMIT}")
        ratios = {
            "with the quota over without it (target >= 0.5)": rows["limited"].median / rows["free"].median,
            "Jain's index of shares, the worst (target >= 0.95)": min(each.shares for each in runs),
            "the last urgent task, as a share of what started after it": max(each.urgent for each in runs),
        }
        report("contention", list(rows.values()), ratios, machine())
        assert most <= LIMIT


if __name__ == "__main__":
    main()
