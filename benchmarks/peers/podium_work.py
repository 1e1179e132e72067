"""What Podium does as a peer, on a local Ray cluster or in one process: each step's output is committed with
synchronous=FULL before the next one starts. A module of its own, so that a new cluster can import its protocols."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from work import Parts, Peer, add, rest, slow_async

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


@podium.protocol(concurrency=500)
async def slow_first(ctx: podium.Context, input: dict) -> dict:
    return await slow_async(ctx.task_id, ctx.step, input)


@podium.protocol(concurrency=500)
async def slow_second(ctx: podium.Context, input: dict) -> dict:
    return await slow_async(ctx.task_id, ctx.step, input)


@podium.protocol(concurrency=500)
async def slow_third(ctx: podium.Context, input: dict) -> dict:
    return await slow_async(ctx.task_id, ctx.step, input)


FAN = Workflow("fan", Parallel(each="input", do=Step(part)))


@contextmanager
def peer(cluster: str, shards: int = 1) -> Iterator[Peer]:
    chain = Workflow("chain", Sequence(first, second, third), shards=shards)
    with tempfile.TemporaryDirectory() as data, podium.connect(cluster=cluster, data=data) as engine:

        def many(inputs: list[dict]) -> list[dict]:
            return [task.result(timeout_s=120) for task in engine.submit_many(chain, inputs)]

        def fan(count: int, sleep_s: float) -> int:
            parts = [{"number": number, "sleep_s": sleep_s} for number in range(count)]
            return sum(engine.submit(FAN, parts).result(timeout_s=120))

        yield Peer(many, fan)


def submit(cluster: str, shards: int, folder: Path, count: int) -> None:
    slow = Workflow("slow", Sequence(slow_first, slow_second, slow_third), shards=shards)
    engine = podium.connect(cluster=cluster, data=folder / "data")
    tasks = engine.submit_many(slow, [{"n": number} for number in range(count)])
    (folder / "tasks.txt").write_text("\n".join(task.id for task in tasks))
    rest()


def finish(cluster: str, folder: Path, count: int) -> list[dict]:
    """What was open goes on by itself."""
    with podium.connect(cluster=cluster, data=folder / "data") as engine:
        return [engine.task(each).result(timeout_s=120) for each in (folder / "tasks.txt").read_text().split()]


def halves(cluster: str, shards: int = 1) -> Parts:
    return Parts(partial(submit, cluster, shards), partial(finish, cluster))
