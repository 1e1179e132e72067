"""One task's data, or a fault of ours that it meets, stops nothing but its own step; what cannot go on is set aside.

Each test plants a fault where there is none, in the middle of the engine.
"""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.errors import FixTheCall, InvalidInput, TaskCancelled, TaskFailed
from podium.supervisors import open_tasks
from podium.supervisors.running.dispatch import Dispatcher
from podium.supervisors.tasks import folding
from podium.supervisors.upkeep import takeover
from podium.supervisors.watching.watchers import Watchers
from tests.support.planted import FLOW, Died, Planted, echo, is_bad, run


async def good_bad_good(engine, flow=FLOW):
    """What becomes of a bad task, between two that complete."""
    tasks = await engine.submit_many(flow, [1, {"bad": 1}, 2])
    await tasks[0].result(timeout_s=30)
    await tasks[2].result(timeout_s=30)
    with pytest.raises(TaskFailed) as failed:
        await tasks[1].result(timeout_s=30)
    return failed.value


@pytest.mark.parametrize(
    "owner, name, where",
    [
        (folding.Folding, "succeeded", "fold"),
        (folding.Folding, "stand_in", "fold"),
        (folding.Folding, "perform", "opening"),
        (open_tasks, "entry_of", "entry"),
        (Dispatcher, "_run_now", "sending"),
    ],
    ids=["a run has ended", "what stands in", "what is opened", "recording", "sending"],
)
def test_a_fault_of_ours_fails_the_task_that_it_hits_and_no_other(monkeypatch, owner, name, where):
    asis = getattr(owner, name)
    struck = []

    def planted(*args, **kwargs):
        task = next(a.task if hasattr(a, "task") else a for a in args if hasattr(a, "task") or hasattr(a, "record"))
        if is_bad(task) and not struck:
            struck.append(where)
            raise Planted(where)
        return asis(*args, **kwargs)

    monkeypatch.setattr(owner, name, planted)

    async def work(engine, _simulation):
        failed = await good_bad_good(engine) if name != "stand_in" else await good_bad_good(engine, FAILS_IF_BAD)
        assert failed.cause_code == "internal"
        assert "a fault of Podium's: Planted" in str(failed)
        assert "Planted" in failed.cause_traceback
        status = await engine.status()
        assert status.workflows["w"].faults == 1
        assert status.workflows["w"].stalled == {}

    run(work, where)


@podium.protocol(concurrency=10)
async def picky(input):
    if isinstance(input, dict):
        raise ValueError("no")
    return input


FAILS_IF_BAD = Workflow("w", Sequence(Step(picky, fallback=Step(echo))))


def test_a_fault_below_a_node_with_a_fallback_is_stood_in_for(monkeypatch):
    asis = folding.Folding.succeeded

    def planted(self, place):
        if place.path == "broken/a":
            raise Planted("once")
        asis(self, place)

    monkeypatch.setattr(folding.Folding, "succeeded", planted)
    flow = Workflow(
        "w", Sequence(Sequence(Step(echo, name="a"), name="broken", fallback=Step(echo, with_="error.code")))
    )

    async def work(engine, _simulation):
        return await (await engine.submit(flow, 1)).result(timeout_s=30)

    assert run(work, "once") == "internal"


def test_watchers_that_break_stop_no_task(monkeypatch):
    def planted(*_args):
        raise Planted("told")

    monkeypatch.setattr(Watchers, "ended", planted)

    async def work(engine, _simulation):
        task = await engine.submit(FLOW, 1)
        await asyncio.sleep(10)
        return (await task.read_record()).status

    assert run(work, "told") == "completed"


def test_a_result_that_is_joined_of_many_and_too_large_is_refused_as_any_other():
    large = Workflow("w", Parallel(each="input", do="tests.supervisors.test_boundaries:long"))

    async def work(engine, _simulation):
        with pytest.raises(TaskFailed, match=r"the result has [0-9]+ bytes packed, the limit is 1024") as failed:
            await (await engine.submit(large, [400] * 3)).result(timeout_s=30)
        assert failed.value.cause_code == "invalid_output"
        return await (await engine.submit(large, [300] * 2)).result(timeout_s=30)

    assert run(work, max_value_bytes=1024) == ["x" * 300] * 2


@podium.protocol(concurrency=10)
async def long(input):
    return "x" * input


# what cannot be folded


def break_folding(monkeypatch):
    asis = takeover.Takeover._folded

    def planted(self, found):
        if isinstance(found.record.input, dict):
            raise Planted("cannot be read")
        return asis(self, found)

    monkeypatch.setattr(takeover.Takeover, "_folded", planted)


async def stalled_task(engine, simulation, monkeypatch):
    """A task that is set aside, beside one that goes on."""
    bad, good = await engine.submit(FLOW, {"bad": 1}), await engine.submit(FLOW, 1)
    break_folding(monkeypatch)
    await asyncio.sleep(1.5)
    simulation.kill("supervisor/w")
    assert await good.result(timeout_s=60) == 1
    assert await bad.read_status() == "stalled"
    status = (await engine.status()).workflows["w"]
    assert list(status.stalled) == [bad.id]
    assert "cannot be folded: a fault of Podium's: Planted: cannot be read" in status.stalled[bad.id]
    assert [letter.record.task_id for letter in await engine.dead_letters()] == [bad.id]
    return bad


def test_what_cannot_be_folded_is_set_aside_and_goes_on_when_it_can_again(monkeypatch):
    async def work(engine, simulation):
        bad = await stalled_task(engine, simulation, monkeypatch)
        with pytest.raises(FixTheCall, match="is still stalled: its journal cannot be folded"):
            await engine.redrive([bad.id])
        monkeypatch.undo()
        (again,) = await engine.redrive([bad.id])
        assert again.id == bad.id
        assert await bad.result(timeout_s=60) == {"bad": 1}
        assert (await engine.status()).workflows["w"].stalled == {}
        assert await engine.dead_letters() == []

    run(work, "cannot be read", "cannot be read")


def test_what_is_set_aside_stays_so_over_restarts_and_can_be_dropped(monkeypatch):
    async def work(engine, simulation):
        bad = await stalled_task(engine, simulation, monkeypatch)
        monkeypatch.undo()
        simulation.kill("supervisor/w")
        await asyncio.sleep(30)
        assert await bad.read_status() == "stalled"
        await engine.drop([bad.id])
        with pytest.raises(TaskFailed, match="cannot be read") as failed:
            await bad.result(timeout_s=60)
        assert failed.value.cause_code == "stalled"
        assert await engine.dead_letters() == []

    run(work, "cannot be read")


def test_what_is_set_aside_can_be_cancelled_and_who_waits_for_it_is_told(monkeypatch):
    async def work(engine, simulation):
        bad = await stalled_task(engine, simulation, monkeypatch)
        waiting = asyncio.get_running_loop().create_task(bad.result(timeout_s=60))
        await asyncio.sleep(1)
        assert await bad.cancel() == "cancelled"
        with pytest.raises(TaskCancelled):
            await waiting
        assert await bad.read_status() == "cancelled"

    run(work, "cannot be read")


def test_a_task_at_which_two_supervisors_died_is_set_aside(monkeypatch):
    asis = folding.Folding.succeeded

    async def work(engine, simulation):
        def planted(self, place):
            if is_bad(self.task):
                simulation.kill("supervisor/w")
                raise Died
            asis(self, place)

        monkeypatch.setattr(folding.Folding, "succeeded", planted)
        bad = await engine.submit(FLOW, {"bad": 1})
        good = await engine.submit(FLOW, 1)
        assert await good.result(timeout_s=100) == 1
        await asyncio.sleep(20)
        assert await bad.read_status() == "stalled"
        reason = (await engine.status()).workflows["w"].stalled[bad.id]
        assert reason == "2 supervisors in a row died while they worked on it, after its entry 0"
        assert simulation.killed == ["supervisor/w"] * 2
        monkeypatch.undo()
        await engine.redrive([bad.id])
        assert await bad.result(timeout_s=60) == {"bad": 1}

    run(work)


def test_a_submission_at_which_two_supervisors_died_is_refused(monkeypatch):
    asis = folding.Folding.open

    async def work(engine, simulation):
        def planted(self, place, input):
            if is_bad(self.task):
                simulation.kill("supervisor/w")
                raise Died
            asis(self, place, input)

        monkeypatch.setattr(folding.Folding, "open", planted)
        with pytest.raises(FixTheCall, match="is not accepted: 2 supervisors in a row died"):
            await engine.submit(FLOW, {"bad": 1})
        return await (await engine.submit(FLOW, 1)).result(timeout_s=60)

    assert run(work, "", "") == 1


# stalls


def test_a_step_that_is_nowhere_is_noticed(monkeypatch):
    asis = Dispatcher.run

    def planted(self, plan, task, place, recovered=False):
        if not is_bad(task):
            asis(self, plan, task, place, recovered)

    monkeypatch.setattr(Dispatcher, "run", planted)

    async def work(engine, simulation):
        bad, good = await engine.submit(FLOW, {"bad": 1}), await engine.submit(FLOW, 1)
        assert await good.result(timeout_s=60) == 1
        await asyncio.sleep(30)
        problem = "step 'a' counts as running, and is nowhere"
        assert (await engine.status()).workflows["w"].stalled == {bad.id: problem}
        said, simulation.loop.uncaught[:] = [str(error) for error in simulation.loop.uncaught], []
        assert said == [f"task {bad.id} stalls: {problem}"]
        assert await bad.cancel() == "cancelled"
        await asyncio.sleep(10)
        assert (await engine.status()).workflows["w"].stalled == {}

    run(work)


def test_what_only_waits_does_not_stall():
    flow = Workflow("w", Sequence(Step(echo), Step("tests.supervisors.test_boundaries:hour")))

    async def work(engine, _simulation):
        tasks = await engine.submit_many(flow, [1, 2, 3])
        await asyncio.sleep(600)
        assert (await engine.status()).workflows["w"].stalled == {}
        return [await task.result() for task in tasks]

    assert run(work) == [1, 2, 3]


@podium.protocol(concurrency=1)
async def hour(input):
    await asyncio.sleep(3_600)
    return input


# at the door


@pytest.mark.parametrize(
    "priority", [2**63, -(2**63) - 1, 2**53 + 1, 1.0, True, "1", None, 10**400], ids=lambda value: str(value)[:9]
)
def test_priorities_that_fit_nowhere_are_refused_where_they_are_given(priority):
    async def work(engine, _simulation):
        with pytest.raises(InvalidInput, match="priority"):
            await engine.submit(FLOW, 1, priority=priority)

    run(work)


@pytest.mark.parametrize(
    "seconds", [0, -1, float("nan"), float("inf"), 1e11, "5", True, 10**400], ids=lambda value: str(value)[:9]
)
def test_times_that_are_none_are_refused_where_they_are_given(seconds):
    async def work(engine, _simulation):
        with pytest.raises(InvalidInput, match="timeout_s"):
            await engine.submit(FLOW, 1, timeout_s=seconds)

    run(work)


def test_a_user_that_is_nobody_is_refused():
    async def work(engine, _simulation):
        with pytest.raises(InvalidInput, match="user: an empty text is nobody"):
            await engine.submit(FLOW, 1, user="")

    run(work)
