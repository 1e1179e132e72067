"""Podium on a local Ray cluster, or in this process (`podium_in_process_peer.py`): each step's output is committed with
synchronous=FULL before the next one starts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from work import Peer, add, measure

import podium
from podium import Parallel, Sequence, Step, Workflow


@podium.protocol
async def first(input: dict) -> dict:
    return add(input)


@podium.protocol
async def second(input: dict) -> dict:
    return add(input)


@podium.protocol
async def third(input: dict) -> dict:
    return add(input)


@podium.protocol(concurrency=100)
async def part(input: dict) -> int:
    if input["sleep_s"]:
        await asyncio.sleep(input["sleep_s"])
    return input["number"]


CHAIN = Workflow("chain", Sequence(first, second, third))
FAN = Workflow("fan", Parallel(each="input", do=Step(part)))


@contextmanager
def peer(cluster: str) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as data, podium.connect(cluster=cluster, data=data) as engine:

        def many(inputs: list[dict]) -> list[dict]:
            return [task.result(timeout_s=120) for task in engine.submit_many(CHAIN, inputs)]

        def fan(count: int, sleep_s: float) -> int:
            parts = [{"number": number, "sleep_s": sleep_s} for number in range(count)]
            return sum(engine.submit(FAN, parts).result(timeout_s=120))

        yield Peer(many, fan)


if __name__ == "__main__":
    measure("Podium, Ray", "podium", "each step", partial(peer, "ray"))
