"""Does a task cost more when there are many: finished ones, open ones, watched ones?

W6: W1 (three trivial steps, all submitted at once) with 1,000 tasks and with 100,000, in one shard and in two; the
memory that an open task takes in the supervisor; and W1 with 1,000 while 1,000 others are watched.

    python benchmarks/flatness.py [--many 100000]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from contextlib import suppress

import psutil
from harness import Row, machine, report, throughput
from throughput import SHARDED, podium_chain

import podium
from podium import Sequence, Workflow
from podium.cluster.on_ray.process_locks import ProcessLocks
from podium.errors import EngineClosed

FEW = 1_000


@podium.protocol(concurrency=10)
async def hang(input: dict) -> dict:
    import asyncio

    await asyncio.sleep(3_600)
    return input


OPEN = Workflow("hanging", Sequence(hang))


def memory_mb(engine: podium.Engine, workflow: str) -> float:
    pid = ProcessLocks(engine.settings.data.resolve()).process_of(f"supervisor/{workflow}")
    return psutil.Process(pid).memory_info().rss / 1e6


def watch(task: podium.Task) -> None:
    with suppress(EngineClosed):
        for _ in task.events():
            pass


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--many", type=int, default=100_000)
    given = options.parse_args()
    few, many, few_sharded, many_sharded, after, watched = (
        Row(name, "W1", "tasks/s")
        for name in (
            "1,000 tasks",
            f"{given.many:,} tasks",
            "1,000 tasks, two shards",
            f"{given.many:,} tasks, two shards",
            "1,000 after those",
            "1,000 beside 1,000 watched",
        )
    )
    kept = Row("an open task", "memory", "kB")
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        one, two = podium_chain(engine), podium_chain(engine, SHARDED)
        for chain in (one, two):
            throughput(chain, 300)
        for _ in range(3):
            for chain, at_1000, at_many in ((one, few, many), (two, few_sharded, many_sharded)):
                at_1000.values += [throughput(chain, FEW) for _ in range(5)]
                at_many.values.append(throughput(chain, given.many))
        after.values += [throughput(one, FEW) for _ in range(9)]
        engine.submit(OPEN, {"n": 0})
        before = memory_mb(engine, "hanging")
        waiting = engine.submit_many(OPEN, [{"n": n} for n in range(10_000)])
        kept.values.append((memory_mb(engine, "hanging") - before) * 1000 / len(waiting))
        for task in waiting[:FEW]:
            threading.Thread(target=watch, args=(task,), daemon=True).start()
        watched.values += [throughput(one, FEW) for _ in range(9)]
        ratios = {
            f"W1 at {given.many:,} over W1 at 1,000 (target >= 0.8, then 0.95)": many.median / few.median,
            "the same in two shards": many_sharded.median / few_sharded.median,
            "W1 after those over before": after.median / few.median,
            "W1 beside 1,000 watched tasks over without": watched.median / few.median,
        }
        rows = [few, many, few_sharded, many_sharded, after, watched, kept]
        report("flatness", rows, ratios, machine())


if __name__ == "__main__":
    main()
