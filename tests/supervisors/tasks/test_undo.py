"""What takes back the steps of a task that failed, or was cancelled."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import podium
from podium import Constant, Hierarchy, Parallel, Retry, Sequence, Step, Workflow, verdict
from podium.errors import InvalidDefinition, TaskCancelled, TaskFailed
from podium.testing import Simulation
from tests import sample
from tests.support.fold_play import Play, step

FAIL = "tests.sample:fail"
DONE: list[tuple[str, object]] = []


@podium.protocol(concurrency=10)
async def book(name):
    await asyncio.sleep(1)
    DONE.append(("book", name))
    return name


@podium.protocol(retry=Retry(attempts=3, initial_delay_s=1))
async def unbook(ctx, booked):
    await asyncio.sleep(1)
    if booked["output"] == "hard" and ctx.attempt < 3:
        raise ConnectionError("not yet")
    if booked["output"] == "stuck" and len(DONE) < 5:
        raise ValueError("not like that")
    DONE.append(("unbook", booked["output"]))


def booking(name, **settings):
    return Step(book, with_=f"'{name}'", undo=unbook, **settings)


def run(root, kill=None, after_s=None, simulation=None, cancel_after_s=None, **settings):
    """How the task ended, and what was done and taken back."""
    DONE.clear()
    simulation = simulation or Simulation()

    async def work(engine):
        task = await engine.submit(Workflow("w", root, **settings), "x")
        if kill is not None:
            await asyncio.sleep(after_s)
            simulation.kill(kill)
        if cancel_after_s is not None:
            await asyncio.sleep(cancel_after_s)
            assert await task.cancel() == "cancelled"
        with contextlib.suppress(TaskFailed, TaskCancelled):
            await task.result()
        return await task.read_status()

    return simulation.run(work), list(DONE)


def test_when_a_step_fails_for_good_what_was_done_is_taken_back_the_last_first():
    status, done = run(Sequence(booking("a"), booking("hard"), booking("c"), FAIL))
    assert status == "failed"
    assert done[:3] == [("book", name) for name in ("a", "hard", "c")]
    assert done[3:] == [("unbook", name) for name in ("c", "hard", "a")]


def test_the_failure_is_the_first_one_and_a_task_that_succeeds_takes_nothing_back():
    play = Play(Sequence(step("a", undo=sample.echo), step("b"))).done("a", 1).failed("b", "no")
    assert play.started == ["a:undo"] and play.task.status == "running"
    assert play.input_of("a:undo") == {"input": None, "output": 1}
    assert play.done("a:undo").failure.message == "no" and play.task.status == "failed"
    assert run(Sequence(booking("a"), booking("b"))) == ("completed", [("book", "a"), ("book", "b")])


@pytest.mark.parametrize("killed", ["supervisor/w", "supervisor/w/unbook-0", "coordinator"])
@pytest.mark.parametrize("after_s", [3.5, 4.5])
def test_a_crash_in_the_middle_goes_on_where_it_was(killed, after_s):
    status, done = run(Sequence(booking("a"), booking("b"), FAIL), killed, after_s)
    assert status == "failed"
    assert [name for what, name in dict.fromkeys(done) if what == "unbook"] == ["b", "a"]


def test_what_was_cancelled_is_taken_back_only_if_the_workflow_says_so():
    root = Sequence(booking("a"), booking("b"), "tests.sample:slow")
    assert run(root, cancel_after_s=1.5) == ("cancelled", [("book", "a")])
    status, done = run(root, cancel_after_s=1.5, undo_on_cancel=True)
    assert (status, done) == ("cancelled", [("book", "a"), ("unbook", "a")])


def test_a_task_that_is_late_takes_back_what_it_did_without_a_bound():
    slow = Step("tests.sample:slow", with_={"s": "100"})
    status, done = run(Sequence(booking("a"), booking("hard"), slow), timeout_s=5)
    assert status == "failed" and done[-2:] == [("unbook", "hard"), ("unbook", "a")]


def test_branches_that_were_done_are_taken_back_too():
    branches = Parallel({"a": booking("a"), "b": Sequence(booking("b"), FAIL)})
    _, done = run(Sequence(branches))
    assert sorted(done[2:]) == [("unbook", "a"), ("unbook", "b")]


def test_what_takes_a_group_back_stands_for_all_that_is_in_it():
    group = Sequence(booking("a"), booking("b"), name="both", undo=Step(unbook, with_={"output": "'both'"}))
    _, done = run(Sequence(group, booking("c"), FAIL))
    assert done[3:] == [("unbook", "c"), ("unbook", "both")]
    _, done = run(Sequence(Sequence(booking("a"), booking("b"), FAIL, undo=unbook)))
    assert done[2:] == [("unbook", "b"), ("unbook", "a")]


def test_a_nested_hierarchy_takes_itself_back_when_it_fails_and_its_undo_does_when_it_is_done():
    @podium.protocol
    async def strict(brief):
        if not brief["outcomes"]:
            return verdict.assign()
        return (
            verdict.fail("no")
            if any("error" in outcome for outcome in brief["outcomes"].values())
            else verdict.accept()
        )

    def team(**members):
        undo = Step(unbook, with_={"output": "'team'"})
        return Hierarchy(strict, team=members, name="team", undo=undo)

    _, done = run(Sequence(team(x=booking("a")), FAIL))
    assert done == [("book", "a"), ("unbook", "team")]
    _, done = run(Sequence(booking("z"), team(x=booking("a"), y=FAIL)))
    assert done == [("book", "z"), ("book", "a"), ("unbook", "a"), ("unbook", "z")]


def test_an_undo_that_fails_is_parked_and_goes_on_when_it_is_driven_again_or_dropped():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(booking("a"), booking("stuck"), FAIL)), "x")
        await asyncio.sleep(60)
        (letter,) = await engine.dead_letters()
        assert await task.read_status() == "parked" and letter.failure.step == "book_2:undo"
        await engine.redrive([letter.id])
        await asyncio.sleep(60)
        assert await task.read_status() == "parked"
        await engine.drop([letter.id])
        with pytest.raises(TaskFailed, match="cannot do stuck"):
            await task.result()

    DONE.clear()
    Simulation().run(work)
    assert DONE == [("book", "a"), ("book", "stuck"), ("unbook", "a")]


def test_a_task_that_was_taken_back_begins_anew_when_it_is_driven_again():
    keys = []

    @podium.protocol
    async def charge(ctx, input):
        keys.append(ctx.idempotency_key)

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(Step(charge, undo=sample.echo), FAIL)), "x")
        with pytest.raises(TaskFailed):
            await task.result()
        (again,) = await engine.redrive([task.id])
        with pytest.raises(TaskFailed):
            await again.result()
        assert keys == [f"{task.id}:charge", f"{again.id}:charge"]

    Simulation().run(work)


def test_what_stood_in_for_a_step_does_not_need_to_be_taken_back_by_its_undo():
    play = Play(Sequence(step("a", undo=sample.echo, otherwise=Constant(value=0)), step("b")))
    play.failed("a").failed("b")
    assert play.task.status == "failed"


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        (Sequence(Step(book, undo=Step(unbook, undo=unbook))), "what takes something back cannot be taken back"),
        (Sequence(Hierarchy(sample.lead, team={"x": booking("a")})), "has an `undo`, so it needs one itself"),
    ],
)
def test_what_is_wrong_with_an_undo_is_named(root, problem):
    with pytest.raises(InvalidDefinition, match=problem):
        Workflow("w", root)


# what a nested Hierarchy takes back when it is stopped


def stopped_in_its_undo(stuck=False, undo_s=30):
    """A workflow whose nested Hierarchy takes something back when the task is cancelled; what happened; a switch."""
    log, flags = [], {"stuck": stuck}

    @podium.protocol
    async def reserve(input):
        log.append("reserved")
        return "r"

    @podium.protocol
    async def release(input):
        log.append("releasing")
        await asyncio.sleep(undo_s)
        if flags["stuck"]:
            raise ValueError("not like that")
        log.append("released")

    work = Sequence(Step(reserve, undo=release), Step("tests.sample:slow", with_={"s": "9000"}))
    return Sequence(Hierarchy(sample.lead, team={"m": work}, name="team", undo=sample.echo)), log, flags


async def cancelled_while_it_runs(engine, root):
    task = await engine.submit(Workflow("w", root), 1)
    await asyncio.sleep(5)
    await task.cancel()
    return task


@pytest.mark.parametrize("victim", ["supervisor/w/team", "supervisor/w"])
def test_a_tier_goes_on_taking_back_after_a_crash(victim):
    root, log, _ = stopped_in_its_undo()

    async def work(engine):
        await cancelled_while_it_runs(engine, root)
        await asyncio.sleep(5)
        assert log == ["reserved", "releasing"]
        simulation.kill(victim)
        await asyncio.sleep(200)
        assert log[-1] == "released"

    simulation = Simulation()
    simulation.run(work)


@pytest.mark.parametrize("decide", ["redrive", "drop"])
def test_what_is_parked_in_a_tier_is_reached_when_its_task_has_ended(decide):
    root, log, flags = stopped_in_its_undo(stuck=True)

    async def work(engine):
        task = await cancelled_while_it_runs(engine, root)
        await asyncio.sleep(100)
        (letter,) = await engine.dead_letters()
        assert letter.id == f"{task.id}/team" and await task.read_status() == "cancelled"
        flags["stuck"] = False
        await getattr(engine, decide)([letter.id])
        await asyncio.sleep(100)
        assert await engine.dead_letters() == []
        assert ("released" in log) == (decide == "redrive")

    Simulation().run(work)


def test_a_task_is_not_forgotten_while_its_tier_takes_back():
    root, _, _ = stopped_in_its_undo(stuck=True)

    async def work(engine):
        task = await cancelled_while_it_runs(engine, root)
        done = await engine.submit(
            Workflow("w", root.model_copy(update={"sequence": (Step(sample.echo, name="e"),)})), 1
        )
        await done.result()
        await asyncio.sleep(2000)
        assert [left.id for left in await engine.tasks()] == [task.id]
        assert (await engine.status()).workflows["w"].restarts == 0

    Simulation(keep_finished_s=100).run(work)


def test_a_task_that_continues_another_waits_until_that_has_taken_back():
    root, log, _ = stopped_in_its_undo(undo_s=60)
    switch = {"broken": True}

    @podium.protocol
    async def beside(input):
        await asyncio.sleep(8)
        if switch["broken"]:
            raise ConnectionError("no")

    async def work(engine):
        task = await engine.submit(Workflow("w", Parallel({"t": root, "b": beside})), 1)
        with pytest.raises(TaskFailed):
            await task.result()
        switch["broken"] = False
        await engine.redrive([task.id])
        await asyncio.sleep(300)
        assert log == ["reserved", "releasing", "released", "reserved"]

    Simulation().run(work)


def test_an_undo_whose_input_cannot_be_made_is_made_again():
    undo = Step(sample.echo, with_="input.output.nope")
    play = Play(Sequence(step("a", undo=undo), step("b"))).done("a", {"x": 1}).failed("b")
    assert list(play.task.parked) == ["a:undo"]
    play.redriven()
    assert play.task.parked["a:undo"].parked.code == "expression" and not play.task.running


def test_a_late_task_that_takes_back_is_late_only_once():
    async def work(engine):
        slow = Step("tests.sample:slow", with_={"s": "500"})
        root = Sequence(Step(sample.echo, undo="tests.sample:fail"), slow)
        task = await engine.submit(Workflow("w", root), 1, timeout_s=20)
        await asyncio.sleep(60)
        for _ in range(3):
            simulation.kill("supervisor/w")
            await asyncio.sleep(20)
        await engine.drop([task.id])
        return [event.kind async for event in task.events()].count("timed_out")

    simulation = Simulation()
    assert simulation.run(work) == 1


# when the task is cancelled


SLOW = Step("tests.sample:slow", with_={"s": "100"})


@podium.protocol
async def tell(booked):
    DONE.append(("told", booked["output"]))


@pytest.mark.parametrize(
    "undo_on_cancel, done",
    [
        (False, [("told", "c"), ("told", "a")]),
        (True, [("told", "c"), ("unbook", "b"), ("told", "a")]),
    ],
)
def test_on_cancel_runs_in_place_of_the_undo_whatever_the_workflow_says(undo_on_cancel, done):
    steps = [booking("a", on_cancel=tell), booking("b"), Step(book, with_="'c'", on_cancel=tell)]
    root = Sequence(*steps, SLOW)
    ended = run(root, cancel_after_s=3.5, undo_on_cancel=undo_on_cancel)
    assert (ended[0], ended[1][3:]) == ("cancelled", done)


def test_a_task_that_fails_or_succeeds_runs_no_on_cancel():
    root = Sequence(booking("a", on_cancel=tell), Step(book, with_="'b'", on_cancel=tell))
    assert run(root) == ("completed", [("book", "a"), ("book", "b")])
    status, done = run(Sequence(root, FAIL))
    assert (status, done[2:]) == ("failed", [("unbook", "a")])
    status, done = run(Sequence(root, SLOW), timeout_s=5)
    assert (status, done[2:]) == ("failed", [("unbook", "a")])


def test_what_had_not_succeeded_when_the_task_was_cancelled_is_not_told():
    status, done = run(Sequence(booking("a", on_cancel=tell), booking("b")), cancel_after_s=0.5)
    assert (status, [each for each in done if each[0] == "told"]) == ("cancelled", [])


@pytest.mark.parametrize("killed", ["supervisor/w", "supervisor/w/tell-0", "coordinator"])
def test_a_crash_while_cancelled_work_is_told_goes_on_where_it_was(killed):
    simulation = Simulation()
    root = Sequence(booking("a", on_cancel=Step(tell_slowly)), booking("b", on_cancel=tell), SLOW)

    async def work(engine):
        task = await engine.submit(Workflow("w", root), "x")
        await asyncio.sleep(2.5)
        await task.cancel()
        await asyncio.sleep(0.5)
        simulation.kill(killed)
        with pytest.raises(TaskCancelled):
            await task.result()
        return await task.read_status()

    DONE.clear()
    assert simulation.run(work) == "cancelled"
    assert list(dict.fromkeys(DONE))[2:] == [("told", "b"), ("told slowly", "a")]


@podium.protocol
async def tell_slowly(booked):
    await asyncio.sleep(2)
    DONE.append(("told slowly", booked["output"]))


def test_an_undo_of_a_group_stands_for_what_is_told_in_it_too():
    group = Sequence(Step(book, with_="'a'", on_cancel=tell), name="g", undo=Step(unbook, with_={"output": "'g'"}))
    _, done = run(Sequence(group, SLOW), cancel_after_s=1.5, undo_on_cancel=True)
    assert done == [("book", "a"), ("unbook", "g")]


def test_on_cancel_is_checked_as_an_undo_is():
    with pytest.raises(InvalidDefinition, match=r"root\.on_cancel\.undo: what takes something back cannot be"):
        Workflow("w", Step(book, on_cancel=Step(tell, undo=tell)))
    with pytest.raises(InvalidDefinition, match=r"root\.undo\.on_cancel: what takes something back"):
        Workflow("w", Step(book, undo=Step(tell, on_cancel=tell)))
    with pytest.raises(InvalidDefinition, match="the input of an undo has the fields input and output, no 'ouptut'"):
        Workflow("w", Step(book, on_cancel=Step(tell, with_="input.ouptut")))
    inner = Hierarchy(tell, team={"a": Step(book, on_cancel=tell)}, name="team")
    with pytest.raises(InvalidDefinition, match=r"root.sequence\[0\].team.a.on_cancel: a nested Hierarchy is"):
        Workflow("w", Sequence(inner))
    Workflow("w", Hierarchy(tell, team={"a": Step(book, on_cancel=tell)}))
