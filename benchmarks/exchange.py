"""What does a message between two actors cost, against a call of a Ray actor?

There and back between two processes, one at a time (ms) and 1,000 at once (messages per second): Podium's exchange over
its socket, and over a Ray actor's method as between two machines; plain calls of a synchronous and of an asyncio actor
of Ray. The far side answers what it was given.

    python benchmarks/exchange.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listen on loopback only

import ray
from harness import Row, machine, report

from podium.actors.exchange import ExchangeClient
from podium.actors.exchange_server import ExchangeServer
from podium.cluster.on_ray import sockets as wire
from podium.protocols.errors import PeerUnreachable
from podium.supervisors.messages.door import message

ONES, MANY = 300, 1_000
PAYLOAD = {"n": 1}
Ask = Callable[[], Awaitable[Any]]


@message()
class Said(NamedTuple):
    """A message that is answered with itself."""

    value: dict[str, int]


@ray.remote(num_cpus=0)
class Plain:
    def echo(self, payload: Any) -> Any:
        return payload


@ray.remote(num_cpus=0, max_concurrency=1_000)
class Loop:
    async def echo(self, payload: Any) -> Any:
        return payload


@ray.remote(num_cpus=0, max_concurrency=100)
class Echo:
    """The far side of an exchange, on a socket and on a method."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._far = ExchangeServer(lambda ask: ask.reply(ask.payload), "echo@1")

    async def listen(self) -> None:
        self._server = await wire.listen(self._folder, "echo", self._far.take_in)

    async def take(self, frame: bytes) -> bytes:
        return await self._far.exchange(frame)


def over_ray(actor: Any) -> Any:
    """The transport of an exchange by calls of a Ray actor."""

    async def carry(frame: bytes, then: Callable[[Any], None]) -> None:
        try:
            then(await actor.take.remote(frame))
        except ray.exceptions.RayError as error:
            then(PeerUnreachable(address="echo", reason=str(error)))

    under_way = set()

    def call(frame: bytes, then: Callable[[Any], None]) -> None:
        task = asyncio.get_running_loop().create_task(carry(frame, then))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    return call


async def measure(ask: Ask, one: Row, many: Row) -> None:
    samples = []
    for _ in range(ONES):
        began = time.perf_counter()
        await ask()
        samples.append((time.perf_counter() - began) * 1000)
    one.values.append(statistics.median(samples))
    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(MANY)))
    many.values.append(MANY / (time.perf_counter() - began))


async def run(repeats: int, folder: str) -> None:
    plain, loop, echo = Plain.remote(), Loop.remote(), Echo.remote(folder)
    await echo.listen.remote()
    transport = wire.connect(Path(folder), "echo")
    assert transport is not None
    socket, method = ExchangeClient("echo", transport, "bench"), ExchangeClient("echo", over_ray(echo), "bench")
    asks: dict[str, Ask] = {
        "podium, socket": lambda: socket.ask(Said(PAYLOAD), Said),
        "podium, over Ray": lambda: method.ask(Said(PAYLOAD), Said),
        "ray, plain actor": lambda: plain.echo.remote(PAYLOAD),
        "ray, asyncio actor": lambda: loop.echo.remote(PAYLOAD),
    }
    ones = {name: Row(name, "one at a time", "ms") for name in asks}
    manies = {name: Row(name, f"{MANY:,} at once", "per s") for name in asks}
    for name, ask in asks.items():
        await measure(ask, Row(name, "warm-up", ""), Row(name, "warm-up", ""))
    for _ in range(repeats):
        for name, ask in asks.items():
            await measure(ask, ones[name], manies[name])
    best_one = min(ones[name].median for name in asks if name.startswith("ray"))
    best_many = max(manies[name].median for name in asks if name.startswith("ray"))
    ratios = {
        "one at a time, podium over the best of Ray": ones["podium, socket"].median / best_one,
        "many at once, podium over the best of Ray": manies["podium, socket"].median / best_many,
        "many at once, podium over Ray's calls over the best of Ray": manies["podium, over Ray"].median / best_many,
    }
    report("exchange", [*ones.values(), *manies.values()], ratios, machine())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(given.repeats, folder))
    ray.shutdown()


if __name__ == "__main__":
    main()
