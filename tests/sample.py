"""Protocols that the tests share; importable, so that YAML can name them (`tests.sample:add`).

This module stays where it is: the journals in promises/corpus, which never change, name its protocols.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Any

from pydantic import BaseModel

import podium
from podium import verdict


@podium.protocol
async def add(input: dict) -> dict:
    """One more."""
    return {"n": input["n"] + 1}


@podium.protocol
def plain(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol
async def echo(input: Any) -> Any:
    return input


@podium.protocol
async def about_its_process(input: Any) -> dict:
    return {"frozen": gc.get_freeze_count(), "preloaded": os.environ.get("RAY_preload_python_modules")}  # noqa: SIM112


@podium.protocol
async def fail(input: Any) -> Any:
    raise ValueError(f"cannot do {input}")


class Unspeakable(Exception):
    """Its own code fails whenever it is asked for anything."""

    def __str__(self) -> str:
        raise ValueError("no words")

    @property
    def response(self) -> Any:
        raise KeyError("no response")


@podium.protocol(concurrency=1)
async def fail_unspeakably(input: Any) -> Any:
    if input:
        raise Unspeakable()
    return input


@podium.protocol
async def slow(input: dict) -> dict:
    """Sleep `s` seconds, one at a time."""
    await asyncio.sleep(input["s"])
    return input


@podium.protocol
async def slow_speech(ctx: podium.Context, input: dict) -> str:
    """Emit `words` words, one every 0.1 s."""
    for n in range(input["words"]):
        ctx.emit(f"w{n}")
        await asyncio.sleep(0.1)
    return "said"


@podium.protocol(concurrency=1000)
async def wide(input: dict) -> dict:
    """Sleep `s` seconds, any number at once."""
    await asyncio.sleep(input.get("s", 0.1))
    return {"n": input["n"] + 1}


@podium.protocol(quotas={"llm": 1}, concurrency=100)
async def model(input: dict) -> dict:
    await asyncio.sleep(0.1)
    return {"n": input["n"] + 1}


@podium.protocol
def blocking(ctx: podium.Context, input: dict) -> dict:
    """Sleep in a thread until told to stop."""
    until = time.monotonic() + input["s"]
    while time.monotonic() < until and not ctx.cancelled:
        time.sleep(0.01)
    return input


class Tally(podium.Protocol):
    """Counts its runs for as long as its actor lives."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self, ctx: podium.Context, input: Any) -> int:
        self.count += 1
        return self.count


class Person(BaseModel):
    name: str
    age: int = 0


@podium.protocol
def greet(person: Person) -> str:
    return f"hello {person.name}"


@podium.protocol
async def lead(brief: dict) -> dict:
    """Assign everything, then accept whatever comes."""
    if not brief["outcomes"]:
        return verdict.assign()
    return verdict.accept({name: outcome.get("output") for name, outcome in brief["outcomes"].items()})


@podium.protocol
async def strict_lead(brief: dict) -> dict:
    """Send members back until their input carries feedback."""
    if not brief["outcomes"]:
        return verdict.assign({name: {"n": 0} for name in brief["team"]})
    weak = [name for name, outcome in brief["outcomes"].items() if "feedback" not in outcome["output"]]
    return verdict.retry(weak, "more") if weak else verdict.accept(brief["round"])


@podium.protocol
async def greet_number(input: dict[str, int]) -> str:
    return f"hello {input['n']}"


@podium.protocol(concurrency=10)
async def asks_left(ctx: podium.Context, seconds):
    await asyncio.sleep(seconds)
    return ctx.left_s
