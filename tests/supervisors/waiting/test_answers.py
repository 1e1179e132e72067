"""Answers to tasks on the simulated cluster: what their senders are told, and what becomes of them in every failure."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Parallel, Sequence, Sleep, Step, Wait, Workflow
from podium.errors import AnswerRefused, FixTheCall, InvalidInput, NotFound, TaskCancelled, TaskFailed
from podium.testing import Simulation
from tests import sample
from tests.support.waits import asked


def refused(error):
    return error.value.reason, error.value.by


def test_an_answer_is_on_disk_when_its_sender_hears_of_it_and_the_task_goes_on():
    async def work(engine):
        task = await asked(engine)
        assert (await task.read_status(), (await task.waits())[0].shown) == ("waiting", 1)
        receipt = await engine.answer(task.id, "yes", {"ok": True}, by="ann")
        assert (receipt.path, receipt.is_over) == ("yes", True)
        assert await task.result() == {"ok": True}
        assert await task.waits() == []
        return [event async for event in task.events()]

    events = Simulation().run(work)
    (answered,) = [event for event in events if event.kind == "answered"]
    assert answered.value == {"name": "yes", "value": {"ok": True}, "by": "ann", "via": "driver"}


def test_an_answer_may_come_before_the_wait_and_is_told_that_it_is_kept():
    flow = Workflow("early", Sequence(Sleep(for_s=5), Wait("yes")))

    async def work(engine):
        task = await engine.submit(flow, 1)
        receipt = await engine.answer(task.id, "yes", "early")
        assert (receipt.path, receipt.is_over) == ("", False)
        sim.kill_all()
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == "early"


def test_after_everything_was_killed_the_wait_is_still_there():
    async def work(engine):
        task = await asked(engine)
        for _ in range(3):
            sim.kill_all()
            await asyncio.sleep(30)
        assert [wait.name for wait in await task.waits()] == ["yes"]
        await engine.answer(task.id, "yes", 2)
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == 2


def test_a_repeated_answer_is_the_same_answer_also_by_another_supervisor():
    async def work(engine):
        flow = Workflow("two", Sequence(Wait("yes"), Wait("no")))
        task = await asked(engine, flow)
        first = await engine.answer(task.id, "yes", 1, id="x")
        sim.kill_all()
        again = await engine.answer(task.id, "yes", 1, id="x")
        assert (first.at, again.at) == (again.at, first.at)
        with pytest.raises(AnswerRefused) as late:
            await engine.answer(task.id, "yes", 1, id="y")
        assert refused(late) == ("answered", "sim")
        await engine.answer(task.id, "no", 2)
        return await task.result()

    sim = Simulation()
    assert sim.run(work) == 2


def test_what_is_refused_leaves_only_a_count():
    flow = Workflow("picky", Wait("yes", schema=bool, who=["ann"]))

    async def work(engine):
        task = await asked(engine, flow)
        with pytest.raises(AnswerRefused, match="user 'eve' may not answer; these may: ann"):
            await engine.answer(task.id, "yes", True, by="eve")
        with pytest.raises(InvalidInput, match="answer: 3 is not of type 'boolean'"):
            await engine.answer(task.id, "yes", 3, by="ann")
        with pytest.raises(NotFound, match="no wait 'yse'; the workflow waits for yes"):
            await engine.answer(task.id, "yse", True, by="ann")
        with pytest.raises(NotFound, match="no task 't-none'"):
            await engine.answer("t-none", "yes", True)
        with pytest.raises(InvalidInput, match="by: an empty text is nobody"):
            await engine.answer(task.id, "yes", True, by="")
        entries = engine.core.reader.find_task(task.id).bodies
        counts = (await engine.status()).workflows["picky"].counts.answers_refused
        return entries, counts

    entries, counts = Simulation().run(work)
    assert entries == []
    assert counts == {"not_allowed": 1, "invalid_input": 1, "not_found": 1}


def test_answers_to_what_is_over_are_told_so():
    async def work(engine):
        task = await asked(engine)
        await engine.answer(task.id, "yes", 1)
        await task.result()
        with pytest.raises(AnswerRefused, match="the task has ended: it is completed"):
            await engine.answer(task.id, "yes", 1)
        race = Workflow("race", Sequence(Parallel({"a": Wait("a"), "b": Wait("b")}, join="any"), Wait("c")))
        task = await asked(engine, race, count=2)
        await engine.answer(task.id, "a", 1)
        with pytest.raises(AnswerRefused, match="nobody waits for it any more") as late:
            await engine.answer(task.id, "b", 1)
        assert refused(late) == ("closed", None)
        await task.cancel()
        with pytest.raises(TaskCancelled):
            await task.result()
        with pytest.raises(AnswerRefused, match="it is cancelled"):
            await engine.answer(task.id, "c", 1)

    Simulation().run(work)


def test_who_is_first_of_two_is_the_only_one_and_the_other_is_told_who_was():
    async def work(engine):
        task = await asked(engine)
        both = [engine.answer(task.id, "yes", who, by=who) for who in ("ann", "ben")]
        first, second = await asyncio.gather(*both, return_exceptions=True)
        assert (isinstance(second, AnswerRefused) and "the task has ended" in str(second)) or second.by == "ann"
        return await task.result(), first.is_over

    assert Simulation().run(work) == ("ann", True)


def test_an_answer_that_comes_after_the_time_finds_the_wait_timed_out_though_nobody_was_there_to_see_it():
    flow = Workflow("late", Sequence(Wait("yes", timeout_s=60, on_timeout={"value": "late"}), Wait("no")))

    async def work(engine):
        task = await asked(engine, flow)
        sim.kill("coordinator")
        sim.kill("supervisor/late")
        await asyncio.sleep(120)  # the supervisor is there again, and has seen to the time-out
        with pytest.raises(AnswerRefused, match="nobody waits for it any more"):
            await engine.answer(task.id, "yes", "in time?")
        await engine.answer(task.id, "no", 1)
        return [event.kind async for event in task.events()]

    sim = Simulation()
    assert "timed_out" in sim.run(work)


@pytest.mark.parametrize("moment", [59.9, 60.0, 60.1])
def test_an_answer_and_a_time_out_at_the_same_moment_have_one_outcome_which_the_sender_is_told(moment):
    flow = Workflow("close", Sequence(Wait("yes", timeout_s=60, on_timeout={"value": "late"}), Step(sample.echo)))

    async def work(engine):
        task = await engine.submit(flow, 1)
        await asyncio.sleep(moment)
        try:
            receipt = await engine.answer(task.id, "yes", "in time")
        except AnswerRefused:
            return "late", await task.result()
        return ("in time" if receipt.is_over else "?"), await task.result()

    told, result = Simulation().run(work)
    assert told == result


def test_a_time_out_null_false_and_a_cancel_are_four_outcomes():
    flow = Workflow("four", Wait("yes", timeout_s=60))

    async def work(engine):
        tasks = [await asked(engine, flow) for _ in range(4)]
        await engine.answer(tasks[0].id, "yes", None)
        await engine.answer(tasks[1].id, "yes", False)
        await tasks[2].cancel()
        return await asyncio.gather(*(task.result() for task in tasks), return_exceptions=True)

    null, false, cancelled, late = Simulation().run(work)
    assert (null, false) == (None, False)
    assert isinstance(cancelled, TaskCancelled)
    assert isinstance(late, TaskFailed) and late.cause_code == "timeout"


def test_two_of_three_by_different_people():
    flow = Workflow("board", Wait("yes", need=2, who=["ann", "ben", "cat"], not_starter=True, signed=True))

    async def work(engine):
        task = await asked(engine, flow, user="cat")
        with pytest.raises(AnswerRefused, match="has started the task"):
            await engine.answer(task.id, "yes", 1, by="cat")
        await engine.answer(task.id, "yes", 1, by="ann")
        assert [wait.answers for wait in await task.waits()] == [1]
        with pytest.raises(AnswerRefused, match="has answered already"):
            await engine.answer(task.id, "yes", 1, by="ann")
        inbox = [len(await engine.waits(answerer=who)) for who in ("ben", "cat", "eve")]
        await engine.answer(task.id, "yes", 2, by="ben")
        return inbox, [(each["value"], each["by"]) for each in await task.result()]

    assert Simulation().run(work) == ([1, 0, 0], [(1, "ann"), (2, "ben")])


def test_a_redriven_task_keeps_what_was_answered():
    world = {"down": True}

    @podium.protocol
    async def publish(input):
        if world["down"]:
            raise ConnectionError("down")
        return input

    async def work(engine):
        task = await asked(engine, Workflow("again", Sequence(Wait("yes"), publish)))
        await engine.answer(task.id, "yes", 5, id="x")
        with pytest.raises(TaskFailed):
            await task.result()
        world["down"] = False
        (again,) = await engine.redrive([task.id])
        return await again.result()

    assert Simulation().run(work) == 5


def test_a_wait_that_timed_out_waits_again_when_it_is_driven_again():
    async def work(engine):
        task = await asked(engine, Workflow("again", Sequence(Wait("yes", timeout_s=5), Step(sample.echo))))
        with pytest.raises(TaskFailed, match="nobody answered 'yes' within 5 s"):
            await task.result()
        (again,) = await engine.redrive([task.id])
        await engine.answer(again.id, "yes", 1)
        return await again.result()

    assert Simulation().run(work) == 1


def test_a_waiting_task_is_no_dead_letter():
    async def work(engine):
        task = await asked(engine)
        with pytest.raises(FixTheCall, match="is waiting"):
            await engine.redrive([task.id])
        assert await engine.dead_letters() == []
        assert [each.id for each in await engine.tasks(status="waiting")] == [task.id]

    Simulation().run(work)


def test_who_watches_is_told_what_is_waited_for_and_what_came():
    async def work(engine):
        task = await asked(engine)
        seen = []

        async def watch():
            async for event in task.events():
                seen.append((event.kind, event.step))
                if event.kind == "waiting":
                    seen[-1] += (event.value["name"], event.value["shown"])

        watching = asyncio.ensure_future(watch())
        await asyncio.sleep(1)
        await engine.answer(task.id, "yes", 2)
        await watching
        return seen

    told = Simulation().run(work)
    assert ("waiting", "yes", "yes", 1) in told
    assert told.index(("answered", "")) < told.index(("finished", "yes")) < told.index(("finished", "after"))


def test_a_large_answer_goes_to_the_blob_store():
    async def work(engine):
        task = await asked(engine)
        await engine.answer(task.id, "yes", "x" * 1_000_000)
        return len(await task.result()), len(sim.disk.blobs.blobs)

    sim = Simulation()
    assert sim.run(work) == (1_000_000, 1)


def test_waits_that_hold_nothing_do_not_count_against_the_bound_on_open_tasks():
    async def work(engine):
        tasks = [await asked(engine, Workflow("wait", Wait("yes")), n) for n in range(10)]
        status = (await engine.status()).workflows["wait"]
        assert (status.open, status.waiting, dict(status.users)) == (10, 10, {})
        return len(tasks)

    assert Simulation(max_open_tasks=3).run(work) == 10


def test_an_answer_that_ended_the_task_is_not_refused_when_it_is_repeated():
    async def work(engine):
        task = await asked(engine)
        first = await engine.answer(task.id, "yes", 1, id="x")
        await task.result()
        again = await engine.answer(task.id, "yes", 1, id="x")
        return first.at == again.at

    assert Simulation().run(work)
