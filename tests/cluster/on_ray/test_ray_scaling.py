"""Hosts that follow the backlog, on a real Ray with two logical GPUs: one on each, and no more than have room."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap

import pytest

from podium.cluster.simulation.virtual_loop import VirtualLoop
from podium.supervisors.ports.world import Needs
from tests.support import ROOT

SCRIPT = textwrap.dedent(
    """
    import json, os, sys, time
    import ray
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    from ray._private.state import actors
    import podium

    @podium.protocol(replicas=(0, 4), num_gpus=1, spread=True)
    def train(n):
        time.sleep(0.5)
        return [n, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]]

    def hosts(state):
        return sum(each["State"] == state and "/train-" in each["Name"] for each in actors().values())

    def shown():
        (pool,) = engine.status().workflows["gpus"].pools
        return [hosts("ALIVE"), hosts("PENDING_CREATION"), pool.up, pool.hosts]

    def settled(state):
        give_up_at = time.monotonic() + 30
        while shown() != state and time.monotonic() < give_up_at:
            time.sleep(0.1)
        return shown()

    with podium.connect(data=sys.argv[1], host_idle_s=1.0) as engine:
        flow = podium.Workflow("gpus", podium.Sequence(train))
        engine.deploy(flow)
        before = shown()
        tasks = engine.submit_many(flow, list(range(7)))
        during = settled([2, 2, 2, 4])
        results = [task.result() for task in tasks]
        after = settled([0, 0, 0, 0])
        again = engine.submit(flow, 99).result()
    print(json.dumps({"before": before, "during": during, "results": results, "after": after, "again": again}))
    """
)


@pytest.mark.ray
@pytest.mark.timeout(150)
def test_one_host_for_each_gpu_and_what_waits_for_a_third_is_withdrawn(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PODIUM_"))}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = [sys.executable, str(script), str(tmp_path / "data")]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["before"] == [0, 0, 0, 0], "none before there is work"
    assert seen["during"] == [2, 2, 2, 4], "two run, and two wait for a GPU that another machine may have"
    assert sorted(n for n, _, _ in seen["results"]) == list(range(7))
    assert {gpu for _, _, gpu in seen["results"]} == {"0", "1"}
    assert len({(pid, gpu) for _, pid, gpu in seen["results"]}) == 2, "each host has one GPU"
    assert seen["after"] == [0, 0, 0, 0], "the two that waited and the two that were idle"
    assert seen["again"][0] == 99


@pytest.mark.parametrize(
    ("may_wait", "room_at", "starts_at", "answers"),
    [
        (True, 1_000, 1_100, True),
        (True, 100_000, 100_001, True),
        (True, 0, 250, False),
        (True, 400, 900, False),
        (False, 100, 130, False),
        (False, 100, 110, True),
    ],
)
def test_the_time_of_a_start_that_may_wait_begins_when_there_is_room(
    monkeypatch, may_wait, room_at, starts_at, answers
):
    """Times are in virtual seconds."""
    from podium.cluster.on_ray import actors

    loop = VirtualLoop()
    began = loop.time()
    monkeypatch.setattr(actors, "has_a_process", lambda _handle: loop.time() - began >= room_at)
    world = object.__new__(actors.RayWorld)
    world._first_answer = lambda _handle: asyncio.sleep(starts_at, b"started")
    started = world._answer_in_time("handle", Needs(may_wait=may_wait))
    try:
        if answers:
            assert loop.run_until_complete(started) == b"started"
        else:
            with pytest.raises(TimeoutError):
                loop.run_until_complete(started)
            assert loop.time() - began <= (room_at if may_wait else 0) + 2 * actors.START_S
    finally:
        loop.close()
