"""What does the request layer cost, without the time of the model, with 50 requests at once?

Each request goes through its whole pipeline (router, checks, plan, context, model, formatting, memory), every step
durable, on Ray. A protocol that waits for a second stands for the model, so 50 clients keep about 50 of them waiting;
the overhead of a request is its time from `ask` to the answer, without that second. Simple queries have no context;
context queries search this repository's own files. Beside that: one request at a time, and how many answers per second
there are at most, without any model.

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
from podium.protocols.requests.pipelines import ask_workflow, read_pipeline, shipped_pipelines

ROOT = str(Path(__file__).parent.parent)
MODEL_S = 1.0
LIMITS = {"context": 100, "llm": 1000, "request": 1000, "request per user": 1000}
"""So many that no request waits for a permit: one user has 10 by default."""
KINDS = {
    "simple_query": ("what is the capital of country number {n}?", {"type": "simple_query"}),
    "context_query": ("how is the journal fenced, case {n}?", {"type": "context_query", "root": ROOT}),
}


@podium.protocol(concurrency=1000)
async def slow_model(input: dict) -> dict:
    await asyncio.sleep(MODEL_S)
    return {"text": "an answer", "model": "slow", "sources": []}


def with_slow_model() -> podium.Workflow:
    shipped = shipped_pipelines()
    texts = {
        kind: shipped[kind].to_yaml().replace("podium.protocols.library.model:Model", "asking:slow_model")
        for kind in KINDS
    }
    return ask_workflow(own={kind: read_pipeline(text, kind) for kind, text in texts.items()})


async def one(engine: podium.AsyncEngine, workflow: podium.Workflow, kind: str, n: int) -> float:
    """Milliseconds from the question to the answer."""
    text, fields = KINDS[kind]
    began = time.perf_counter()
    task = await engine.submit(workflow, {"request": {"text": text.format(n=n), **fields}})
    assert (await task.result())["type"] == kind
    return (time.perf_counter() - began) * 1000


async def measured(
    engine: podium.AsyncEngine, workflow: podium.Workflow, kind: str, at_once: int, rounds: int, within_s: float = 0.0
) -> list[float]:
    """Latencies of clients that begin within a time, and ask again as soon as they have an answer."""

    async def client(number: int) -> list[float]:
        await asyncio.sleep(within_s * number / at_once)
        return [await one(engine, workflow, kind, number * rounds + n) for n in range(rounds)]

    return [ms for samples in await asyncio.gather(*map(client, range(at_once))) for ms in samples]


async def run(at_once: int, rounds: int, settings: dict) -> None:
    rows, ratios = [], {}
    plain, slow = ask_workflow(), with_slow_model()
    async with podium.connect_async(limits=LIMITS, **settings) as engine:
        for kind in KINDS:
            await measured(engine, slow, kind, 5, 2)
            samples = await measured(engine, slow, kind, at_once, rounds, MODEL_S)
            overheads = [ms - 1000 * MODEL_S for ms in samples]
            await measured(engine, plain, kind, 5, 2)
            alone = [await one(engine, plain, kind, 1_000_000 + n) for n in range(30)]
            began = time.perf_counter()
            most = await measured(engine, plain, kind, at_once, rounds)
            per_s = len(most) / (time.perf_counter() - began)
            for name, values in ((f"{kind}, {at_once} at once", overheads), (f"{kind}, alone", alone)):
                rows.append(Row(name, "overhead p50", "ms", [percentile(values, 0.5)]))
                rows.append(Row(name, "overhead p95", "ms", [percentile(values, 0.95)]))
            rows.append(Row(f"{kind}, no model", "answers at most", "/s", [per_s]))
            ratios[f"{kind}: p50 over 50 ms (target <= 1)"] = percentile(overheads, 0.5) / 50
            ratios[f"{kind}: p95 over 200 ms (target <= 1)"] = percentile(overheads, 0.95) / 200
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
