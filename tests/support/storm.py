"""Whole runs of the engine under seeded faults, with the invariants of docs/reliability.md checked after each.

Every seed draws its own kinds and rates of faults, sizes, limits and restart strategies (swarm testing: a fault
that is absent lets others do their worst). Safety is checked throughout by a witness of its own; then the faults
stop, and everything must finish. Used by test_simulation.py, by the mutants, and by `python -m tests.support.soak`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from random import Random

import podium
from podium import Adaptive, Hierarchy, Parallel, Retry, Rule, Sequence, Sleep, Step, Supervision, Wait, Workflow
from podium.cluster.simulation.virtual_loop import PROCESS
from podium.errors import FixTheCall, KeyConflict, TaskCancelled, TaskFailed
from podium.protocols.outcomes import TERMINAL
from podium.protocols.values import unpack
from podium.supervisors.shards import shards_of
from podium.supervisors.tasks.events import StepFinished, unpack_events
from podium.supervisors.tasks.fold import apply, begin
from podium.testing import Faults, Simulation
from tests.support import differential
from tests.support.large_storm import LargeStorm, check_blobs
from tests.support.patient import at_last
from tests.support.wait_storm import WaitStorm, check_waits

WITHIN_S = 20_000
"""Virtual seconds in which everything must have finished."""


class Witness:
    """What really ran, noted by the protocols themselves, apart from our own journal."""

    def __init__(self) -> None:
        self.simulation: Simulation | None = None
        self.starts: Counter[tuple[str, str]] = Counter()
        self.running: dict[str, list] = defaultdict(list)
        self.comes_before: dict[str, str] = {}
        """By step of the outer sequence: the step before it, if that is recorded under one path."""
        self.problems: list[str] = []

    def began(self, ctx, quota=None):
        place = (ctx.task_id, ctx.step)
        self.starts[place] += 1
        self.simulation.note(PROCESS.get().name, "runs a step", f"{ctx.task_id} {ctx.step}, attempt {ctx.attempt}")
        recorded = recorded_steps(self.simulation)
        if place in recorded:
            self.problems.append(f"I2: {place} started after its recorded finish")
        before = self.comes_before.get(ctx.step.partition("/")[0])
        if before is not None and (ctx.task_id, before) not in recorded:
            self.problems.append(f"I2: {place} started before the end of {before} was durable")
        if quota:
            process = PROCESS.get()
            alive = [other for other in self.running[quota] if not other[1].dead]
            self.running[quota] = [*alive, (place, process, ctx.user)]
            self.check_limits(quota, ctx.user)

    def check_limits(self, quota, user):
        holders = self.running[quota]
        limits = self.simulation.settings.limits
        of_user = sum(holder[2] == user for holder in holders)
        for name, used in ((quota, len(holders)), (f"{quota} per user", of_user)):
            if used > limits.get(name, used):
                self.problems.append(f"I3: {used} hold '{name}', the limit is {limits[name]}")

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


@podium.protocol(concurrency=3, replicas=(0, 3))
async def work(ctx, input):
    WITNESS.began(ctx)
    await asyncio.sleep(0.1)
    return {"n": input["n"] + 1}


@podium.protocol(quotas={"llm": 1}, concurrency=2, replicas=(1, 4))
async def limited(ctx, input):
    WITNESS.began(ctx, "llm")
    try:
        await asyncio.sleep(0.2)
    finally:
        WITNESS.ended(ctx, "llm")
    return {"n": input["n"] + 1}


@podium.protocol(retry=Retry(attempts=4, initial_delay_s=0.5))
async def flaky(ctx, input):
    WITNESS.began(ctx)
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return {"n": input["n"] + 1}


@podium.protocol(breaker=podium.Breaker(min_calls=2, open_s=0.5, probes=1, half_open_s=None))
async def broken(ctx, _input):
    WITNESS.began(ctx)
    await asyncio.sleep(2)
    raise RuntimeError("always")


@podium.protocol(at_most_once=True, on_error={"internal": "park"}, concurrency=3)
async def once(ctx, input):
    WITNESS.began(ctx)
    await asyncio.sleep(0.2)
    if WITNESS.starts[ctx.task_id, ctx.step] == 1 and input["n"] % 2:
        raise RuntimeError("the first time")
    return {"n": input["n"] + 1}


@podium.protocol
async def unwork(ctx, _done):
    WITNESS.began(ctx)
    await asyncio.sleep(0.3)


@podium.protocol(concurrency=10)
async def stall(ctx, _input):
    WITNESS.began(ctx)
    await asyncio.sleep(1_000_000)


@podium.protocol
async def lead(ctx, brief):
    WITNESS.began(ctx)
    if not brief["outcomes"]:
        return podium.verdict.assign(dict.fromkeys(brief["team"], brief["input"]))
    if brief["round"] == 2:
        return podium.verdict.retry(["x"], "again")
    return podium.verdict.accept({"n": brief["outcomes"]["x"]["output"]["n"]})


def workflow(rng: Random, shards: int, quotas: Mapping[str, int]) -> Workflow:
    """The same work in every storm, under supervision drawn from the seed."""

    def supervision() -> Supervision:
        strategy = rng.choice(["one_for_one", "one_for_one", "one_for_all", "rest_for_one"])
        return Supervision(strategy=strategy, intensity=rng.choice([1, 3, 1000]), max_delay_s=rng.choice([0.1, 5]))

    return Workflow(
        "storm",
        Sequence(
            *(Step(protocol, undo=unwork) for protocol in rng.choice([(work, limited), (limited, work)])),
            Parallel(
                {
                    "p": work,
                    "q": limited,
                    "r": Step(broken, fallback=[broken, flaky]),
                    "o": once,
                    "w": Wait("never", timeout_s=4, on_timeout={"value": 0}),
                    "z": Sleep(for_s=3),
                    "s": Sequence(Step(stall, total_timeout_s=2, fallback=work), timeout_s=5, otherwise={"value": 0}),
                }
            ),
            Step(broken, with_="input.q", fallback=Step(work, with_="input")),
            Hierarchy(lead, team={"x": work, "y": Sequence(limited, work)}, name="team", supervision=supervision()),
            Adaptive(
                {"a": work, "b": limited},
                start="a",
                rules=[Rule(after="a", when="output.n % 2 == 0", to="b"), Rule(to="end")],
            ),
        ),
        supervision=supervision(),
        undo_on_cancel=rng.random() < 0.5,
        shards=shards,
        quotas=quotas,
    )


def expected(n: int) -> dict:
    """What the workflow makes of {"n": n}."""
    last = n + 6
    return {"n": last + 1 if last % 2 == 0 else last}


def faults_of(rng: Random) -> Faults:
    return Faults(
        lose_request=rng.choice([0, 0, 0.02, 0.1]),
        lose_reply=rng.choice([0, 0, 0.02, 0.1]),
        repeat=rng.choice([0, 0.05]),
        delay_s=rng.choice([0, 0.01, 0.2]),
        commit_s=rng.choice([0, 0.02, 0.5]),
        kills=rng.choice([0, 1, 3, 6]),
        kill_within_s=rng.choice([1, 5, 20]),
        kill_all=rng.random() < 0.3,
        freezes=rng.choice([0, 0, 1, 2]),
        freeze_s=rng.choice([5, 100]),
        zombies=rng.choice([0, 0.5, 1]),
        clock_jumps=rng.choice([0, 0, 2]),
    )


MACHINES = 3


def of_machines(faults: Faults, rng: Random) -> Faults:
    """The same on several machines, which fail as a whole; none of their processes is out of reach by itself."""
    return replace(
        faults,
        zombies=0,
        machine_kills=rng.choice([0, 1, 2]),
        boot_s=rng.choice([5, 60]),
        cuts=rng.choice([0, 1, 2]),
        cut_s=rng.choice([2, 10, 30]),
        store_stops=rng.choice([0, 0, 1]),
        drains=rng.choice([0, 1, 2]),
        drain_s=rng.choice([5, 30, 60]),
    )


class Storm:
    """One seed: its simulation, its work, and what its checks need to know."""

    def __init__(self, seed: int) -> None:
        rng = Random(seed)
        self.faults, by_machine = faults_of(rng), Random(f"{seed}, machines")
        machines = by_machine.choice([1, 1, MACHINES])
        if machines > 1:
            self.faults = of_machines(self.faults, by_machine)
        self.large = LargeStorm(seed)
        if self.large.is_there:
            self.faults = replace(self.faults, **self.large.faults)
        self.waits = WaitStorm(seed)
        self.count = rng.choice([1, 3, 10])
        self.cancels = {n: rng.uniform(0, 15) for n in range(1, self.count) if rng.random() < 0.1}
        """When tasks are cancelled, in virtual seconds, by their number."""
        quotas = Random(f"{seed}, quotas").choice([{}, {"room": 1}])
        self.workflow = workflow(rng, shards=Random(f"{seed}, shards").choice([1, 1, 2]), quotas=quotas)
        limits = {"llm": rng.choice([1, 2, 5]), "room": 2}
        more = {"host_idle_s": Random(f"{seed}, hosts").choice([0.3, 3.0, 60.0])}
        more |= {"restart_intensity": 1000, "top_restart_intensity": 1000, "retry_reserve": 1000}
        self.keyed = rng.random() < 0.5 or machines > 1
        """Whether all tasks have a key, or only the first."""
        self.users = rng.choice([["ada"], ["ada", "bob"]])
        if rng.random() < 0.5:
            limits["llm per user"] = 1
        throttle = rng.random() < 0.3
        lookahead_s = rng.choice([0.05, 1.0])
        settings = {
            "throttle": throttle,
            "lookahead_s": lookahead_s,
            **more,
            **self.large.settings,
            **self.waits.settings,
        }
        self.simulation = Simulation(seed, limits, self.faults, machines, **settings)
        self.simulation.cpu_used = rng.choice([0.2, 1.0])
        self.times = {n: rng.uniform(1, 30) for n in range(1, self.count) if rng.random() < 0.1}
        """Seconds that tasks have, by their number."""
        self.ended: dict[str, tuple] = {}
        """Status and result of each task when its client heard of them."""
        self.redriven: Counter[str] = Counter()
        """How often parked steps of a task were to run again."""
        self.successors: list = []
        self.is_closing_time = False
        self.events: list[tuple] = []

    def run(self, within_s: float = WITHIN_S) -> None:
        """Run and check; raises AssertionError with the invariant that does not hold."""
        global WITNESS
        WITNESS = Witness()
        WITNESS.simulation = self.simulation
        names = [node.name for node in self.workflow.root.sequence]
        unnamed = ("parallel", "broken")
        WITNESS.comes_before = {name: before for before, name in itertools.pairwise(names) if before not in unnamed}
        status = self.simulation.run(self._drive, within_s)
        check_invariants(self, status)

    async def _drive(self, engine):
        tasks = await self._submit(engine)
        self.ids = [task.id for task in tasks]
        clerk = asyncio.ensure_future(self._redrive_what_is_parked(engine))
        watching = asyncio.ensure_future(self._watch(tasks[0]))
        odd = asyncio.ensure_future(self._odd(engine))
        large = asyncio.ensure_future(self.large.run(engine))
        waits = asyncio.ensure_future(self.waits.run(engine))
        await self._submit_again(engine, tasks[0])
        cancelling = [asyncio.ensure_future(self._cancel(tasks[n], at)) for n, at in self.cancels.items()]
        for n, task in enumerate(tasks):
            self.ended[task.id] = await self._end_of(n, task)
        await asyncio.gather(watching, odd, large, waits, *cancelling)
        self.is_closing_time = True
        await clerk  # what it has asked for may be carried out even if nobody waits for the answer
        for task in self.successors:
            with contextlib.suppress(TaskFailed):
                await task.result()
        # the faults have stopped, and what was stopped has thawed
        faults = self.faults
        lasting_s = faults.freeze_s + faults.boot_s + faults.cut_s + faults.store_stop_s + faults.drain_s
        lasting_s += faults.blob_stop_s
        await asyncio.sleep(faults.kill_within_s + lasting_s + 3 * self.simulation.settings.lease_s)
        await self.large.rest(self.simulation)
        return await engine.status()

    async def _odd(self, engine):
        """Beside it, a random tree over odd values, expressions and exceptions (tests/support/differential.py)."""
        odd, input = differential.case(self.simulation.seed, tiers=False)
        outcome, wanted = await differential.found(engine, odd, input), differential.expected(odd, input)
        assert outcome in (wanted, ["failed", "host_lost"]), f"{odd.name}: {outcome}, and should be {wanted}"

    async def _submit(self, engine):
        """All tasks by number; they belong to the users in turn."""
        await at_last(partial(engine.deploy, self.workflow))
        first = partial(engine.submit, self.workflow, {"n": 0}, key="k0", user=self.users[0])
        tasks = {0: await at_last(first)}
        for place, user in enumerate(self.users):
            mine = [n for n in range(1, self.count) if n % len(self.users) == place]
            for timeout_s in [None, *(self.times[n] for n in mine if n in self.times)]:
                numbers = [n for n in mine if self.times.get(n) == timeout_s]
                keys = [f"k{n}" for n in numbers] if self.keyed else None
                inputs = [{"n": n} for n in numbers]
                submit = partial(engine.submit_many, self.workflow, inputs, keys=keys, user=user, timeout_s=timeout_s)
                new = await at_last(submit)
                tasks |= dict(zip(numbers, new, strict=True))
        return [tasks[n] for n in range(self.count)]

    async def _end_of(self, n, task):
        try:
            result = await task.result()
        except TaskCancelled:
            assert n in self.cancels, f"task {n} was cancelled by nobody"
            return "cancelled", None
        except TaskFailed as failed:
            is_late = failed.cause_code == "timeout" or "its time would be up" in str(failed)
            assert n in self.times and is_late, f"task {n} failed: {failed}"
            return "failed", None
        assert result == expected(n), f"task {n} gave {result}"
        return "completed", result

    async def _redrive_what_is_parked(self, engine):
        """Somebody who looks from time to time, and decides that it is to run again."""
        while not self.is_closing_time:
            await asyncio.sleep(3)
            for letter in await engine.dead_letters():
                if letter.record.status == "parked":
                    self.redriven[letter.id] += 1
                    with contextlib.suppress(FixTheCall):  # it was cancelled, or went on, meanwhile
                        (task,) = await engine.redrive([letter.id])
                        if task.id != letter.id:  # it failed meanwhile, and another continues it
                            self.successors.append(task)

    async def _cancel(self, task, at):
        await asyncio.sleep(at)
        assert await task.cancel() in ("cancelled", "completed", "failed", "running", "waiting")

    async def _submit_again(self, engine, first):
        again = await at_last(partial(engine.submit, self.workflow, {"n": 0}, key="k0", user=self.users[0]))
        assert again.id == first.id, "I7: the same key gave another task"
        try:
            await at_last(partial(engine.submit, self.workflow, {"n": 1}, key="k0", user=self.users[0]))
        except KeyConflict:
            return
        raise AssertionError("I7: another payload under the same key was taken")

    async def _watch(self, task):
        self.events = [(event.kind, event.step, event.attempt, event.at) async for event in task.events()]


def run_storm(seed: int, within_s: float = WITHIN_S) -> Storm:
    storm = Storm(seed)
    storm.run(within_s)
    return storm


def check_invariants(storm, status):
    simulation = storm.simulation
    assert not WITNESS.problems, WITNESS.problems[0]
    shards = [simulation.disk.shard(name) for name in shards_of("storm", storm.workflow.shards)]
    records = {id: found.record for shard in shards for id, found in shard.tasks.items()}
    known = {*storm.ids, *(task.id for task in storm.successors)}
    assert set(records) == known, "I1: acknowledged tasks and durable tasks differ"
    assert all(record.status in TERMINAL for record in records.values()), "I1: a task has not ended"
    now = {id: (records[id].status, records[id].result) for id in storm.ids}
    assert now == storm.ended, "I5: an end that was told has changed"
    assert all(use.held == 0 and use.waiting == 0 for use in status.quotas.values()), "I4: permits held at rest"
    for name, breaker in status.breakers.items():
        assert breaker.probing == 0, f"I9: the breaker of '{name}' waits for a probe that nobody runs"
    for name, shard in simulation.disk.shards.items():
        for task_id, entries in shard.entries.items():
            epochs = [epoch for epoch, _ in entries]
            assert epochs == sorted(epochs), f"I8: epochs of {task_id} fall: {epochs}"
        for found in shard.tasks.values():
            assert found.record.status in TERMINAL, f"I1: {found.record.task_id} in {name} has not ended"
            check_fold(shard, found.record)
    most = max(WITNESS.starts.values())
    unknown = len(simulation.killed) + len(simulation.frozen) + 1
    assert most <= 3 + unknown + group_restarts(storm), f"I2: a step ran {most} times after {unknown} losses"
    for (task_id, step), times in WITNESS.starts.items():
        if step == "parallel/o":
            assert times <= 1 + storm.redriven[task_id], f"P3: an at-most-once step ran {times} times"
    check_undone(storm, records)
    check_events(storm)
    check_blobs(simulation, storm.large.is_there)
    check_waits(simulation, storm.waits)
    check_leftovers(simulation)


def check_undone(storm, records):
    """What was done is taken back exactly in those tasks that ended so."""
    recorded = recorded_steps(storm.simulation)
    undone = {"failed"} | ({"cancelled"} if storm.workflow.undo_on_cancel else set())
    for id, record in records.items():
        for step in ("work", "limited"):
            expected = (id, step) in recorded and record.status in undone
            assert ((id, f"{step}:undo") in recorded) == expected, f"undo of {step} in a task that was {record.status}"


def group_restarts(storm):
    """Further interruptions: a loss may take others down with it, by strategy or by intensity."""
    return 2 * (len(storm.simulation.killed) + len(storm.simulation.frozen))


def check_events(storm):
    """What a client was told: each recorded event once, the end last, across the death of everybody else."""
    kinds = [kind for kind, step, *_ in storm.events if not step and kind not in ("parked", "redriven")]
    assert kinds == ["accepted", storm.ended[storm.ids[0]][0]], f"events of the task itself: {kinds}"
    recorded = Counter(event for event in storm.events if event[0] in ("finished", "retrying", "failed"))
    assert all(times == 1 for times in recorded.values()), f"told twice: {recorded.most_common(1)}"


def check_leftovers(simulation):
    """I11: nothing of the cluster is left when its engine is closed."""
    alive = [address for address in simulation.cluster.every_address() if simulation.cluster.alive(address)]
    assert alive == [], f"I11: still alive: {alive}"


def check_fold(shard, record):
    """I6: folding the journal again gives what was recorded live, gapless and to the end."""
    definition = unpack(shard.notes[f"definition:{record.hash}"])
    root = Workflow.from_trusted({"name": "again", "root": definition["root"]}).root
    task, _ = begin(record, root, record.task_id.partition("/")[2])
    for _, body in shard.entries[record.task_id]:
        for event in unpack_events(body):
            apply(task, event)
    assert task.status == record.status, f"I6: {record.task_id} folds to {task.status}, recorded {record.status}"
    assert repr(task.outcome.output) == repr(record.result), f"I6: {record.task_id} folds to another result"
    assert not task.running
