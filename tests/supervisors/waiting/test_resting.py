"""Tasks that rest: on disk, out of memory, without a process, and awake when their time has come."""

from __future__ import annotations

import asyncio

import pytest

from podium import Parallel, Sequence, Sleep, Step, Wait, Workflow
from podium.errors import EngineClosed, TaskCancelled, TaskFailed
from podium.testing import Faults, Simulation
from tests import sample
from tests.support.waits import asked, until

ASK = Workflow("ask", Sequence(Wait("yes", show="input"), Step(sample.echo)))
NAP = Workflow("nap", Sequence(Step(sample.echo), Sleep(for_s="input.s"), Step(sample.echo, name="after")))


def supervisor(sim, name):
    return sim.cluster.alive(f"supervisor/{name}").actor


def hang_up(engine):
    """Follow no task any more, as a client that has gone."""
    for link in list(engine.core._links.values()):
        link.close(EngineClosed())
    engine.core._links.clear()


def in_memory(sim, name):
    return set(supervisor(sim, name)._open_tasks.tasks)


def test_only_so_many_tasks_that_wait_stay_in_memory():
    async def work(engine):
        tasks = [await asked(engine, ASK, n) for n in range(20)]
        await until(lambda: len(in_memory(sim, "ask")) <= 5)
        status = (await engine.status()).workflows["ask"]
        assert (status.open, status.waiting) == (20, 20)
        for n, task in enumerate(tasks):
            await engine.answer(task.id, "yes", n)
        return [await task.result() for task in tasks]

    sim = Simulation(max_waiting_in_memory=5)
    assert sim.run(work) == list(range(20))


def test_a_new_supervisor_reads_no_task_that_rests():
    async def work(engine):
        tasks = [await asked(engine, ASK, n) for n in range(10)]
        sim.kill("supervisor/ask")
        await engine.status()
        await asyncio.sleep(30)
        assert in_memory(sim, "ask") == set()
        await engine.answer(tasks[3].id, "yes", 3)
        assert await tasks[3].result() == 3
        status = (await engine.status()).workflows["ask"]
        return status.open, status.waiting

    sim = Simulation()
    assert sim.run(work) == (9, 9)


@pytest.mark.parametrize("most", [0, 100])
def test_tasks_that_sleep_are_awake_in_time_and_not_before(most):
    spans = [1, 3, 20, 20, 20, 60, 3600, 86_400]

    async def work(engine):
        began = sim.loop.time()
        tasks = [await engine.submit(NAP, {"s": s}) for s in spans]
        sim.kill("supervisor/nap")
        took = []
        for task in tasks:
            await task.result()
            took.append(sim.loop.time() - began)
        return took

    sim = Simulation(max_waiting_in_memory=most)
    for took, span in zip(sim.run(work), spans, strict=True):
        assert span - 0.001 <= took <= span + 2


def test_a_task_that_was_due_while_everything_was_down_is_woken_at_once_and_once():
    async def work(engine):
        task = await engine.submit(NAP, {"s": 100})
        await asyncio.sleep(5)
        sim.kill_all()
        sim.freeze("coordinator", 1000) if sim.cluster.alive("coordinator") else None
        await task.result()
        return [event.kind async for event in task.events()].count("woke")

    sim = Simulation()
    assert sim.run(work, within_s=1e6) == 1


@pytest.mark.parametrize("most", [0, 100])
@pytest.mark.parametrize("by_s", [5_000.0, -5_000.0])
def test_setting_the_clock_moves_moments_and_leaves_durations(most, by_s):
    """A sleep of 8,000 s takes 8,000 s; one until a moment of the clock ends at that moment."""

    async def work(engine):
        began = sim.loop.time()
        now = engine.core._session.world.now()
        relative = await engine.submit(NAP, {"s": 8_000})
        moment = Workflow("moment", Sequence(Step(sample.echo), Sleep(until="input.at")))
        absolute = await engine.submit(moment, {"at": now + 8_000})
        bound = await engine.submit(Workflow("bound", Wait("yes", timeout_s=8_000)), None)
        await asyncio.sleep(100)
        sim.clock_offset_s = by_s
        ends = {}

        async def end(name, task):
            try:
                await task.result()
            except TaskFailed as error:
                assert error.cause_code == "timeout"
            ends[name] = sim.loop.time() - began

        await asyncio.gather(end("relative", relative), end("absolute", absolute), end("bound", bound))
        return ends

    sim = Simulation(max_waiting_in_memory=most)
    ends = sim.run(work)
    assert 7_999.9 <= ends["relative"] <= 8_010
    assert 7_999.9 <= ends["bound"] <= 8_010
    assert 8_000 - by_s - 0.001 <= ends["absolute"] <= 8_000 - by_s + 10


def test_a_task_that_rests_is_cancelled_watched_and_followed_like_any_other():
    async def work(engine):
        first, second, third = [await asked(engine, ASK, n) for n in range(3)]
        await until(lambda: not in_memory(sim, "ask"))
        assert await first.cancel() == "cancelled"
        looked_up = await engine.task(second.id)
        seen = []

        async def watch():
            async for event in looked_up.events():
                seen.append(event.kind)

        watching = asyncio.ensure_future(watch())
        await asyncio.sleep(1)
        follow = asyncio.ensure_future((await engine.task(third.id)).result())
        await asyncio.sleep(1)
        await engine.answer(second.id, "yes", 2)
        await engine.answer(third.id, "yes", 3)
        await watching
        with pytest.raises(TaskCancelled):
            await first.result()
        return await follow, seen

    sim = Simulation(max_waiting_in_memory=0)
    result, seen = sim.run(work)
    assert result == 3
    assert seen[:2] == ["accepted", "waiting"] and seen[-1] == "completed"


def test_tasks_that_wait_need_no_process_and_an_answer_starts_their_workflow_again():
    async def work(engine):
        task = await asked(engine)
        hang_up(engine)
        await asyncio.sleep(1_000)
        idle = [address for address in sim.cluster.addresses() if "/ask" in address]
        await engine.answer(task.id, "yes", 7)
        return idle, await (await engine.task(task.id)).result()

    sim = Simulation()
    idle, result = sim.run(work)
    assert (idle, result) == ([], 7)


def test_a_workflow_without_a_process_is_there_when_its_tasks_are_due():
    async def work(engine):
        began = sim.loop.time()
        task = await engine.submit(NAP, {"s": 50_000})
        hang_up(engine)
        await asyncio.sleep(3_000)
        idle = [address for address in sim.cluster.addresses() if "/nap" in address]
        sim.kill("coordinator")
        await asyncio.sleep(1_000)
        still_idle = [address for address in sim.cluster.addresses() if "/nap" in address]
        await until(lambda: engine.core.reader.find_task(task.id).record.status == "completed")
        return idle, still_idle, sim.loop.time() - began

    sim = Simulation()
    idle, still_idle, took = sim.run(work)
    assert (idle, still_idle) == ([], [])
    assert 49_999.9 <= took <= 50_002


def test_a_workflow_that_is_down_and_is_to_fail_fails_the_tasks_that_wait_too():
    flow = Workflow("down", Parallel({"a": Wait("yes"), "b": Sleep(for_s=1e6)}), when_down="fail")

    async def work(engine):
        tasks = [await asked(engine, flow, n) for n in range(5)]
        for _ in range(6):
            if sim.cluster.alive("supervisor/down"):
                sim.kill("supervisor/down")
            await asyncio.sleep(2)
        codes = []
        for task in tasks:
            with pytest.raises(TaskFailed) as failed:
                await task.result()
            codes.append(failed.value.cause_code)
        return codes

    sim = Simulation(max_waiting_in_memory=0, top_restart_intensity=3)
    assert sim.run(work) == ["workflow_down"] * 5


def test_the_time_limit_of_a_task_that_rests_holds():
    async def work(engine):
        began = sim.loop.time()
        task = await engine.submit(ASK, 1, timeout_s=5_000)
        with pytest.raises(TaskFailed, match="had not ended after 5000 s"):
            await task.result()
        return sim.loop.time() - began

    sim = Simulation(max_waiting_in_memory=0)
    assert 4_999.9 <= sim.run(work) <= 5_001


def test_many_tasks_that_are_due_in_the_same_second_all_run():
    async def work(engine):
        tasks = await engine.submit_many(NAP, [{"s": 500}] * 3_000)
        await until(lambda: not in_memory(sim, "nap"))
        results = [await task.result() for task in tasks]
        return len(results)

    sim = Simulation(faults=Faults(), max_waiting_in_memory=0)
    assert sim.run(work) == 3_000


def test_a_task_that_goes_on_after_its_rest_is_taken_over_with_the_others():
    flow = Workflow("goes_on", Sequence(Wait("yes"), Step(sample.wide, with_={"s": "50", "n": "1"})))

    async def work(engine):
        task = await asked(engine, flow)
        await engine.answer(task.id, "yes", 1)
        await asyncio.sleep(5)
        sim.kill_all()
        return await task.result(timeout_s=200)

    sim = Simulation()
    assert sim.run(work) == {"n": 2}
