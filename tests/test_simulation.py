"""Whole runs under seeded faults, with the invariants of docs/architecture.md checked after each.

pytest tests/test_simulation.py --seeds 20000     for a long run
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest

import podium
from podium import Adaptive, Hierarchy, Parallel, Retry, Rule, Sequence, Step, Workflow
from podium.cluster.virtual import PROCESS
from podium.protocols.outcomes import TERMINAL
from podium.protocols.values import unpack
from podium.supervisors.events import StepFinished, unpack_events
from podium.supervisors.fold import apply, begin
from podium.testing import Faults, Simulation

BATCH = 25
"""Seeds per test, so that a failure is found quickly and a run shows progress."""


class Witness:
    """What really ran, noted by the protocols themselves, apart from our own journal."""

    def __init__(self) -> None:
        self.simulation: Simulation | None = None
        self.starts: Counter[tuple[str, str]] = Counter()
        self.running: dict[str, list] = defaultdict(list)
        self.problems: list[str] = []

    def began(self, ctx, quota=None):
        place = (ctx.task_id, ctx.step)
        self.starts[place] += 1
        if place in recorded_steps(self.simulation):
            self.problems.append(f"I1: {place} started after its recorded finish")
        if quota:
            process = PROCESS.get()
            alive = [other for other in self.running[quota] if not other[1].dead]
            self.running[quota] = [*alive, (place, process)]
            limit = self.simulation.settings.limits[quota]
            if len(self.running[quota]) > limit:
                self.problems.append(f"I3: {len(self.running[quota])} hold '{quota}', the limit is {limit}")

    def ended(self, ctx, quota=None):
        if quota:
            place = (ctx.task_id, ctx.step)
            self.running[quota] = [other for other in self.running[quota] if other[0] != place]


WITNESS = Witness()


def recorded_steps(simulation) -> set[tuple[str, str]]:
    return {
        (task_id.partition("/")[0], event.path)
        for shard in simulation.disk.shards.values()
        for task_id, entries in shard.entries.items()
        for _, body in entries
        for event in unpack_events(body)
        if isinstance(event, StepFinished)
    }


@podium.protocol(concurrency=3)
async def work(ctx, input):
    WITNESS.began(ctx)
    await asyncio.sleep(0.1)
    return {"n": input["n"] + 1}


@podium.protocol(quotas={"llm": 1}, concurrency=10, replicas=2)
async def limited(ctx, input):
    WITNESS.began(ctx, "llm")
    await asyncio.sleep(0.2)
    WITNESS.ended(ctx, "llm")
    return {"n": input["n"] + 1}


@podium.protocol(retry=Retry(attempts=4, initial_delay_s=0.5))
async def flaky(ctx, input):
    WITNESS.began(ctx)
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return {"n": input["n"] + 1}


@podium.protocol
async def lead(ctx, brief):
    WITNESS.began(ctx)
    if not brief["outcomes"]:
        return podium.verdict.assign(dict.fromkeys(brief["team"], brief["input"]))
    if brief["round"] == 2:
        return podium.verdict.retry(["x"], "again")
    return podium.verdict.accept({"n": brief["outcomes"]["x"]["output"]["n"]})


WORKFLOW = Workflow(
    "storm",
    Sequence(
        work,
        limited,
        Parallel({"p": work, "q": limited, "r": flaky}),
        Step(work, with_="input.q"),
        Hierarchy(lead, team={"x": work, "y": Sequence(limited, work)}, name="team"),
        Adaptive(
            {"a": work, "b": limited},
            start="a",
            rules=[Rule(after="a", when="output.n % 2 == 0", to="b"), Rule(to="end")],
        ),
    ),
)


def expected(n: int) -> dict:
    """What the workflow makes of {"n": n}."""
    last = n + 6
    return {"n": last + 1 if last % 2 == 0 else last}


def storm(seed: int, rng) -> tuple[Simulation, int]:
    """A simulation whose faults, sizes and limits are drawn from the seed (swarm testing)."""
    faults = Faults(
        lose_request=rng.choice([0, 0, 0.02, 0.1]),
        lose_reply=rng.choice([0, 0, 0.02, 0.1]),
        repeat=rng.choice([0, 0.05]),
        delay_s=rng.choice([0, 0.01, 0.2]),
        commit_s=rng.choice([0, 0.02, 0.5]),
        kills=rng.choice([0, 1, 3, 6]),
        kill_within_s=rng.choice([1, 5, 20]),
        kill_all=rng.random() < 0.3,
    )
    limits = {"llm": rng.choice([1, 2, 5])}
    simulation = Simulation(seed, limits, faults, restart_intensity=1000, top_restart_intensity=1000)
    return simulation, rng.choice([1, 3, 10])


def run_storm(seed: int) -> None:
    global WITNESS
    from random import Random

    simulation, count = storm(seed, Random(seed))
    WITNESS = Witness()
    WITNESS.simulation = simulation

    async def drive(engine):
        tasks = await engine.submit_many(
            WORKFLOW, [{"n": n} for n in range(count)], keys=[f"k{n}" for n in range(count)]
        )
        again = await engine.submit(WORKFLOW, {"n": 0}, key="k0")
        assert again.id == tasks[0].id, "I7: the same key gave another task"
        results = [await task.result() for task in tasks]
        await asyncio.sleep(
            simulation.faults.kill_within_s + 2 * simulation.settings.lease_s
        )  # the faults have stopped
        status = await engine.status()
        return tasks, results, status

    tasks, results, status = simulation.run(drive, within_s=5_000)
    assert results == [expected(n) for n in range(count)]
    check_invariants(simulation, [task.id for task in tasks], status)


def check_invariants(simulation, ids, status):
    assert WITNESS.problems == []
    records = {id: found.record for id, found in simulation.disk.shard("storm").tasks.items()}
    assert set(records) == set(ids), "I1: acknowledged tasks and durable tasks differ"
    assert all(record.status in TERMINAL for record in records.values()), "I1: a task has not ended"
    assert all(use["held"] == 0 and use["waiting"] == 0 for use in status["quotas"].values()), (
        "I4: permits held at rest"
    )
    for shard in simulation.disk.shards.values():
        for task_id, entries in shard.entries.items():
            epochs = [epoch for epoch, _ in entries]
            assert epochs == sorted(epochs), f"I8: epochs of {task_id} fall: {epochs}"
        for found in shard.tasks.values():
            check_fold(shard, found.record)
    most = max(WITNESS.starts.values())
    unknown = len(simulation.killed) + 1
    assert most <= 3 + unknown, f"I2: a step ran {most} times with {len(simulation.killed)} kills"


def check_fold(shard, record):
    """I6: folding the journal again gives what was recorded live, gapless and to the end."""
    definition = unpack(shard.notes[f"definition:{record.hash}"])
    root = Workflow.from_trusted({"name": "again", "root": definition["root"]}).root
    task, _ = begin(record, root, record.task_id.partition("/")[2])
    for _, body in shard.entries[record.task_id]:
        for event in unpack_events(body):
            apply(task, event)
    assert task.status == record.status, f"I6: {record.task_id} folds to {task.status}, recorded {record.status}"
    assert task.outcome.output == record.result, f"I6: {record.task_id} folds to another result"
    assert not task.running


def pytest_generate_tests(metafunc):
    if "first" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds")
        metafunc.parametrize("first", range(0, seeds, BATCH))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", [1201])
def test_seeds_that_failed_once(seed):
    """1201: a client that heard of a death before the coordinator did reconnected without end, in no time."""
    run_storm(seed)


@pytest.mark.timeout(600)
def test_every_accepted_task_finishes_whatever_breaks(first):
    for seed in range(first, first + BATCH):
        try:
            run_storm(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
