"""The crash sweep: the process is aborted at the N-th commit, frame or spawn of a scripted run, on real files.

A run in a process of its own submits a few tasks under submission keys and waits for them; at the chosen point it
ends as by `kill -9`. A second process then does what a driver would that knows nothing: it submits the same again
and waits. Between and after, the journal is compared with a witness file that the steps write.

    python -m tests.support.sweep          every hit of every point
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import podium
from podium import Hierarchy, Parallel, Retry, Sequence, Workflow, verdict
from podium.cluster.inprocess.cluster import InProcessCluster
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.cluster.store.sqlite.mark import Mark
from podium.cluster.store.sqlite.reading import FileReader, shards
from podium.supervisors.tasks.events import StepFinished, unpack_events
from tests.support.commands import FORKS

ABORTED = 9
TASKS = 3
POINTS = (
    "before a commit", "durable, not marked", "marked, not acknowledged",
    "before a frame", "handled, not answered", "before a spawn", "spawned, not known",
)  # fmt: skip


def note(what: str, ctx: podium.Context) -> None:
    with Path(os.environ["SWEEP_WITNESS"]).open("a") as witness:
        witness.write(f"{what} {ctx.task_id} {ctx.step}\n")


@podium.protocol(concurrency=3)
async def step(ctx: podium.Context, input: dict) -> dict:
    note("start", ctx)
    await asyncio.sleep(0.002)
    return {"n": input["n"] + 1}


@podium.protocol(retry=Retry(attempts=3, initial_delay_s=0.01), quotas={"llm": 1})
async def flaky(ctx: podium.Context, input: dict) -> dict:
    note("start", ctx)
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return {"n": input["n"] + 1}


@podium.protocol
async def lead(ctx: podium.Context, brief: dict) -> dict:
    note("start", ctx)
    if not brief["outcomes"]:
        return verdict.assign()
    return verdict.accept({"n": brief["outcomes"]["x"]["output"]["n"]})


WORKFLOW = Workflow(
    "sweep",
    Sequence(step, Parallel({"a": step, "b": flaky}, with_="input"), podium.Step(step, with_="input.b"),
             Hierarchy(lead, team={"x": step}, name="team")),
)  # fmt: skip


class Countdown:
    """Counts the hits of each point, and aborts at one of them."""

    def __init__(self, point: str | None, hit: int) -> None:
        self.hits: Counter[str] = Counter()
        self._point, self._hit = point, hit

    def __call__(self, point: str) -> None:
        self.hits[point] += 1
        if point == self._point and self.hits[point] == self._hit:
            os._exit(ABORTED)

    def install(self) -> None:
        self._around(SqliteJournal, "_make_durable", "before a commit", "durable, not marked")
        self._around(Mark, "write", None, "marked, not acknowledged")
        self._around_async(InProcessCluster, "carry", "before a frame", "handled, not answered")
        self._around_async(InProcessCluster, "spawn", "before a spawn", "spawned, not known")

    def _around(self, owner: type, name: str, before: str | None, after: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any) -> Any:
            if before:
                self(before)
            value = inner(*args)
            self(after)
            return value

        setattr(owner, name, counted)

    def _around_async(self, owner: type, name: str, before: str, after: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        async def counted(*args: Any) -> Any:
            self(before)
            value = await inner(*args)
            self(after)
            return value

        setattr(owner, name, counted)


async def _script(data: Path) -> None:
    async with podium.connect_async(data=data, cluster="inprocess", limits={"llm": 1}) as engine:
        inputs = [{"n": n} for n in range(TASKS)]
        tasks = await engine.submit_many(WORKFLOW, inputs, keys=[f"k{n}" for n in range(TASKS)])
        (data / "acknowledged.json").write_text(json.dumps([task.id for task in tasks]))
        results = [await task.result() for task in tasks]
        assert results == [{"n": n + 4} for n in range(TASKS)], results


def run_script(data: str, point: str | None, hit: int) -> None:
    """In a process of its own: run the script, perhaps not to its end; leave the counts."""
    countdown = Countdown(point, hit)
    countdown.install()
    os.environ["SWEEP_WITNESS"] = str(Path(data) / "witness.txt")
    asyncio.run(_script(Path(data)))
    (Path(data) / "hits.json").write_text(json.dumps(countdown.hits))


def recorded(data: Path) -> set[str]:
    """The witness lines of the steps whose finish is in the journal."""
    reader = FileReader(data)
    tasks = [reader.find_task(record.task_id) for record in reader.list_tasks(limit=1000)]
    tasks += [below for task in tasks if task for below in reader.subtasks(task.record.task_id)]
    return {
        f"start {task.record.task_id.partition('/')[0]} {event.path}"
        for task in tasks
        if task
        for body in task.bodies
        for event in unpack_events(body)
        if isinstance(event, StepFinished)
    }


def starts(data: Path) -> Counter[str]:
    witness = data / "witness.txt"
    return Counter(witness.read_text().splitlines() if witness.exists() else ())


class Sweep:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hits(self) -> dict[str, int]:
        """How often a whole run passes each point."""
        data = self._folder / "whole"
        assert self._run(data, None, 0) == 0
        found: dict[str, int] = json.loads((data / "hits.json").read_text())
        return found

    def check(self, point: str, hit: int) -> None:
        """Abort there, recover, and raise AssertionError if anything was lost or repeated."""
        data = self._folder / f"{POINTS.index(point)}-{hit}"
        aborted = self._run(data, point, hit)
        assert aborted in (ABORTED, 0), f"ended with {aborted}"
        before, done = starts(data), recorded(data)
        file = data / "acknowledged.json"
        acknowledged = json.loads(file.read_text()) if file.exists() else []
        assert self._run(data, None, 0) == 0, "the second process did not finish"
        again = {place for place, count in starts(data).items() if count > before[place] > 0}
        assert not again & done, f"ran again after it was recorded: {again & done}"
        ids = [record.task_id for record in FileReader(data).list_tasks(workflow="sweep", limit=1000)]
        assert len(ids) == TASKS, f"{len(ids)} tasks for {TASKS} keys"
        assert set(acknowledged) <= set(ids), "an acknowledged task is lost"
        assert shards(data) == ["sweep", "sweep.team"], shards(data)

    def _run(self, data: Path, point: str | None, hit: int) -> int | None:
        data.mkdir(exist_ok=True)
        process = FORKS.Process(target=run_script, args=(str(data), point, hit))
        process.start()
        process.join(60)
        assert process.exitcode is not None, "still running after 60 s"
        return process.exitcode


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        sweep = Sweep(Path(name))
        hits, failed = sweep.hits(), 0
        for point in POINTS:
            for hit in range(1, hits[point] + 1):
                try:
                    sweep.check(point, hit)
                except AssertionError as error:
                    failed += 1
                    print(f"{point}, hit {hit}: {error}")
            print(f"{point:<26} {hits[point]:>4} hits swept", flush=True)
        print(f"{sum(hits.values())} aborts, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
