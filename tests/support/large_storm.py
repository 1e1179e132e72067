"""Large values in a storm: a workflow beside the others, whose values are in the blob store, and what must hold of it.

What its steps give differs from attempt to attempt, so that attempts that are lost leave blobs that nobody names.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from random import Random

import numpy as np

import podium
from podium import Parallel, Retry, Sequence, Step, Workflow
from podium.cluster.blobs.hashing import crc_of
from podium.protocols.stored import keys_in
from podium.protocols.values import unpack
from podium.testing import Simulation
from tests.support.patient import at_last

SIZE = 40_000
"""Items of an array of float64: above `inline_bytes`."""
GRACE_S = 600.0
"""Longer than any storm keeps a step from being recorded."""
_numbers = itertools.count(1)


@podium.protocol
async def grow(ctx: podium.Context, input: dict) -> dict:
    """Give an array, which no other attempt gives, with what it has to sum up to."""
    await asyncio.sleep(0.3)
    array = np.full(SIZE, float(next(_numbers) % 1000))
    ctx.emit(array)
    return {"array": array, "sum": float(array.sum()), "text": input["text"]}


@podium.protocol
async def pass_on(input: dict[str, podium.Lazy]) -> dict[str, podium.Lazy]:
    await asyncio.sleep(0.2)
    return input


@podium.protocol(retry=Retry(attempts=100))  # a simulated `new_file` cannot wait for a store that is away
async def check(ctx: podium.Context, input: dict) -> dict:
    await asyncio.sleep(0.2)
    assert float(input["array"].sum()) == input["sum"] and len(input["text"]) == 300_000
    with ctx.new_file("sum.txt") as file:
        file.write(str(input["sum"]).encode() * 100_000)
    return {**input, "file": file.file}


def workflow() -> Workflow:
    both = Parallel({"a": pass_on, "b": Sequence(pass_on, check)})
    return Workflow("large", Sequence(grow, both, Step(check, name="last", with_="outputs.parallel.b")))


class LargeStorm:
    """The work with large values beside a storm, for some seeds."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"{seed}, large")
        self.is_there = rng.random() < 0.3
        self.count = rng.choice([1, 2])
        self.faults = {"blob_stops": rng.choice([0, 1, 3]), "blob_stop_s": rng.choice([1.0, 20.0])}

    @property
    def settings(self) -> dict[str, float]:
        return {"blob_grace_s": GRACE_S, "blobs_timeout_s": 120.0} if self.is_there else {}

    async def run(self, engine) -> None:
        if not self.is_there:
            return
        for n in range(self.count):
            submit = partial(engine.submit, workflow(), {"text": "t" * 300_000}, key=f"large {n}")
            task = await at_last(submit)
            result = await at_last(task.result)
            assert float(result["array"].sum()) == result["sum"], "a large value came out as another"
            assert await at_last(partial(self._text_of, result["file"])) == str(result["sum"]) * 100_000
            again = await at_last(partial(engine.submit, workflow(), {"text": "t" * 300_000}, key=f"large {n}"))
            assert again.id == task.id, "I7: the same large input gave another task"

    async def _text_of(self, file: podium.File) -> str:
        return file.read_text()

    async def rest(self, simulation: Simulation) -> None:
        """Wait until what nobody names must have been swept."""
        if self.is_there:
            await asyncio.sleep(3 * GRACE_S)


def check_blobs(simulation: Simulation, is_swept: bool) -> None:
    """I16: what is named exists, as it was, and is on the list of its task; what is not named is gone."""
    named = set()
    for shard in simulation.disk.shards.values():
        for task_id, found in shard.tasks.items():
            bodies = [unpack(body) for _, body in shard.entries.get(task_id, [])]
            keys = keys_in([found.record.input, found.record.result, bodies])
            listed = shard.blobs.get(task_id, {})
            assert {key.name for key in keys} == set(listed), f"I16: the list of blobs of {task_id} is not right"
            for key in keys:
                content, _ = simulation.disk.blobs.blobs.get(key.name, (b"", 0.0))
                assert len(content) == key.size and crc_of(content) == key.crc, f"I16: {task_id} names a lost blob"
            named |= set(listed)
    left = set(simulation.disk.blobs.blobs) - named
    assert not (is_swept and left), f"I16: {len(left)} blobs that nobody names were not swept"
