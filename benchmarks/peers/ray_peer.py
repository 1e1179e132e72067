"""Plain Ray calls, the fastest idiom known: references chained by the driver over plain actors. Nothing is durable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listen on loopback only

import ray
from measuring import measure
from work import Peer, add


@ray.remote(num_cpus=0)
class Step:
    def run(self, input: dict) -> dict:
        return add(input)


@ray.remote(num_cpus=0, max_concurrency=100)
class Part:
    async def run(self, number: int, sleep_s: float) -> int:
        if sleep_s:
            await asyncio.sleep(sleep_s)
        return number


@contextmanager
def peer() -> Iterator[Peer]:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        steps, part = [Step.remote() for _ in range(3)], Part.remote()

        def many(inputs: list[dict]) -> list[dict]:
            chains = list(inputs)
            for step in steps:
                chains = [step.run.remote(each) for each in chains]
            return ray.get(chains)

        def fan(count: int, sleep_s: float) -> int:
            return sum(ray.get([part.run.remote(number, sleep_s) for number in range(count)]))

        yield Peer(many, fan)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    measure("Ray, plain calls", "ray", "no", peer)
