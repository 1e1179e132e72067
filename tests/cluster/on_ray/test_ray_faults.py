"""On a real local Ray cluster: what is stopped instead of killed, and the death of the cluster itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

import podium
from podium import Sequence, Step, Workflow
from tests import sample
from tests.support.processes import pid_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A cluster that notices soon who is silent; the last tests kill it whole, and it comes back."""
    settings = {"lease_s": 3, "top_restart_intensity": 100, "limits": {"llm": 2}, "num_cpus": 2}
    with podium.connect(data=tmp_path_factory.mktemp("faults"), **settings) as engine:
        yield engine


@pytest.mark.parametrize("victim", ["supervisor/frozen/wide-0", "supervisor/frozen", "resources", "coordinator"])
def test_an_actor_that_is_stopped_is_killed_and_replaced_within_its_lease(engine, victim):
    workflow = Workflow("frozen", Sequence(sample.wide, Step(sample.wide, quotas={"llm": 1}), sample.wide))
    tasks = engine.submit_many(workflow, [{"n": n, "s": 0.3} for n in range(10)])
    for event in tasks[0].events():
        if event.kind == "finished":
            break
    pid = pid_of(engine, victim)
    os.kill(pid, signal.SIGSTOP)
    assert [task.result(timeout_s=120)["n"] for task in tasks] == [n + 3 for n in range(10)]
    if victim == "coordinator":  # nothing in flight needs it: ask it
        engine.status()
    assert wait_for(lambda: is_gone(pid))
    assert engine.submit(workflow, {"n": 1, "s": 0}).result(timeout_s=60) == {"n": 4}


def test_an_async_step_that_blocks_its_loop_is_found_out(engine):
    def block_once(mark):
        if not mark.exists():
            mark.touch()
            time.sleep(600)

    @podium.protocol
    async def blocks(input):
        block_once(Path(input["mark"]))
        return "well"

    mark = engine.settings.data / "mark"
    began = time.monotonic()
    task = engine.submit(Workflow("blocks", Sequence(blocks)), {"mark": str(mark)})
    assert task.result(timeout_s=60) == "well"
    assert time.monotonic() - began < 30
    assert "lost" in [event.kind for event in task.events()]


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition, within_s=60):
    give_up_at = time.monotonic() + within_s
    while not condition() and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("victims", [["gcs_server"], ["raylet"], None], ids=["control store", "raylet", "everything"])
def test_the_driver_goes_on_when_its_cluster_dies(engine, victims, capfd):
    """Also with a protocol that only the driver has; its pending results and events never notice.

    A host may die before its supervisor does, so the journal may say that a step was lost.
    """

    @podium.protocol(concurrency=100)
    async def mine(input):
        await asyncio.sleep(0.5)
        return {"n": input["n"] + 1}

    workflow = Workflow("survivor", Sequence(mine, mine, mine))
    engine.submit(workflow, {"n": 0}).result(timeout_s=60)
    tasks = engine.submit_many(workflow, [{"n": n} for n in range(20)])
    events = tasks[0].events()
    kinds = [next(events).kind for _ in range(3)]
    before = engine._core._session._address
    for process in psutil.Process().children(recursive=True):
        if victims is None or process.name() in victims:
            process.kill()
    assert [task.result(timeout_s=120)["n"] for task in tasks] == [n + 3 for n in range(20)]
    kinds += [event.kind for event in events]
    assert [kind for kind in kinds if kind not in ("started", "lost")] == ["accepted", *["finished"] * 3, "completed"]
    assert wait_for(lambda: engine._core._session._address != before)
    assert wait_for(lambda: len(engine._core._session._pillars) == 2), "the new cluster is ours, not one that Ray made"
    assert engine.submit(workflow, {"n": 1}).result(timeout_s=60) == {"n": 4}
    assert capfd.readouterr().out == "", "Ray's news of dead processes are not the user's output"
