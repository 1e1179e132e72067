"""Faults that tests plant where there is none, in the middle of the engine, and the work that they hit."""

from __future__ import annotations

import asyncio

import podium
from podium import Sequence, Step, Workflow
from podium.testing import Simulation


class Planted(Exception):
    pass


@podium.protocol(concurrency=10)
async def echo(input):
    await asyncio.sleep(1)
    return input


FLOW = Workflow("w", Sequence(Step(echo, name="a"), Step(echo, name="b")))


def is_bad(task):
    return isinstance(task.record.input, dict) and "bad" in task.record.input


def run(work, *faults, **settings):
    """Run it with so many faults that were planted, and no others."""
    simulation = Simulation(**settings)

    async def observed(engine):
        result = await work(engine, simulation)
        said = [str(error) for error in simulation.loop.uncaught]
        simulation.loop.uncaught.clear()
        return result, said

    result, said = simulation.run(observed, within_s=50_000)
    assert said == list(faults)
    return result


class Died(BaseException):
    """The process is gone: no line of code behind this one runs."""
