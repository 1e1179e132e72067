"""Tasks that are set aside: in nested Hierarchies, parked, over restarts, of versions that are gone."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.errors import FixTheCall, TaskFailed
from podium.supervisors import versions
from podium.supervisors.admission import accepting
from podium.supervisors.messages.client import Submission
from podium.supervisors.running.dispatch import Dispatcher
from podium.supervisors.upkeep import takeover
from tests.support.cells import cell_flow, last, lead
from tests.support.planted import FLOW, Died, Planted, is_bad, run


def break_folding_of(monkeypatch, is_bad):
    asis = takeover.Takeover._folded

    def planted(self, found):
        if is_bad(found):
            raise Planted("cannot be read")
        return asis(self, found)

    monkeypatch.setattr(takeover.Takeover, "_folded", planted)


@podium.protocol(concurrency=10)
async def slow(x):
    await asyncio.sleep(3)
    return x


NESTED = Workflow("w", Sequence(Step(last), Hierarchy(lead, team={"m": slow}, name="h")))


def test_a_run_of_a_nested_hierarchy_that_is_set_aside_waits_and_goes_on(monkeypatch):
    async def work(engine, simulation):
        task = await engine.submit(NESTED, 1)
        await asyncio.sleep(1.5)
        break_folding_of(monkeypatch, lambda found: "/" in found.record.task_id)
        simulation.kill("supervisor/w/h")
        await asyncio.sleep(20)
        assert await task.read_status() == "running"
        other = await engine.submit(NESTED, 2)
        assert await other.result(timeout_s=60) == 2
        monkeypatch.undo()
        letters = [letter.record.task_id for letter in await engine.dead_letters()]
        assert letters == [f"{task.id}/h"]
        await engine.redrive(letters)
        return await task.result(timeout_s=60)

    assert run(work, "cannot be read") == 1


@pytest.mark.parametrize("dead", ["supervisor/w", "supervisor/w/h"])
def test_a_run_of_a_nested_hierarchy_that_is_set_aside_is_cancelled_with_its_task(monkeypatch, dead):
    async def work(engine, simulation):
        task = await engine.submit(NESTED, 1)
        await asyncio.sleep(1.5)
        break_folding_of(monkeypatch, lambda found: "/" in found.record.task_id)
        simulation.kill("supervisor/w/h")
        await asyncio.sleep(20)
        simulation.kill(dead)
        await asyncio.sleep(20 if dead == "supervisor/w" else 0.01)
        assert await task.cancel() == "cancelled"
        await asyncio.sleep(20)
        assert await engine.dead_letters() == []

    run(work, "cannot be read")


def test_one_that_is_still_stalled_after_a_restart_says_so(monkeypatch):
    async def work(engine, simulation):
        task = await engine.submit(Workflow("w", Sequence(slow, slow)), 1)
        await asyncio.sleep(1.5)
        break_folding_of(monkeypatch, lambda found: True)
        simulation.kill("supervisor/w")
        await asyncio.sleep(20)
        simulation.kill("supervisor/w")
        await asyncio.sleep(20)
        with pytest.raises(FixTheCall):
            await engine.redrive([task.id])
        await asyncio.sleep(1)
        assert await task.read_status() == "stalled"
        monkeypatch.undo()
        await engine.redrive([task.id])
        assert await task.read_status() == "running"
        return await task.result(timeout_s=60)

    assert run(work, "cannot be read", "cannot be read") == 1


def test_a_parked_task_that_was_set_aside_is_parked_again(monkeypatch):
    async def work(engine, simulation):
        parks = {"on_error": {"dependency": ["park"]}}
        task = await engine.submit(
            Workflow("w", Sequence(Step("tests.supervisors.upkeep.test_set_aside:down", **parks))), 1
        )
        await asyncio.sleep(10)
        assert await task.read_status() == "parked"
        break_folding_of(monkeypatch, lambda found: True)
        simulation.kill("supervisor/w")
        await asyncio.sleep(20)
        assert await task.read_status() == "stalled"
        monkeypatch.undo()
        await engine.redrive([task.id])
        await asyncio.sleep(1)
        assert await task.read_status() == "parked"

    run(work, "cannot be read")


@podium.protocol
async def down(x):
    raise ConnectionError("down")


def test_a_task_that_went_on_with_a_version_that_is_gone_is_set_aside_and_no_other(monkeypatch):
    asis = versions.Versions._planned

    async def work(engine, simulation):
        parks = {"on_error": {"dependency": ["park"]}}
        task = await engine.submit(cell_flow("raise ConnectionError('down')", **parks), 1)
        await asyncio.sleep(10)
        good = await engine.submit(Workflow("w", Sequence(slow, name="other")), 2)
        mended = cell_flow("return ['mended', x]", **parks)
        unreadable = definition_of(mended)["hash"]
        await engine.deploy(mended)
        await engine.redrive([task.id])
        await asyncio.sleep(1)

        def planted(self, definition):
            if definition["hash"] == unreadable:
                raise Planted("no such version")
            return asis(self, definition)

        monkeypatch.setattr(versions.Versions, "_planned", planted)
        simulation.kill("supervisor/w")
        assert await good.result(timeout_s=60) == 2
        assert await task.read_status() == "stalled"
        monkeypatch.undo()
        simulation.kill("supervisor/w")
        await asyncio.sleep(30)
        await engine.redrive([task.id])
        return await task.result(timeout_s=200)

    missing = "task t-01hg5r0cg0h6hrme8kzawexgzy went on with a version that is not there"
    assert run(work, "no such version", "no such version", missing) == ["mended", 1]


def test_a_run_of_a_nested_hierarchy_at_which_two_supervisors_died_fails_its_task_and_no_other(monkeypatch):
    asis = accepting.Accepting._opened

    async def work(engine, simulation):
        def planted(self, plan, submission):
            if "/" in submission.record.task_id and submission.record.input == 1:
                simulation.kill("supervisor/w/h")
                raise Died
            return asis(self, plan, submission)

        monkeypatch.setattr(accepting.Accepting, "_opened", planted)
        bad = await engine.submit(NESTED, 1)
        await asyncio.sleep(60)
        good = await engine.submit(NESTED, 2)
        assert await good.result(timeout_s=60) == 2
        with pytest.raises(TaskFailed, match="2 supervisors in a row died") as failed:
            await bad.result(timeout_s=60)
        assert simulation.killed == ["supervisor/w/h"] * 2
        return failed.value.cause_code

    assert run(work, "", "") == "stalled"


def test_a_stalled_task_that_is_submitted_again_is_known(monkeypatch):
    async def work(engine, simulation):
        task = await engine.submit(Workflow("w", Sequence(slow, slow)), 1)
        await asyncio.sleep(1.5)
        break_folding_of(monkeypatch, lambda found: True)
        simulation.kill("supervisor/w")
        await asyncio.sleep(20)
        again = Submission(task.id, 1, "sim", 0, None, True, "driver", "critical", None)
        flow = Workflow("w", Sequence(slow, slow))
        ids, _ = engine._core.submit("w", 1, definition_of(flow)["hash"], [again])
        assert await asyncio.wrap_future(ids) == [task.id]
        assert await task.cancel() == "cancelled"

    run(work, "cannot be read")


def test_a_task_at_whose_step_two_supervisors_died_when_it_was_to_run_is_set_aside(monkeypatch):
    asis = Dispatcher._run_now

    async def work(engine, simulation):
        def planted(self, plan, task, place, recovered):
            if is_bad(task):
                simulation.kill("supervisor/w")
                raise Died
            asis(self, plan, task, place, recovered)

        monkeypatch.setattr(Dispatcher, "_run_now", planted)
        bad = await engine.submit(FLOW, {"bad": 1})
        good = await engine.submit(FLOW, 1)
        assert await good.result(timeout_s=100) == 1
        assert await bad.read_status() == "stalled"
        assert simulation.killed == ["supervisor/w"] * 2

    run(work, "")


def test_a_supervisor_that_has_only_stalled_tasks_stays_and_says_so(monkeypatch):
    async def work(engine, simulation):
        task = await engine.submit(Workflow("w", Sequence(slow, slow)), 1)
        await asyncio.sleep(1.5)
        break_folding_of(monkeypatch, lambda found: True)
        simulation.kill("supervisor/w")
        await asyncio.sleep(10)
        before = await engine.status()
        await asyncio.sleep(2_000)
        status = await engine.status()
        assert status.workflows["w"].epoch == before.workflows["w"].epoch
        assert list(status.workflows["w"].stalled) == [task.id]
        assert [alert.name for alert in status.alerts] == ["stalled"]

    run(work, "cannot be read")
