"""Does anything grow under steady load for as long as it lasts: memory, files, threads, the journal?

Tasks of three steps arrive evenly at a third of what this machine can do (measured first). Finished ones are forgotten
after 30 s, so that retention works all the time. Every 5 s each process is looked at: memory of its own (USS), open
files, threads; and the journal's size. After a quarter of the time, the warm-up, a line is fitted through each class
of process by least squares: its slope is what a leak would show in.

    python -m benchmarks.steady [--minutes 10] [--keep-finished-s 30]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import psutil

import podium
from podium.cluster.on_ray.process_locks import ProcessLocks
from podium.cluster.store.sqlite.reading import shards
from podium.cluster.store.sqlite.schema import shard_path, wal_path

from .harness import machine

EVERY_S = 5.0
SHARE = 1 / 3
"""Of the highest throughput."""
WARM_UP = 0.25
"""Share of the time before the slopes are fitted."""
BURST = 2_000
REST_S = 15.0
"""After the load, before what is left is counted: retention sweeps once more."""


@podium.protocol(concurrency=1000)
async def first(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(quotas={"llm": 1}, concurrency=100)
async def second(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(concurrency=1000)
async def third(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol
async def lead(brief: dict) -> dict:
    """Everybody works once."""
    if not brief["outcomes"]:
        return podium.verdict.assign()
    return podium.verdict.accept(brief["outcomes"]["x"]["output"])


WORKFLOW = podium.Workflow(
    "steady", podium.Sequence(first, second, podium.Hierarchy(lead, team={"x": third}, name="team"))
)
Series = dict[str, list[tuple[float, float]]]
"""By name: seconds since the beginning, and a value."""


@dataclass(slots=True)
class Samples:
    memory_mb: Series = field(default_factory=lambda: defaultdict(list))
    counts: Series = field(default_factory=lambda: defaultdict(list))
    """Open files and threads by class of process, asyncio tasks of the driver, actors, open and stored tasks."""
    journal_mb: list[tuple[float, float]] = field(default_factory=list)


class Watch:
    """Looks at every process of one engine."""

    def __init__(self, data: Path) -> None:
        self._data, self._began = data, time.monotonic()
        self.samples = Samples()

    def look(self) -> None:
        at, memory, counts = time.monotonic() - self._began, defaultdict(float), defaultdict(float)
        addresses = self._addresses()
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                kind = self._kind(process, addresses)
                memory[kind] += process.memory_full_info().uss / 2**20
                counts[f"{kind}, files"] += process.num_fds()
                counts[f"{kind}, threads"] += process.num_threads()
            except psutil.Error:
                continue
        counts["actors"] = len(addresses)
        for series, values in ((self.samples.memory_mb, memory), (self.samples.counts, counts)):
            for name, value in values.items():
                series[name].append((at, value))
        self.samples.journal_mb.append((at, self.journal_mb()))

    def note(self, name: str, value: float) -> None:
        self.samples.counts[name].append((time.monotonic() - self._began, value))

    def _addresses(self) -> dict[int, str]:
        """Our actors by process."""
        names = (unquote(path.name) for path in (self._data / "run").iterdir())
        return {pid: name for name in names if (pid := ProcessLocks(self._data).process_of(name))}

    def _kind(self, process: psutil.Process, addresses: dict[int, str]) -> str:
        if process.pid == os.getpid():
            return "driver"
        address = addresses.get(process.pid)
        if address is None:
            return f"ray: {process.name().removeprefix('ray::')}"
        parts = address.split("/")
        return "host" if parts[-1].rpartition("-")[2].isdigit() else ("tier" if len(parts) > 2 else parts[0])

    def journal_mb(self) -> float:
        paths = [shard_path(self._data, shard) for shard in (*shards(self._data), "coordinator", "resources")]
        files = [file for path in paths for file in (path, wal_path(path)) if file.exists()]
        return sum(file.stat().st_size for file in files) / 2**20


async def highest(engine: podium.AsyncEngine) -> float:
    """Tasks per second when all are submitted at once."""
    rates = []
    for _ in range(3):
        began = time.monotonic()
        tasks = await engine.submit_many(WORKFLOW, [{"n": n} for n in range(BURST)])
        await asyncio.gather(*(task.result() for task in tasks))
        rates.append(BURST / (time.monotonic() - began))
    return statistics.median(rates)


async def load(engine: podium.AsyncEngine, per_s: float, seconds: float) -> tuple[int, list[float]]:
    """Submit evenly, ten times a second; returns how many there were, and the seconds that each batch took."""
    count, latencies, batches = 0, [], []

    async def batch(size: int) -> None:
        began = time.monotonic()
        tasks = await engine.submit_many(WORKFLOW, [{"n": n} for n in range(size)])
        assert [(await task.result())["n"] for task in tasks] == [n + 3 for n in range(size)]
        latencies.append(time.monotonic() - began)

    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        due = int(per_s * passed) - count
        if due > 0:
            batches.append(asyncio.create_task(batch(due)))
            count += due
        batches = [each for each in batches if not each.done() or each.result()]
        await asyncio.sleep(0.1)
    await asyncio.gather(*batches)
    return count, latencies


async def watch_on(watch: Watch, engine: podium.AsyncEngine) -> None:
    while True:
        await asyncio.to_thread(watch.look)
        watch.note("driver, asyncio tasks", len(asyncio.all_tasks()))
        status = await engine.status()
        watch.note("open tasks", status.workflows["steady"].open)
        await asyncio.sleep(EVERY_S)


def slope(series: list[tuple[float, float]]) -> float:
    """Growth per minute after the warm-up, by least squares."""
    after = [point for point in series if point[0] >= WARM_UP * series[-1][0]]
    if len(after) < 2 or len({at for at, _ in after}) < 2:
        return 0.0
    line = statistics.linear_regression([at for at, _ in after], [value for _, value in after])
    return 60 * line.slope


def left_over(data: Path) -> dict[str, int]:
    """What is there after the end."""
    held = sum(ProcessLocks(data).process_of(unquote(path.name)) is not None for path in (data / "run").iterdir())
    logs = sum(1 for path in (data / "shards").iterdir() if path.suffix not in (".db", ".lock", ".mark"))
    return {"processes": len(psutil.Process().children(recursive=True)), "held": held, "unexpected files": logs}


def table(samples: Samples) -> None:
    print(f"{'':<34}{'first':>10}{'half':>10}{'last':>10}{'max':>10}{'per minute':>12}")
    for unit, series in (("MB", samples.memory_mb), ("", samples.counts), ("MB", {"journal": samples.journal_mb})):
        for name, points in sorted(series.items()):
            values = [value for _, value in points]
            columns = (values[0], values[len(values) // 2], values[-1], max(values))
            figures = "".join(f"{value:>10.1f}" for value in columns) + f"{slope(points):>12.3f}"
            print(f"{f'{name} {unit}':<34}{figures}")


async def run(data: Path, seconds: float, keep_finished_s: float) -> tuple[Watch, dict]:
    settings = {"data": data, "limits": {"llm": 50}, "keep_finished_s": keep_finished_s}
    async with podium.connect_async(**settings) as engine:
        await engine.deploy(WORKFLOW)
        per_s = SHARE * await highest(engine)
        watch = Watch(data)
        watching = asyncio.create_task(watch_on(watch, engine))
        count, latencies = await load(engine, per_s, seconds)
        watching.cancel()
        await asyncio.sleep(keep_finished_s + REST_S)
        stored = len(await engine.tasks(limit=10**7))
        status = await engine.status()
    facts = {
        "minutes": round(seconds / 60, 2),
        "tasks_per_s": round(per_s),
        "tasks": count,
        "median_latency_s": round(statistics.median(latencies), 3),
        "held_at_rest": sum(use.held for use in status.quotas.values()),
        "tasks_stored_at_rest": stored,
        "journal_mb_at_rest": round(watch.journal_mb(), 2),
    }
    return watch, facts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--keep-finished-s", type=float, default=30)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name).resolve() / "data"
        watch, facts = asyncio.run(run(data, 60 * given.minutes, given.keep_finished_s))
        left = left_over(data)
    samples = watch.samples
    table(samples)
    for key, value in {**facts, **left}.items():
        print(f"{key:<34}{value}")
    slopes = {name: round(slope(points), 3) for name, points in samples.memory_mb.items()}
    most = round(max(value for _, value in samples.journal_mb), 2)
    line = {"benchmark": "steady", **facts, "mb_per_minute": slopes, "journal_mb_max": most, "left": left}
    print(json.dumps({**line, "machine": machine()}))


if __name__ == "__main__":
    main()
