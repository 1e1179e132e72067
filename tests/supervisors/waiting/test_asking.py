"""Steps that ask while they run: `return podium.Ask(…)`, and the next attempt has the answer."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Ask, Parallel, Sequence, Step, Wait, Workflow
from podium.errors import AnswerRefused, NotFound, TaskFailed
from podium.testing import Simulation
from tests import sample
from tests.support.waits import until, waits_of

RUNS: list[tuple[int, object, object]] = []
"""The attempt, the answer and the `resume` of each run of a step."""


def note(ctx):
    RUNS.append((ctx.attempt, ctx.answer and ctx.answer.value, ctx.resume))


def fresh(**settings):
    RUNS.clear()
    return Simulation(**settings)


@podium.protocol
async def draft(ctx: podium.Context, input: dict) -> str | Ask:
    note(ctx)
    if ctx.answer is None:
        return Ask("approval", schema=bool, show={"title": input["title"]}, resume={"cost": 3})
    return f"{input['title']}: {ctx.answer.value} by {ctx.answer.by}, {ctx.resume['cost']}"


@podium.protocol
def plain(ctx: podium.Context, input: dict):
    """Asks twice, from a thread."""
    note(ctx)
    asked = ctx.resume or []
    if len(asked) < 2:
        return Ask("more", resume=[*asked, ctx.answer.value if ctx.answer else 0])
    return [*asked, ctx.answer.value]


@podium.protocol
async def board(ctx: podium.Context, input: dict):
    note(ctx)
    if not ctx.answers:
        return Ask("vote", need=2, who=["ann", "ben", "cat"], refusal="answer == 'no'", timeout_s=60)
    return [answer.by for answer in ctx.answers]


@podium.protocol(retry=3)
async def shaky(ctx: podium.Context, input: dict):
    note(ctx)
    if ctx.answer is None:
        return Ask("go")
    if ctx.attempt < 4:
        raise ConnectionError("not yet")
    return ctx.answer.value


@podium.protocol(at_most_once=True)
async def once(ctx: podium.Context, input: dict):
    note(ctx)
    return Ask("go") if ctx.answer is None else ctx.answer.value


async def asked(engine, protocol, **settings):
    task = await engine.submit(Workflow("asks", Sequence(Step(protocol, **settings), sample.echo)), {"title": "t"})
    await until(lambda: waits_of(engine, task))
    return task


def test_a_step_that_asks_runs_again_with_the_answer():
    async def work(engine):
        task = await asked(engine, draft)
        (wait,) = await task.waits()
        assert (wait.name, wait.path, wait.shown) == ("approval", "draft/ask", {"title": "t"})
        assert (await task.read_status(), [run[0] for run in RUNS]) == ("waiting", [1])
        await engine.answer(task.id, "approval", True, by="ann", digest=wait.digest)
        return await task.result(), [
            (event.kind, event.attempt) async for event in task.events() if event.step == "draft"
        ]

    result, events = fresh().run(work)
    assert result == "t: True by ann, 3"
    assert RUNS == [(1, None, None), (2, True, {"cost": 3})]
    assert events == [("asked", 1), ("finished", 2)]


def test_the_answer_is_there_after_everything_was_killed_and_no_code_runs_meanwhile():
    async def work(engine):
        task = await asked(engine, draft)
        for _ in range(3):
            sim.kill_all()
            await asyncio.sleep(30)
        assert len(RUNS) == 1
        await engine.answer(task.id, "approval", False, by="ben")
        return await task.result()

    sim = fresh(max_waiting_in_memory=0)
    assert sim.run(work) == "t: False by ben, 3"


def test_a_step_may_ask_several_times_and_each_question_takes_the_next_answer():
    async def work(engine):
        task = await asked(engine, plain)
        await engine.answer(task.id, "more", 1)
        await until(lambda: [each.wait.path for each in waits_of(engine, task)] == ["plain/ask#2"])
        await engine.answer(task.id, "more", 2)
        return await task.result()

    assert fresh().run(work) == [0, 1, 2]


def test_a_question_has_the_rules_of_a_wait():
    async def work(engine):
        task = await asked(engine, board)
        with pytest.raises(AnswerRefused, match="'eve' may not answer"):
            await engine.answer(task.id, "vote", "yes", by="eve")
        with pytest.raises(NotFound, match="no wait 'veto'; the workflow waits for vote"):
            await engine.answer(task.id, "veto", "yes", by="ann")
        await engine.answer(task.id, "vote", "yes", by="cat")
        await engine.answer(task.id, "vote", "yes", by="ann")
        first = await task.result()
        task = await asked(engine, board)
        await engine.answer(task.id, "vote", "no", by="ann")
        with pytest.raises(TaskFailed) as refused:
            await task.result()
        task = await asked(engine, board, fallback=sample.echo)
        assert await task.result() == {"title": "t"}, "nobody answered in time"
        return first, refused.value

    by, refused = fresh().run(work)
    assert by == ["cat", "ann"]
    assert (refused.cause_code, refused.step) == ("refused", "board/ask")


def test_questions_are_no_attempts_for_the_retry_policy():
    async def work(engine):
        task = await asked(engine, shaky)
        await engine.answer(task.id, "go", 5)
        return await task.result()

    assert fresh().run(work) == 5
    assert [run[0] for run in RUNS] == [1, 2, 3, 4]


def test_a_step_that_runs_at_most_once_may_ask():
    async def work(engine):
        task = await asked(engine, once)
        sim.kill_all()
        await asyncio.sleep(5)
        await engine.answer(task.id, "go", 5)
        return await task.result()

    sim = fresh()
    assert sim.run(work) == 5


def test_a_step_that_asks_is_cancelled_and_stopped_like_any_other():
    async def work(engine):
        flow = Workflow("race", Sequence(Parallel({"a": draft, "b": Wait("b")}, join="any"), Wait("c")))
        task = await engine.submit(flow, {"title": "t"})
        await until(lambda: len(waits_of(engine, task)) == 2)
        await engine.answer(task.id, "b", 1)
        with pytest.raises(NotFound):
            await engine.answer(task.id, "approval", True)
        assert await task.cancel() == "cancelled"

    fresh().run(work)
    assert len(RUNS) == 1


def test_a_question_may_not_have_the_name_of_a_wait_of_the_workflow():
    async def work(engine):
        task = await engine.submit(Workflow("both", Sequence(draft, Wait("approval"))), {"title": "t"})
        with pytest.raises(TaskFailed, match="it asks for 'approval', and a Wait of the workflow has that name"):
            await task.result()

    fresh().run(work)


@podium.protocol
async def wrong(ctx: podium.Context, input: dict):
    return Ask(**input)


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        ({"name": "a b"}, "String should match pattern"),
        ({"name": "a", "need": 2, "who": ["ann"]}, "need: 2 can never be met by 1 users"),
        ({"name": "a", "schema": {"type": "nothing"}}, "not a JSON Schema"),
    ],
)
def test_a_question_that_is_wrong_fails_the_step_with_what_is_wrong(ask, problem):
    async def work(engine):
        task = await engine.submit(Workflow("wrong", Sequence(wrong)), ask)
        with pytest.raises(TaskFailed) as failed:
            await task.result()
        return failed.value

    error = fresh().run(work)
    assert error.cause_code == "invalid_output"
    assert problem in error.cause_message


def test_a_redriven_task_has_the_answer_that_was_given():
    world = {"down": True}

    @podium.protocol
    async def last(input):
        if world["down"]:
            raise ConnectionError("down")
        return input

    async def work(engine):
        task = await engine.submit(Workflow("again", Sequence(draft, last)), {"title": "t"})
        await until(lambda: waits_of(engine, task))
        await engine.answer(task.id, "approval", True, by="ann")
        with pytest.raises(TaskFailed):
            await task.result()
        world["down"] = False
        (again,) = await engine.redrive([task.id])
        return await again.result()

    assert fresh().run(work) == "t: True by ann, 3"
    assert len(RUNS) == 2
