"""How long does one task with 100 parallel steps take, trivial ones and ones that sleep 50 ms, against plain Ray calls?

W3: the outputs are summed. Podium runs `Parallel(each=…)` over one protocol and commits every output; plain Ray awaits
100 calls of one async actor at once, from a coordinator actor. In turns, medians.

    python benchmarks/fanout.py [--branches 100] [--repeats 20]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time

from harness import Row, machine, report

import podium
from podium import Parallel, Sequence, Workflow

SLEEP_S = 0.05


@podium.protocol(concurrency=1000)
async def twice(n: int) -> int:
    return 2 * n


@podium.protocol(concurrency=1000)
async def twice_later(n: int) -> int:
    await asyncio.sleep(SLEEP_S)
    return 2 * n


@podium.protocol
async def total(numbers: list[int]) -> int:
    return sum(numbers)


TRIVIAL = Workflow("fanout", Sequence(Parallel(each="input", do=twice), total))
SLEEPING = Workflow("fanout-sleeping", Sequence(Parallel(each="input", do=twice_later), total))


def ray_fanout(sleep_s: float):
    import ray

    @ray.remote(num_cpus=0, max_concurrency=1000)
    class Twice:
        async def run(self, n: int) -> int:
            if sleep_s:
                await asyncio.sleep(sleep_s)
            return 2 * n

    @ray.remote(num_cpus=0)
    class Fan:
        def __init__(self, worker) -> None:
            self.worker = worker

        async def run(self, numbers: list[int]) -> int:
            return sum(await asyncio.gather(*(self.worker.run.remote(n) for n in numbers)))

    fan = Fan.remote(Twice.remote())
    return lambda numbers: ray.get(fan.run.remote(numbers))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--branches", type=int, default=100)
    options.add_argument("--repeats", type=int, default=20)
    given = options.parse_args()
    numbers = list(range(given.branches))
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        runs = {
            ("podium, durable", "W3"): lambda: engine.submit(TRIVIAL, numbers).result(timeout_s=60),
            ("plain ray", "W3"): (lambda fan: lambda: fan(numbers))(ray_fanout(0.0)),
            ("podium, durable", "W3, 50 ms each"): lambda: engine.submit(SLEEPING, numbers).result(timeout_s=60),
            ("plain ray", "W3, 50 ms each"): (lambda fan: lambda: fan(numbers))(ray_fanout(SLEEP_S)),
        }
        rows = {key: Row(*key, "ms") for key in runs}
        for n in range(given.repeats + 3):
            for key, work in runs.items():
                began = time.perf_counter()
                assert work() == 2 * sum(numbers)
                if n >= 3:
                    rows[key].values.append((time.perf_counter() - began) * 1000)
    ratios = {
        "W3, podium over plain Ray (target <= 0.6, then 0.3)": rows["podium, durable", "W3"].median
        / rows["plain ray", "W3"].median,
        "W3 sleeping, ms (target <= 75, then 60)": rows["podium, durable", "W3, 50 ms each"].median,
    }
    report("fanout", list(rows.values()), ratios, machine())


if __name__ == "__main__":
    main()
