"""Does a task cost more when there are many: finished ones, open ones, watched ones?

W6: W1 (three trivial steps, all submitted at once) with 1,000 tasks and with 100,000; the memory that an open task
takes in the supervisor; and W1 with 1,000 while 1,000 others are watched.

    python benchmarks/flatness.py [--many 100000]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from contextlib import suppress

import psutil
from harness import Row, machine, report
from throughput import WORKFLOW, throughput

import podium
from podium import Sequence, Workflow
from podium.cluster import presence
from podium.errors import EngineClosed

FEW = 1_000


@podium.protocol(concurrency=10)
async def hang(input: dict) -> dict:
    import asyncio

    await asyncio.sleep(3_600)
    return input


OPEN = Workflow("hanging", Sequence(hang))


def chain(engine: podium.Engine):
    return lambda inputs: [task.result(timeout_s=600) for task in engine.submit_many(WORKFLOW, inputs)]


def memory_mb(engine: podium.Engine, workflow: str) -> float:
    pid = presence.process_of(engine.settings.data.resolve(), f"supervisor/{workflow}")
    return psutil.Process(pid).memory_info().rss / 1e6


def watch(task: podium.Task) -> None:
    with suppress(EngineClosed):
        for _ in task.events():
            pass


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--many", type=int, default=100_000)
    given = options.parse_args()
    few, many = Row("1,000 tasks", "W1", "tasks/s"), Row(f"{given.many:,} tasks", "W1", "tasks/s")
    after, watched = Row("1,000 after those", "W1", "tasks/s"), Row("1,000 beside 1,000 watched", "W1", "tasks/s")
    kept = Row("an open task", "memory", "kB")
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        throughput(chain(engine), 300)
        for _ in range(3):
            few.values += [throughput(chain(engine), FEW) for _ in range(5)]
            many.values.append(throughput(chain(engine), given.many))
        after.values += [throughput(chain(engine), FEW) for _ in range(9)]
        engine.submit(OPEN, {"n": 0})
        before = memory_mb(engine, "hanging")
        waiting = engine.submit_many(OPEN, [{"n": n} for n in range(10_000)])
        kept.values.append((memory_mb(engine, "hanging") - before) * 1000 / len(waiting))
        for task in waiting[:FEW]:
            threading.Thread(target=watch, args=(task,), daemon=True).start()
        watched.values += [throughput(chain(engine), FEW) for _ in range(9)]
        ratios = {
            f"W1 at {given.many:,} over W1 at 1,000 (target >= 0.8, then 0.95)": many.median / few.median,
            "W1 after those over before": after.median / few.median,
            "W1 beside 1,000 watched tasks over without": watched.median / few.median,
        }
        report("flatness", [few, many, after, watched, kept], ratios, machine())


if __name__ == "__main__":
    main()
