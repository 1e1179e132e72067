"""Times that run out: of an attempt, of its silence, of a step with all its attempts, of a node, of a task."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import podium
from podium import Constant, Hierarchy, Parallel, Retry, Sequence, Step, Workflow
from podium.errors import InvalidInput, TaskFailed
from podium.supervisors.running.timers import Timers
from podium.supervisors.tasks.state import Time
from podium.testing import Simulation
from tests import sample
from tests.support.fold_play import Play, step

SLOW = "tests.sample:slow"
AT_ONCE = Retry(attempts=1000, initial_delay_s=0, max_delay_s=0, budget=None)


def run(workflow, input=None, kill=None, **submitted):
    """The result, or the failure as (code, step); and the seconds that it took."""
    simulation = Simulation()
    if not isinstance(workflow, Workflow):
        workflow = Workflow("w", workflow)

    async def work(engine):
        loop = asyncio.get_running_loop()
        task = await engine.submit(workflow, input, **submitted)
        began = loop.time()
        if kill is not None:
            await asyncio.sleep(3)
            simulation.kill(kill)
        try:
            result = await task.result()
        except TaskFailed as failed:
            result = failed.cause_code, failed.step
        return result, round(loop.time() - began)

    return simulation.run(work)


# a step with all its attempts


def test_a_step_ends_in_its_total_time_whatever_its_attempts_do():
    attempts = Step(SLOW, timeout_s=4, total_timeout_s=10, retry=AT_ONCE)
    assert run(Sequence(attempts), {"s": 50}) == (("timeout", "slow"), 10)


@pytest.mark.parametrize("killed", ["supervisor/w", "coordinator", "supervisor/w/slow-0"])
def test_it_counts_across_crashes(killed):
    assert run(Sequence(Step(SLOW, total_timeout_s=20)), {"s": 500}, kill=killed) == (("timeout", "slow"), 20)


def test_nobody_waits_for_an_attempt_that_would_come_too_late():
    retry = Retry(attempts=5, initial_delay_s=60, max_delay_s=60, jitter=False)
    workflow = Workflow("w", Sequence(Step("tests.sample:fail", retry=retry, total_timeout_s=30)))

    async def work(engine):
        task, began = await engine.submit(workflow, 1), asyncio.get_running_loop().time()
        with pytest.raises(TaskFailed, match=r"cannot do 1 \(not tried again: its time would be up before"):
            await task.result()
        return asyncio.get_running_loop().time() - began

    assert Simulation().run(work) < 2


def test_a_fallback_has_time_of_its_own():
    fallback = Step(SLOW, with_={"s": "8"}, total_timeout_s=10)
    assert run(Sequence(Step(SLOW, total_timeout_s=10, fallback=fallback)), {"s": 50}) == ({"s": 8}, 18)


# a node


def test_a_sequence_that_is_late_stops_what_runs_in_it():
    inner = Parallel({"a": step("a"), "b": Sequence(step("c"), timeout_s=60)})
    play = Play(Sequence(step("x"), inner, timeout_s=5)).done("x").timed_out()
    assert sorted(play.halted) == ["parallel/a", "parallel/b/c"]
    assert (play.failure.code, play.failure.message) == ("timeout", "sequence had not ended after 5 s")
    assert play.task.timed == {}


def test_a_nested_hierarchy_that_is_late_is_cancelled_in_its_tier():
    team = Hierarchy(sample.lead, team={"x": SLOW}, name="team", timeout_s=7)
    assert run(Sequence(team), {"s": 100}) == (("timeout", "team"), 7)


class Taking:
    """What alarms need of the open tasks: each time that is up calls back."""

    def __init__(self, tasks, rings):
        self.tasks, self.rings, self.clock = tasks, rings, self

    def take(self, task, event):
        self.rings()

    def late(self, task, place):
        return None

    def check(self):
        return None


def test_times_that_were_not_needed_are_forgotten_and_the_others_ring_on_time():
    rung = []

    async def work(engine):
        loop = asyncio.get_running_loop()
        began = loop.time()
        world = engine._core._session.world
        tasks = {}
        taking = Taking(tasks, lambda: rung.append(round(loop.time() - began, 1)))
        alarms = Timers(world, taking, taking)
        for limit_s in [0.5, 1.5, 2.5, 3.5, 50.1] * 100:
            task = Play(step("a", total_timeout_s=limit_s)).task
            task.record = dataclasses.replace(task.record, task_id=f"t-{len(tasks)}")
            tasks[task.record.task_id] = task
            task.root.time = Time(world.now(), limit_s)
            alarms.set(task, task.root)
            if len(alarms) % 100:
                task.timed.clear()
        await asyncio.sleep(2)
        assert len(alarms) <= 5
        await asyncio.sleep(100)
        assert len(alarms) == 0

    Simulation().run(work)
    assert rung == [50.1] * 5


def test_alarms_ring_in_the_order_of_their_times():
    rung = []

    async def work(engine):
        loop = asyncio.get_running_loop()
        began, world = loop.time(), engine._core._session.world
        tasks = {}
        taking = Taking(tasks, lambda: rung.append(round(loop.time() - began, 2)))
        alarms = Timers(world, taking, taking)
        for limit_s in (7.25, 0.5, 3.1, 2.05, 1.0):
            task = Play(step("a", total_timeout_s=limit_s)).task
            task.record = dataclasses.replace(task.record, task_id=f"t-{len(tasks)}")
            tasks[task.record.task_id] = task
            task.root.time = Time(world.now(), limit_s)
            alarms.set(task, task.root)
        await asyncio.sleep(20)

    Simulation().run(work)
    assert rung == [0.5, 1.0, 2.05, 3.1, 7.25]


# a task


def test_a_task_that_is_late_fails_whatever_could_stand_in_for_its_steps():
    slow = Step(SLOW, otherwise=Constant(value="nothing"))
    assert run(Workflow("w", Sequence(slow), timeout_s=12), {"s": 50}) == (("timeout", ""), 12)


def test_a_submission_may_say_how_long_the_task_has():
    workflow = Workflow("w", Sequence(SLOW), timeout_s=12)
    assert run(workflow, {"s": 50}, timeout_s=30) == (("timeout", ""), 30)
    assert run(workflow, {"s": 50}, timeout_s=30, kill="supervisor/w") == (("timeout", ""), 30)
    with pytest.raises(InvalidInput, match="timeout_s: seconds are more than 0 and at most 1e\\+10, not 0"):
        run(workflow, {"s": 50}, timeout_s=0)


def test_the_events_of_a_late_task_say_so():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(SLOW)), {"s": 50}, timeout_s=5)
        live = [(event.kind, event.step) async for event in task.events()]
        past = [(event.kind, event.step) async for event in task.events()]
        return live, past

    live, past = Simulation().run(work)
    assert live[-2:] == past[-2:] == [("timed_out", ""), ("failed", "")]


# an attempt: silence, and what the code knows


def test_an_attempt_that_falls_silent_is_stopped_and_one_that_gives_signs_of_life_is_not():
    said = []

    @podium.protocol(idle_timeout_s=5, concurrency=3)
    async def talk(ctx, how):
        for turn in range(4):
            await asyncio.sleep(4)
            if how == "heartbeat":
                ctx.heartbeat()
            elif how == "emit":
                ctx.emit(turn)
        said.append(how)
        return how

    assert run(Sequence(talk), "heartbeat") == ("heartbeat", 16)
    assert run(Sequence(talk), "emit") == ("emit", 16)
    assert run(Sequence(talk), "nothing") == (("timeout", "talk"), 5)
    assert run(Sequence(Step(talk, idle_timeout_s=30)), "nothing") == ("nothing", 16)


@pytest.mark.parametrize(
    ("settings", "limit_s"),
    [({"timeout_s": 9}, 9), ({"timeout_s": 9, "total_timeout_s": 7}, 7), ({"total_timeout_s": 50}, 20), ({}, 20)],
)
def test_the_code_is_told_which_time_runs_out_first(settings, limit_s):
    told = []

    @podium.protocol
    async def ask(ctx, began):
        told.append(ctx.deadline)

    simulation = Simulation()

    async def work(engine):
        began = simulation.now()
        workflow = Workflow("w", Sequence(Sequence(Step(ask, **settings), timeout_s=40)), timeout_s=20)
        await (await engine.submit(workflow, None)).result()
        return began

    began = simulation.run(work)
    assert told[0] - began == pytest.approx(limit_s, abs=1)


# the clock is set


@pytest.mark.parametrize("kill", [None, "supervisor/w", "coordinator", "supervisor/w/asks_left-0"])
@pytest.mark.parametrize("jump_s", [3_600, -3_600, 30, -30])
@pytest.mark.parametrize(
    "limits",
    [{"task": 60}, {"step": 60}, {"node": 60}],
    ids=["of the task", "of the step", "of a node"],
)
def test_a_clock_that_is_set_changes_no_time_that_is_left(limits, jump_s, kill):
    simulation = Simulation()
    step = Step("tests.sample:asks_left", total_timeout_s=limits.get("step"))
    flow = Workflow("w", Sequence(step, timeout_s=limits.get("node")), timeout_s=limits.get("task"))

    async def work(engine):
        loop = asyncio.get_running_loop()
        task, began = await engine.submit(flow, 500), loop.time()
        await asyncio.sleep(20)
        simulation.clock_offset_s = jump_s
        if kill is not None:
            simulation.kill(kill)
        with pytest.raises(TaskFailed) as failed:
            await task.result()
        return failed.value.cause_code, round(loop.time() - began)

    assert simulation.run(work) == ("timeout", 60)


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
def test_what_a_step_is_told_of_its_time_does_not_change_either(jump_s):
    simulation = Simulation()

    async def work(engine):
        flow = Workflow("w", Sequence(Step("tests.sample:asks_left"), timeout_s=100))
        task = await engine.submit(flow, 20)
        await asyncio.sleep(10)
        simulation.clock_offset_s = jump_s
        return round(await task.result())

    assert simulation.run(work) == 80


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
@pytest.mark.parametrize("kill", [False, True])
def test_an_attempt_that_waits_waits_as_long_as_before(jump_s, kill):
    simulation = Simulation()
    retry = Retry(attempts=2, initial_delay_s=100, max_delay_s=100, jitter=False)

    async def work(engine):
        loop = asyncio.get_running_loop()
        task, began = (
            await engine.submit(Workflow("w", Sequence(Step("tests.sample:fail", retry=retry))), {}),
            loop.time(),
        )
        await asyncio.sleep(20)
        simulation.clock_offset_s = jump_s
        if kill:
            simulation.kill("supervisor/w")
        with pytest.raises(TaskFailed):
            await task.result()
        return round(loop.time() - began)

    assert simulation.run(work) in (100, 101)
