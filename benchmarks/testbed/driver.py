"""The process that holds the engine and keeps the load up; the bed talks to it in lines of JSON, and kills it.

Every task has a submission key. What was acknowledged, and what it came to, goes to `acks.jsonl` and `results.jsonl`
in the working directory, so that it outlives this process. Nothing is asked twice here: whatever happens to the
cluster is the engine's to mend, and an error that reaches this program is a finding.

Commands:  {"do": "probe", "id"}, "drain" (no new tasks), "status", "close"
Answers:   {"what": "up"}, "resumed", "probe", "drained", "status", "closed", "error"; each with "at" (monotonic)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import podium
from podium.protocols.outcomes import OPEN

from .load import LIMIT, SIDE, WORKFLOW, WORKFLOWS, aside, order, probe, result_of
from .witness import append

ACKS, RESULTS = Path("acks.jsonl"), Path("results.jsonl")
KEYS_TRIED_AGAIN = 20
PROBES_FROM = 10**9
"""Probes have numbers from here on."""


def say(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, "at": time.monotonic(), **more}), flush=True)


def known(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Driver:
    def __init__(self, engine: podium.AsyncEngine, first: int, seed: int) -> None:
        """`first`: the number of the next task; its key is made of it."""
        self._engine, self._next, self._rng = engine, first, Random(seed)
        self._draining = False
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, lanes: int, resume: bool) -> None:
        if resume:
            await self._finish_what_is_open()
        say("up")
        load = [asyncio.create_task(self._lane(WORKFLOW, lambda n: order(n, self._rng))) for _ in range(lanes)]
        load += [asyncio.create_task(self._lane(SIDE, aside)) for _ in range(LIMIT)]
        while True:
            line = await asyncio.to_thread(sys.stdin.readline)
            command = json.loads(line or '{"do": "close"}')
            match command["do"]:
                case "probe":
                    self._aside(self._probe(command["id"]))
                case "drain":
                    self._draining = True
                    self._aside(self._drained(load))
                case "status":
                    self._aside(self._status())
                case "close":
                    return

    def _aside(self, work: Any) -> None:
        task = asyncio.create_task(_told(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _finish_what_is_open(self) -> None:
        """After everything was killed: all that was accepted comes to its end although nobody submits anything."""
        tasks = [task for status in OPEN for task in await self._engine.tasks(status=status, limit=10**6)]
        for task in tasks:
            _keep(RESULTS, id=task.id, result=await task.result())
        say("resumed", tasks=len(tasks))
        for ack in known(ACKS)[-KEYS_TRIED_AGAIN:]:
            again = await self._engine.submit(WORKFLOWS[ack["workflow"]], ack["input"], key=ack["key"])
            if again.id != ack["id"]:
                say("error", text=f"I7: key {ack['key']} was task {ack['id']}, and is now {again.id}")

    async def _lane(self, workflow: podium.Workflow, new: Callable[[int], dict]) -> None:
        while not self._draining:
            n, self._next = self._next, self._next + 1
            await _told(self._one(workflow, f"k{n}", new(n)))

    async def _one(self, workflow: podium.Workflow, key: str, input: dict, priority: int = 0) -> None:
        task = await self._engine.submit(workflow, input, key=key, priority=priority)
        _keep(ACKS, id=task.id, workflow=workflow.name, key=key, input=input)
        result = await task.result()
        _keep(RESULTS, id=task.id, result=result)
        if result["n"] != result_of(workflow.name, input):
            say("error", text=f"task {task.id} of {input} gave {result}")

    async def _probe(self, id: int) -> None:
        """The coordinator answers, then a task goes through every other actor."""
        await self._engine.status()
        await self._one(WORKFLOW, f"probe-{id}", probe(PROBES_FROM + id), priority=100)
        say("probe", id=id)

    async def _status(self) -> None:
        say("status", value=(await self._engine.status()).to_json())

    async def _drained(self, load: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*load)
        say("drained")


async def _told(work: Any) -> None:
    """An error that reaches the program is told and ends nothing."""
    try:
        await work
    except Exception as error:
        say("error", text=f"{type(error).__name__}: {error}")


def _keep(path: Path, **fields: Any) -> None:
    append(path, json.dumps(fields))


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--settings", type=json.loads, required=True, help="keywords of podium.connect, as JSON")
    options.add_argument("--lanes", type=int, required=True, help="tasks in flight")
    options.add_argument("--first", type=int, required=True)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--resume", action="store_true", help="finish what is open before anything is submitted")
    given = options.parse_args()
    async with podium.connect_async(**given.settings) as engine:
        await Driver(engine, given.first, given.seed).run(given.lanes, given.resume)
    say("closed")


if __name__ == "__main__":
    asyncio.run(main())
