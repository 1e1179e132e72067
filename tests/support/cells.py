"""Protocols of one name that are made anew, as a notebook does when its cell runs again."""

from __future__ import annotations

import asyncio
import textwrap

import podium
from podium import Sequence, Step, Workflow, verdict


def redefined(does, **settings):
    """A protocol of always the same name, as a notebook makes it anew."""
    space = {"__name__": __name__, "asyncio": asyncio}
    exec(textwrap.dedent(f"async def cell(x):\n    await asyncio.sleep(3)\n    {does}"), space)
    return podium.protocol(**settings)(space["cell"])


def cell_flow(does, **settings):
    return Workflow(
        "w",
        Sequence(Step(redefined(does, **settings), name="a"), Step("tests.support.cells:last", name="b")),
    )


@podium.protocol(concurrency=10)
async def last(x):
    return x


@podium.protocol
async def lead(brief):
    return verdict.accept(brief["outcomes"]["m"]["output"]) if brief["outcomes"] else verdict.assign(["m"])
