"""What cannot go on says why, wherever somebody looks: to who waits or submits, in show, status and doctor."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import pytest

from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.client.link import Batch, Link
from podium.cluster.doctor.checks import examine
from podium.cluster.doctor.running import findings_of
from podium.cluster.simulation.cluster import SimulatedWorld
from podium.cluster.store.sqlite.reading import FileReader
from podium.errors import JournalCorrupt, JournalFailed, Overloaded, SpawnFailed, WaitTimedOut
from podium.supervisors.messages.client import Ack, Submission
from podium.supervisors.tasks.history import note_blocked, step_rows
from podium.testing import Simulation
from tests import sample
from tests.support import ROOT


@pytest.fixture
def missing(monkeypatch):
    """References that hosts cannot load."""
    refs = set()
    loaded = SimulatedWorld.load_protocol

    def load_protocol(world, ref, code, search_path):
        if ref in refs:
            raise LookupError(f"module 'flow' has no '{ref.partition(':')[2]}'")
        return loaded(world, ref, code, search_path)

    monkeypatch.setattr(SimulatedWorld, "load_protocol", load_protocol)
    return refs


WORKFLOW = Workflow("w", Step(sample.wide))
FULL = r"workflow 'w' does not start: journal of shard 'w' cannot write: disk full"


@pytest.mark.parametrize("reconnect_s", [20.0, 60.0])
def test_new_tasks_of_a_workflow_that_cannot_start_are_refused_in_bounded_time(unreadable, reconnect_s):
    async def work(engine):
        loop = asyncio.get_running_loop()
        unreadable["w"] = JournalFailed(shard="w", reason="disk full")
        for attempt in (engine.deploy(WORKFLOW), engine.submit(WORKFLOW, {"n": 1})):
            began_at = loop.time()
            with pytest.raises(Overloaded, match=FULL):
                await attempt
            assert reconnect_s <= loop.time() - began_at <= reconnect_s + 5
        unreadable.clear()
        return await (await engine.submit(WORKFLOW, {"n": 1})).result()

    assert Simulation(reconnect_s=reconnect_s).run(work) == {"n": 2}


def test_once_deployed_they_are_refused_too_and_accepted_ones_wait_and_say_why(unreadable):
    async def work(engine):
        task = await engine.submit(WORKFLOW, {"n": 1, "s": 50})
        unreadable["w"] = JournalFailed(shard="w", reason="disk full")
        sim.kill("supervisor/w")
        await asyncio.sleep(5)
        with pytest.raises(WaitTimedOut, match=f"goes on when this is mended: {FULL}") as caught:
            await task.result(timeout_s=10)
        assert re.match(FULL, caught.value.reason)
        submitting = [engine.submit(WORKFLOW, {"n": n}, key=f"k{n}") for n in range(3)]
        refused = await asyncio.gather(*submitting, return_exceptions=True)
        assert [type(error) for error in refused] == [Overloaded] * 3
        unreadable.clear()
        again = await engine.submit(WORKFLOW, {"n": 2}, key="k2")
        return [await task.result(), await again.result(), len(await engine.tasks())]

    sim = Simulation()
    assert sim.run(work) == [{"n": 2}, {"n": 3}, 2]


def test_a_workflow_beside_it_is_not_refused(unreadable):
    async def work(engine):
        unreadable["w"] = JournalFailed(shard="w", reason="disk full")
        refused = asyncio.ensure_future(engine.submit(WORKFLOW, {"n": 1}))
        for _ in range(5):
            await asyncio.sleep(20)
            assert await (await engine.submit(Workflow("v", sample.wide), {"n": 1})).result() == {"n": 2}
        with pytest.raises(Overloaded):
            await refused

    Simulation().run(work)


def test_who_waits_for_a_task_of_a_workflow_that_is_down_is_told_so(unreadable):
    async def work(engine):
        task = await engine.submit(WORKFLOW, {"n": 1, "s": 100})
        unreadable["w"] = JournalCorrupt(shard="w", place="x", problem="torn")
        sim.kill("supervisor/w")
        await asyncio.sleep(5)
        status = await engine.status()
        (finding,) = findings_of(status)
        assert (finding.check, finding.level, finding.place) == ("workflow", "problem", "w")
        assert "is down: journal of shard 'w' cannot be trusted" in finding.what and "deploy it again" in finding.remedy
        return task.id

    sim = Simulation()
    assert sim.run(work)


def test_what_is_healthy_has_no_reason():
    async def work(engine):
        task = await engine.submit(WORKFLOW, {"n": 1, "s": 50})
        with pytest.raises(WaitTimedOut, match=r"is still running after 10 s; it goes on$") as caught:
            await task.result(timeout_s=10)
        assert caught.value.reason == ""
        assert findings_of(await engine.status()) == []

    Simulation().run(work)


def new_link(why, stored=()):
    """A link whose supervisor never comes; its refusal can be called for."""

    class World:
        def background(self, work, name):
            work.close()

        def call_later(self, delay_s, callback):
            return None

    class Shard:
        async def is_stored(self, task_id):
            return task_id in stored

        async def why_not_up(self):
            return why

    link = Link(World(), Shard(), 30.0, 5.0)
    answers = []
    tasks = [
        Submission(f"t-{n}", 1, "u", 0, None, was_sent, "driver", "critical", None)
        for n, was_sent in ((1, False), (2, True), (3, True))
    ]
    link.submit(Batch("h", tasks, True, answers.append))
    return link, answers


def test_a_task_that_was_accepted_although_nobody_said_so_is_not_refused():
    link, answers = new_link("disk full", stored={"t-2", "t-1"})
    asyncio.run(link._refuse())
    ((first, second, third),) = answers
    assert second == Ack("t-2", None)
    assert first.id is third.id is None
    assert first.error["code"] == third.error["code"] == "overloaded"


def test_without_a_reason_nothing_is_refused():
    link, answers = new_link("")
    asyncio.run(link._refuse())
    assert answers == []


# hosts that cannot start


def test_a_step_without_a_host_says_why_and_a_deployment_mends_it(missing):
    async def work(engine):
        before = Workflow("w", Sequence(sample.slow, sample.wide))
        task = await engine.submit(before, {"n": 1, "s": 20})
        missing.add("tests.sample:wide")
        sim.kill("supervisor/w")
        await asyncio.sleep(40)
        with pytest.raises(WaitTimedOut, match=r"no host of '.*:wide' can start: module 'flow' has no 'wide'"):
            await task.result(timeout_s=10)
        stored = engine._core.reader.find_task(task.id)
        rows = step_rows(stored.record, stored.definition, stored.bodies)
        note_blocked(rows, stored.definition["code"], engine._core.reader.blocked("w"))
        assert [(row.path, row.status, bool(row.waits)) for row in rows] == [
            ("slow", "completed", False),
            ("wide", "open", True),
        ]
        assert rows[1].to_json()["waits"] == rows[1].waits
        missing.clear()
        await engine.deploy(Workflow("w", Sequence(sample.slow, sample.add)))
        result = await task.result(timeout_s=30)
        await asyncio.sleep(10)
        assert engine._core.reader.blocked("w") == {}
        return result

    sim = Simulation()
    assert sim.run(work) == {"n": 2}


def test_a_deployment_that_mends_nothing_leaves_it_blocked(missing):
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(sample.slow, sample.wide)), {"n": 1, "s": 20})
        missing.add("tests.sample:wide")
        sim.kill("supervisor/w")
        await asyncio.sleep(40)
        await engine.deploy(Workflow("w", Sequence(sample.slow, sample.add)))
        await asyncio.sleep(10)
        assert list(engine._core.reader.blocked("w")) == ["tests.sample:wide"]
        return await task.read_status()

    sim = Simulation()
    assert sim.run(work) == "running"


def test_so_it_is_in_nested_hierarchies(missing):
    async def work(engine):
        team = Hierarchy(sample.lead, team={"slow": Sequence(sample.slow, sample.wide)})
        task = await engine.submit(Workflow("w", Sequence(Step(sample.echo), team)), {"n": 1, "s": 20})
        await asyncio.sleep(5)
        missing.add("tests.sample:wide")
        sim.kill("supervisor/w")
        await asyncio.sleep(60)
        assert "tests.sample:wide" in engine._core.reader.blocked("w")
        with pytest.raises(WaitTimedOut, match=r"no host of 'tests\.sample:wide' can start"):
            await task.result(timeout_s=1)

    sim = Simulation()
    sim.run(work)


def test_a_deployment_that_has_no_host_is_refused(missing):
    missing.add("tests.sample:wide")

    async def work(engine):
        with pytest.raises(SpawnFailed, match="module 'flow' has no 'wide'"):
            await engine.submit(WORKFLOW, {"n": 1})

    Simulation().run(work)


# on Ray

FLOW = """
import os, time
import podium

@podium.protocol
def hold(n: int):
    while not os.path.exists("go"):
        time.sleep(0.05)
    return n

@podium.protocol
def NAME(n: int):
    return n + 1

ALIAS
workflow = podium.Workflow("renamed", podium.Sequence(hold, NAME))
"""
DRIVE = """
import sys
import podium, flow_of_day_two as flow

if __name__ == "__main__":
    with podium.connect() as engine:
        if sys.argv[1] == "submit":
            print(engine.submit(flow.workflow, 1).id)
        elif sys.argv[1] == "deploy":
            engine.deploy(flow.workflow)
        else:
            print(engine.tasks()[0].result(timeout_s=float(sys.argv[2])))
"""


def said(folder, *words, code=0):
    command = [sys.executable, "-m", "podium", *words] if words[0] != "drive.py" else [sys.executable, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_NUM_CPUS": "1", "COLUMNS": "250"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout + done.stderr


def write(folder, name, alias=""):
    (folder / "flow_of_day_two.py").write_text(FLOW.replace("NAME", name).replace("ALIAS", alias))


@pytest.mark.ray
def test_after_a_rename_everybody_says_so_and_the_old_name_deployed_again_mends_it(tmp_path):
    (tmp_path / "drive.py").write_text(DRIVE)
    write(tmp_path, "one")
    why = "no host of 'flow_of_day_two:one' can start: module 'flow_of_day_two' has no 'one'"
    said(tmp_path, "up")
    try:
        task_id = said(tmp_path, "drive.py", "submit").strip()
        said(tmp_path, "down")
        write(tmp_path, "uno")
        (tmp_path / "go").touch()
        said(tmp_path, "up")
        # on a busy machine it may take a while until a host has tried to start
        assert any(why in said(tmp_path, "drive.py", "wait", "8", code=1) for _ in range(6))
        assert f"one 0 ms waits: {why}" in re.sub(r"one [\d.]+ m?s", "one 0 ms", said(tmp_path, "show", task_id))
        assert why in said(tmp_path, "doctor", code=1)
        assert "module 'flow_of_day_two' has no 'one'" in said(tmp_path, "status")
        write(tmp_path, "uno", "one = uno")
        said(tmp_path, "drive.py", "deploy")
        assert said(tmp_path, "drive.py", "wait", "60") == "2\n"
        assert FileReader(tmp_path / ".podium").find_task(task_id).record.status == "completed"
    finally:
        said(tmp_path, "down")
    assert not [finding for finding in examine(tmp_path / ".podium") if finding.check == "host"]
