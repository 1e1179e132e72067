"""Waits within nested Hierarchies: one mailbox for the whole task, whoever governs the node that waits."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Ask, Hierarchy, Parallel, Sequence, Sleep, Step, Wait, Workflow
from podium.errors import AnswerRefused, TaskCancelled, TaskFailed
from podium.supervisors.tasks.events import TimedOut, unpack_events
from podium.testing import Simulation
from tests import sample
from tests.support.waits import until, waits_of


@podium.protocol
async def lead(brief):
    if not brief["outcomes"]:
        return podium.verdict.assign(dict.fromkeys(brief["team"], brief["input"]))
    return podium.verdict.accept({name: outcome.get("output", outcome) for name, outcome in brief["outcomes"].items()})


@podium.protocol
async def asks(ctx: podium.Context, input: dict):
    return Ask("more", show=input, resume=7) if ctx.answer is None else [ctx.answer.value, ctx.answer.by, ctx.resume]


def nested(**team):
    """A workflow with these members in a nested Hierarchy."""
    return Workflow("nested", Sequence(sample.echo, Hierarchy(lead, team=team, name="team"), sample.echo))


def deep(**team):
    """The same, with the team in a Hierarchy within the nested one."""
    inner = Hierarchy(lead, team=team, name="inner")
    return Workflow("nested", Sequence(sample.echo, Hierarchy(lead, team={"inner": Sequence(inner)}, name="team")))


async def asked(engine, flow, count=1):
    task = await engine.submit(flow, {"n": 1})
    await until(lambda: len(waits_of(engine, task)) == count)
    return task


SUPERVISORS = ["supervisor/nested", "supervisor/nested/team"]


@pytest.mark.parametrize("killed", [None, *SUPERVISORS, "everything"])
def test_a_wait_in_a_nested_hierarchy_is_answered_by_its_task(killed):
    async def work(engine):
        task = await asked(engine, nested(a=Wait("yes", show="input", who=["ann"]), b=Sleep(for_s=3)))
        (wait,) = await task.waits()
        assert (wait.path, wait.shown, wait.who) == ("team/a", {"n": 1}, ("ann",))
        if killed == "everything":
            sim.kill_all()
        elif killed:
            sim.kill(killed)
        with pytest.raises(AnswerRefused, match="'eve' may not answer"):
            await engine.answer(task.id, "yes", 1, by="eve")
        await engine.answer(task.id, "yes", 1, by="ann", digest=wait.digest)
        assert await task.result() == {"a": 1, "b": {"n": 1}}
        return waits_of(engine, task)

    sim = Simulation()
    assert sim.run(work) == []


def test_an_answer_may_come_before_the_nested_run_has_begun():
    flow = Workflow("nested", Sequence(Sleep(for_s=5), Hierarchy(lead, team={"a": Wait("yes")}, name="team")))

    async def work(engine):
        task = await engine.submit(flow, {"n": 1})
        receipt = await engine.answer(task.id, "yes", "early")
        return (receipt.path, receipt.is_over), await task.result()

    assert Simulation().run(work) == (("", False), {"a": "early"})


def test_waits_deep_below_are_answered_too():
    async def work(engine):
        task = await asked(engine, deep(a=Wait("yes"), b=Wait("no", timeout_s=30, on_timeout={"value": "late"})), 2)
        assert sorted(each.wait.path for each in waits_of(engine, task)) == ["team/inner/inner/a", "team/inner/inner/b"]
        sim.kill_all()
        await engine.answer(task.id, "yes", 1)
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == {"inner": {"a": 1, "b": "late"}}


@pytest.mark.parametrize("killed", [None, *SUPERVISORS])
def test_a_wait_below_times_out_once_and_the_sender_is_told(killed):
    late = {"timeout_s": 30, "on_timeout": Step(sample.echo, with_="'late'")}

    async def work(engine):
        task = await asked(engine, nested(a=Wait("yes", **late), b=Wait("no")), 2)
        if killed:
            sim.kill(killed)
        await asyncio.sleep(60)
        with pytest.raises(AnswerRefused, match="nobody waits for it any more"):
            await engine.answer(task.id, "yes", 1)
        await engine.answer(task.id, "no", 2)
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == {"a": "late", "b": 2}


def test_each_wait_below_takes_its_own_answer():
    each = Parallel(each="[1, 2, 3]", do=Wait("item", mailbox="each", show="input"))

    async def work(engine):
        task = await asked(engine, nested(a=each), 3)
        for wait in await task.waits():
            await engine.answer(task.id, "item", wait.shown * 10, digest=wait.digest)
        return await task.result()

    assert Simulation().run(work) == {"a": [10, 20, 30]}


def test_a_step_of_a_nested_run_may_ask():
    async def work(engine):
        task = await asked(engine, nested(a=asks))
        (wait,) = await task.waits()
        assert (wait.name, wait.path, wait.shown) == ("more", "team/a/ask", {"n": 1})
        sim.kill_all()
        await engine.answer(task.id, "more", 5, by="ann")
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == {"a": [5, "ann", 7]}


def test_two_of_three_answers_below():
    async def work(engine):
        board = Wait("yes", need=2, signed=True, refusal="answer == 'no'")
        task = await asked(engine, nested(a=board))
        await engine.answer(task.id, "yes", 1, by="ann")
        sim.kill("supervisor/nested")
        await engine.answer(task.id, "yes", 2, by="ben")
        result = await task.result()
        refused = await asked(engine, nested(a=board))
        await engine.answer(refused.id, "yes", "no", by="ann")
        return [each["by"] for each in result["a"]], (await refused.result())["a"]["error"]["code"]

    sim = Simulation()
    assert sim.run(work) == (["ann", "ben"], "refused")


def test_a_nested_run_that_is_stopped_waits_no_more():
    race = Workflow("nested", Sequence(
        Parallel({"a": Wait("a"), "team": Hierarchy(lead, team={"x": Wait("yes")})}, join="any"), Wait("b"),
    ))  # fmt: skip

    async def work(engine):
        task = await asked(engine, race, 2)
        await engine.answer(task.id, "a", 1)
        await until(lambda: [each.wait.name for each in waits_of(engine, task)] == ["b"])
        with pytest.raises(AnswerRefused, match="nobody waits for it any more"):
            await engine.answer(task.id, "yes", 1)
        task2 = await asked(engine, nested(a=Wait("yes")))
        await task2.cancel()
        with pytest.raises(TaskCancelled):
            await task2.result()
        return waits_of(engine, task2)

    assert Simulation().run(work) == []


def test_a_redriven_task_waits_again_below():
    async def work(engine):
        task = await asked(engine, nested(a=Wait("yes", timeout_s=5)))
        flow_failed = await task.result()
        assert flow_failed["a"]["error"]["code"] == "timeout"
        race = Workflow("nested", Sequence(Hierarchy(lead, team={"x": Wait("yes")}, name="h", timeout_s=5)))
        task = await asked(engine, race)
        with pytest.raises(TaskFailed):
            await task.result()
        (again,) = await engine.redrive([task.id])
        await until(lambda: waits_of(engine, again))
        await engine.answer(again.id, "yes", 3)
        return await again.result()

    assert Simulation().run(work) == {"x": 3}


def test_the_losers_of_a_race_below_are_closed():
    race = Parallel({"x": Wait("x"), "y": Wait("y")}, join="any")

    async def work(engine):
        task = await asked(engine, nested(a=Sequence(race, Wait("z"))), 2)
        await engine.answer(task.id, "x", 1)
        await until(lambda: [each.wait.name for each in waits_of(engine, task)] == ["z"])
        with pytest.raises(AnswerRefused, match="nobody waits for it any more"):
            await engine.answer(task.id, "y", 1)
        await engine.answer(task.id, "z", 2)
        return await task.result()

    assert Simulation().run(work) == {"a": 2}


def test_only_the_task_decides_that_the_time_of_a_wait_below_is_over():
    late = {"timeout_s": 30, "on_timeout": {"value": "late"}}

    def timed_out():
        entries = [body for rows in sim.disk.shard("nested.team").entries.values() for _, body in rows]
        return any(isinstance(event, TimedOut) for body in entries for event in unpack_events(body))

    async def work(engine):
        task = await asked(engine, nested(a=Wait("yes", **late)))
        await asyncio.sleep(25)
        sim.freeze("supervisor/nested", 20)
        await asyncio.sleep(10)
        assert not timed_out(), "its task might have an answer"
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == {"a": "late"}
    assert timed_out()
