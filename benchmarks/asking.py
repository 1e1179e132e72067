"""What does the request layer cost, without a model: 50 requests at once, from the question to the answer?

Each request goes through its whole pipeline (router, checks, plan, context, quotations, formatting, memory), every step
durable, on Ray. 50 clients ask one after another for some rounds; latencies are from `ask` to the answer. Simple queries
have no context; context queries search this repository's own files.

    python benchmarks/asking.py [--at-once 50] [--rounds 10] [--in-process]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from harness import Row, machine, percentile, report

import podium

ROOT = str(Path(__file__).parent.parent)
KINDS = {
    "simple_query": ("what is the capital of country number {n}?", {"type": "simple_query"}),
    "context_query": ("how is the journal fenced, case {n}?", {"type": "context_query", "root": ROOT}),
}


async def one(engine: podium.AsyncEngine, kind: str, n: int) -> float:
    """Milliseconds from the question to the answer."""
    text, fields = KINDS[kind]
    began = time.perf_counter()
    answer = await (await engine.ask(text.format(n=n), **fields)).result()
    assert answer["type"] == kind and "No model is configured" in answer["text"]
    return (time.perf_counter() - began) * 1000


async def measured(engine: podium.AsyncEngine, kind: str, at_once: int, rounds: int) -> list[float]:
    """Latencies of `at_once` clients that ask again as soon as they have an answer."""

    async def client(number: int) -> list[float]:
        return [await one(engine, kind, number * rounds + n) for n in range(rounds)]

    return [ms for samples in await asyncio.gather(*map(client, range(at_once))) for ms in samples]


async def run(at_once: int, rounds: int, settings: dict) -> None:
    rows, ratios = [], {}
    async with podium.connect_async(limits={"context": 100, "llm": 100}, **settings) as engine:
        for kind in KINDS:
            await measured(engine, kind, 5, 4)
            alone = [await one(engine, kind, 1_000_000 + n) for n in range(30)]
            began = time.perf_counter()
            together = await measured(engine, kind, at_once, rounds)
            per_s = len(together) / (time.perf_counter() - began)
            for name, samples in ((f"{kind}, alone", alone), (f"{kind}, {at_once} at once", together)):
                rows.append(Row(name, "p50", "ms", [percentile(samples, 0.5)]))
                rows.append(Row(name, "p95", "ms", [percentile(samples, 0.95)]))
            rows.append(Row(f"{kind}, {at_once} at once", "answers", "/s", [per_s]))
            ratios[f"{kind}: p50 at once over 50 ms (target <= 1)"] = percentile(together, 0.5) / 50
            ratios[f"{kind}: p95 at once over 200 ms (target <= 1)"] = percentile(together, 0.95) / 200
    report("asking", rows, ratios, machine())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--at-once", type=int, default=50)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--in-process", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as data:
        settings = {"data": data, "cluster": "inprocess" if given.in_process else "ray"}
        asyncio.run(run(given.at_once, given.rounds, settings))


if __name__ == "__main__":
    main()
