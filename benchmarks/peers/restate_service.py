"""The Restate service: each `ctx.run` is on record in the server's log before the handler goes on."""

from __future__ import annotations

import asyncio

import restate
from work import STEPS, add, slow_async

service = restate.Service("peer")


@service.handler()
async def chain(ctx: restate.Context, input: dict) -> dict:
    for name in STEPS:
        input = await ctx.run_typed(name, add, restate.RunOptions(), input)
    return input


@service.handler()
async def slow_chain(ctx: restate.Context, input: dict) -> dict:
    task = input["n"]
    for name in STEPS:
        input = await ctx.run_typed(name, slow_async, restate.RunOptions(), task, name, input)
    return input


async def part(number: int, sleep_s: float) -> int:
    if sleep_s:
        await asyncio.sleep(sleep_s)
    return number


@service.handler()
async def fan(ctx: restate.Context, input: dict) -> int:
    parts = [
        ctx.run_typed(f"part {number}", part, restate.RunOptions(), number, input["sleep_s"])
        for number in range(input["count"])
    ]
    await restate.gather(*parts)
    return sum([await each for each in parts])


app = restate.app([service])
