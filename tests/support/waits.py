"""Tasks that wait, on the simulated cluster."""

from __future__ import annotations

import asyncio

from podium import Sequence, Step, Wait, Workflow
from tests import sample

ASK = Workflow("ask", Sequence(Step(sample.echo), Wait("yes", show="input"), Step(sample.echo, name="after")))


async def asked(engine, workflow=ASK, input=1, count=1, **more):
    """Return a task that waits for that many answers by now."""
    task = await engine.submit(workflow, input, **more)
    await until(lambda: len(waits_of(engine, task)) == count)
    return task


def waits_of(engine, task):
    return engine.core.reader.waits(task_id=task.id)


async def until(holds):
    while not holds():
        await asyncio.sleep(0.1)
