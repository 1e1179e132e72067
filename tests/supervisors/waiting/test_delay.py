"""Tasks that are accepted now and start later."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given

import podium
from podium import Sequence, Sleep, Step, Wait, Workflow
from podium.errors import InvalidInput, TaskCancelled, TaskFailed
from podium.supervisors.tasks.events import Skewed
from podium.supervisors.tasks.fold import apply
from podium.supervisors.tasks.folding import START
from podium.supervisors.tasks.history import step_rows
from podium.supervisors.tasks.state import Alarm
from podium.testing import Simulation
from tests import sample
from tests.support.fold_play import TREES, Play, step
from tests.support.waits import until

ECHO = Workflow("echo", Sequence(Step(sample.echo)))


# under the fold


@given(TREES)
def test_whatever_the_tree_a_held_task_does_nothing_and_then_begins_as_if_it_came_then(tree):
    play = Play(tree, 7).held()
    assert (list(play.task.waiting), list(play.task.timed), play.task.running) == ([START], [START], {})
    assert (play.task.status, play.task.rests_until(), play.task.outcome) == ("waiting", 200.0, None)
    fresh = Play(tree, 7)
    play.woke(START, at=201.0)
    assert (play.started, list(play.task.waiting)) == (fresh.started, list(fresh.task.waiting))
    assert [run.opened_at for run in play.task.running.values()] == [201.0] * len(play.task.running)
    assert {path: run.time.since for path, run in play.task.timed.items()} == dict.fromkeys(fresh.task.timed, 201.0)


def test_the_time_limit_of_a_held_task_counts_from_its_start():
    play = Play(Sequence(step("a"))).due().held()
    assert play.task.time is None
    play.woke(START, at=250.0)
    assert (play.task.time.since, play.task.time.limit_s) == (250.0, 1.0)
    assert [effect for effect in play.effects if isinstance(effect, Alarm)] == [Alarm(None)]


def test_an_answer_may_come_before_the_task_starts():
    assert Play(Wait("yes")).held().answered("yes", 7).woke(START).result == 7


def test_a_cancelled_task_does_not_start():
    play = Play(Sequence(step("a", on_cancel=sample.echo))).held().cancel()
    assert (play.task.status, play.started) == ("cancelled", [])
    assert play.woke(START).started == []


def test_the_start_is_a_moment_wherever_the_clock_is_set():
    play = Play(Sequence(step("a"))).held(until=200.0)
    apply(play.task, Skewed(50.0, 160.0))
    assert play.task.rests_until() == 200.0


def test_the_turn_of_a_held_task_counts_from_its_start():
    play = Play(Sequence(step("a"))).held()
    play.woke(START, at=203.0)
    assert play.task.started_at == 203.0


# on a cluster


@podium.protocol
async def at(input):
    return asyncio.get_running_loop().time()


CLOCK = Workflow("clock", Sequence(Step(at)), timeout_s=5)


@pytest.mark.parametrize("most", [0, 100])
@pytest.mark.parametrize("is_killed", [False, True])
def test_tasks_start_at_their_time(most, is_killed):
    delays = [0, 0.5, 3, 20, 20, 3600]

    async def work(engine):
        began, now = sim.loop.time(), sim.now()
        tasks = [await engine.submit(CLOCK, delay_s=delay) for delay in delays]
        tasks += [await engine.submit(CLOCK, not_before=now + delay) for delay in delays]
        tasks += [await engine.submit(CLOCK, not_before=datetime.fromtimestamp(now + 60, UTC))]
        if is_killed:
            sim.kill("supervisor/clock")
        return [await task.result() - began for task in tasks]

    sim = Simulation(max_waiting_in_memory=most)
    for started, delay in zip(sim.run(work), [*delays, *delays, 60], strict=True):
        assert delay - 0.001 <= started <= delay + 4


def test_a_held_task_is_seen_and_found_by_its_key_and_can_be_cancelled():
    async def work(engine):
        task = await engine.submit(ECHO, 1, key="k", delay_s=60)
        await until(lambda: engine.core.reader.find_task(task.id).record.status == "waiting")
        same = await engine.submit(ECHO, 1, key="k", delay_s=5)
        stored = engine.core.reader.find_task(task.id)
        (row,) = step_rows(stored.record, stored.definition, stored.bodies)
        seen = [event.kind async for event in _first(task.events(), 2)]
        await task.cancel()
        with pytest.raises(TaskCancelled):
            await task.result()
        return task.id == same.id, row.path, row.status, row.waits, row.until - row.opened_at, seen

    found = Simulation().run(work)
    assert found == (True, START, "waiting", "its time", pytest.approx(60), ["accepted", "waiting"])


async def _first(events, count):
    async for event in events:
        yield event
        count -= 1
        if count == 0:
            return


def test_a_task_that_was_due_while_everything_stood_still_has_all_its_time():
    late = Workflow("late", Sequence(Sleep(for_s=2), Step(sample.echo)))

    async def work(engine):
        task = await engine.submit(late, 1, delay_s=60, timeout_s=5)
        sim.freeze("supervisor/late", 100)
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == 1


def test_a_redriven_task_that_was_held_does_not_wait_again():
    broken = Workflow("broken", Sequence(Step(sample.fail)))

    async def work(engine):
        task = await engine.submit(broken, 1, delay_s=3600)
        with pytest.raises(TaskFailed):
            await task.result()
        began = sim.loop.time()
        (again,) = await engine.redrive([task.id])
        with pytest.raises(TaskFailed):
            await again.result()
        return sim.loop.time() - began

    sim = Simulation()
    assert sim.run(work) < 60


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        ({"delay_s": 1, "not_before": 2}, "give one"),
        ({"delay_s": -1}, "more than 0"),
        ({"delay_s": "1"}, "a number of seconds"),
        ({"not_before": float("nan")}, "more than 0"),
        ({"not_before": datetime(2027, 1, 1)}, "without a time zone"),
    ],
)
def test_a_start_that_is_none_is_refused(start, problem):
    async def work(engine):
        with pytest.raises(InvalidInput, match=problem):
            await engine.submit(ECHO, 1, **start)
        return await engine.tasks()

    assert Simulation().run(work) == []
