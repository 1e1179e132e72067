"""The work under which things are killed: a workflow that needs every kind of actor, with a result to check.

A second one wants nothing but permits of the same quota, all the time: whatever is granted too early is used.

Input and output of each step are {"n": …, "pace_s": …, "hold_s": …}; `n` grows by one per level of the tree. A probe
has no pace: it goes through the same steps as fast as it can.
"""

from __future__ import annotations

import asyncio
from random import Random

import podium
from podium import Context, Hierarchy, Parallel, Retry, Sequence, Step, Workflow

from .witness import note, permit

LIMIT = 3
"""Permits of the quota `llm`."""
LONG_SHARE, LONG_S = 0.1, 5.0
"""Share of tasks that hold a permit for longer than any lease here lasts, and for how long."""
TOP, TIER = "supervisor/storm", "supervisor/storm/team"


def _next(order: dict) -> dict:
    return {**order, "n": order["n"] + 1}


@podium.protocol(concurrency=100)
async def tick(ctx: Context, order: dict) -> dict:
    note(ctx, "start")
    await asyncio.sleep(order["pace_s"])
    note(ctx, "end")
    return _next(order)


@podium.protocol(quotas={"llm": 1}, concurrency=100)
async def model(ctx: Context, order: dict) -> dict:
    note(ctx, "start")
    with permit(ctx, "llm"):
        await asyncio.sleep(order["hold_s"] if ctx.step in ("model", "team/y/model") else order["pace_s"])
    note(ctx, "end")
    return _next(order)


@podium.protocol(concurrency=100, retry=Retry(attempts=3, initial_delay_s=0.2, max_delay_s=0.5))
async def flaky(ctx: Context, order: dict) -> dict:
    """Fails twice before it succeeds, but not a probe."""
    note(ctx, "start")
    await asyncio.sleep(order["pace_s"] / 4)
    note(ctx, "end")
    if ctx.attempt < 3 and order["pace_s"] > 0:
        raise ConnectionError("not yet")
    return _next(order)


@podium.protocol(concurrency=100)
async def lead(ctx: Context, brief: dict) -> dict:
    """Everybody works once; one of the results is the result."""
    note(ctx, "start")
    outcomes = brief["outcomes"]
    verdict = podium.verdict.assign(dict.fromkeys(brief["team"], brief["input"]))
    if outcomes:
        verdict = podium.verdict.accept({"n": outcomes["x"]["output"]["n"]})
    note(ctx, "end")
    return verdict


WORKFLOW = Workflow(
    "storm",
    Sequence(
        tick,
        model,
        Parallel({"left": tick, "middle": model, "right": flaky}),
        Step(tick, with_="input.left", name="again"),
        Hierarchy(lead, team={"x": tick, "y": Sequence(model, tick)}, name="team"),
    ),
)

SIDE = Workflow("side", model)
WORKFLOWS = {WORKFLOW.name: WORKFLOW, SIDE.name: SIDE}
LEVELS = {WORKFLOW.name: 5, SIDE.name: 1}


def order(n: int, rng: Random) -> dict:
    """Input of one task of the load."""
    pace_s = rng.uniform(0.05, 0.4)
    return {"n": n, "pace_s": pace_s, "hold_s": LONG_S if rng.random() < LONG_SHARE else pace_s}


def probe(n: int) -> dict:
    """Input of a task that only finds out whether everything works."""
    return {"n": n, "pace_s": 0.0, "hold_s": 0.0}


def aside(n: int) -> dict:
    """Input of one task of the second workflow."""
    return {"n": n, "pace_s": 0.3, "hold_s": 0.3}


def result_of(workflow: str, input: dict) -> int:
    """The `n` that a task must come to."""
    return input["n"] + LEVELS[workflow]
