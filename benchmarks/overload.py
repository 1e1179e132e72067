"""What happens at ten times the capacity: do accepted tasks finish, do refusals come at once, does memory stay?

The capacity is known: 10 runs at once of a step of 50 ms, 200 tasks per second. At most 400 may be open, the work of
two seconds. Clients come at 2,000 per second, whatever the answers are (an open loop), each with one task, and wait for
its result; one in four is critical, three are sheddable. Memory is each process's own (USS), halfway and at the end.

    python -m benchmarks.overload [--seconds 30] [--times 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import podium
from podium.errors import Overloaded

from .harness import machine, percentile
from .steady import Watch

AT_ONCE, STEP_S = 10, 0.05
CAPACITY = AT_ONCE / STEP_S
MAX_OPEN = 400
TICK_S = 0.01


@podium.protocol(concurrency=AT_ONCE)
async def step(_input: None) -> None:
    await asyncio.sleep(STEP_S)


WORKFLOW = podium.Workflow("overload", podium.Sequence(step))


class Crowd:
    def __init__(self, engine: podium.AsyncEngine) -> None:
        self._engine = engine
        self.finished = 0
        self.accepted_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.refused: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._clients: set[asyncio.Task] = set()

    async def come(self, per_s: float, seconds: float) -> None:
        came, began = 0, time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            while came < per_s * now:
                client = asyncio.create_task(self._one(came))
                self._clients.add(client)
                client.add_done_callback(self._clients.discard)
                came += 1
            await asyncio.sleep(TICK_S)

    async def leave(self) -> None:
        await asyncio.gather(*self._clients)

    async def _one(self, n: int) -> None:
        criticality = "sheddable" if n % 4 else "critical"
        self.sent[criticality] += 1
        began = time.monotonic()
        try:
            task = await self._engine.submit(WORKFLOW, criticality=criticality)
            self.accepted_ms.append((time.monotonic() - began) * 1000)
            await task.result()
            self.finished += 1
        except Overloaded:
            self.refused_ms.append((time.monotonic() - began) * 1000)
            self.refused[criticality] += 1


async def run(data: Path, times: float, seconds: float) -> dict:
    async with podium.connect_async(data=data, max_open_tasks=MAX_OPEN) as engine:
        for task in await engine.submit_many(WORKFLOW, [None] * 100):
            await task.result()
        crowd, watch = Crowd(engine), Watch(data)
        await crowd.come(times * CAPACITY, seconds / 2)
        watch.look()
        await crowd.come(times * CAPACITY, seconds / 2)
        watch.look()
        began = time.monotonic()
        await crowd.leave()
        drained_s = time.monotonic() - began
    assert crowd.finished == len(crowd.accepted_ms), "an accepted task did not finish"
    memory = {kind: [round(mb, 1) for _, mb in points] for kind, points in watch.samples.memory_mb.items()}
    return {
        "clients": sum(crowd.sent.values()),
        "accepted, all finished": crowd.finished,
        "accepted per second": round(crowd.finished / seconds, 1),
        "refused": crowd.refused.total(),
        "share of critical ones refused": round(crowd.refused["critical"] / crowd.sent["critical"], 3),
        "share of sheddable ones refused": round(crowd.refused["sheddable"] / crowd.sent["sheddable"], 3),
        "acceptance p50, p99 ms": [round(percentile(crowd.accepted_ms, share), 1) for share in (0.5, 0.99)],
        "refusal p50, p99 ms": [round(percentile(crowd.refused_ms, share), 1) for share in (0.5, 0.99)],
        "done after the last came, s": round(drained_s, 2),
        "MB halfway, at the end": memory,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=30)
    options.add_argument("--times", type=float, default=10)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        facts = asyncio.run(run(Path(name).resolve() / "data", given.times, given.seconds))
    for key, value in facts.items():
        print(f"{key:<34}{value}")
    print(json.dumps({"benchmark": "overload", **facts, "machine": machine()}))


if __name__ == "__main__":
    main()
