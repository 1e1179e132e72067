"""What a simulation tells while it runs: everything that happens, and the same run with it and without."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys

import pytest

from podium import Hierarchy, Sequence, Workflow
from podium.cluster.simulation.trace import Trace, contents_of
from podium.testing import Faults, Simulation
from tests import sample
from tests.support import ROOT, seed, storm

FAULTS = Faults(lose_request=0.15, lose_reply=0.15, repeat=0.1, delay_s=0.02, commit_s=0.05, kills=4, kill_within_s=3,
                freezes=2, freeze_s=60, zombies=0.5, clock_jumps=1)  # fmt: skip
SESSION = re.compile(r"/\d+, frame")
"""Exchanges are numbered throughout the process."""


def run(number, trace=None, faults=FAULTS):
    simulation = Simulation(number, faults=faults, restart_intensity=1000, top_restart_intensity=1000)
    simulation.trace = trace

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.add, Hierarchy(sample.lead, team={"x": sample.add}, name="h")))
        tasks = await engine.submit_many(workflow, [{"n": n} for n in range(4)])
        await asyncio.sleep(FAULTS.kill_within_s + FAULTS.freeze_s)
        return [await task.result() for task in tasks]

    results = simulation.run(work)
    entries = {name: shard.entries for name, shard in simulation.disk.shards.items()}
    return results, simulation.killed, simulation.frozen, simulation.loop.time(), entries


@pytest.mark.parametrize("number", [3, 41, 977])
def test_a_run_with_a_trace_is_the_run_without(number):
    assert run(number, Trace()) == run(number)


def test_a_seed_tells_the_same_each_time():
    def told():
        trace = Trace(kept=100_000)
        run(12, trace)
        return [SESSION.sub(", frame", line) for line in trace.lines]

    first = told()
    assert first == told() and len(first) > 100


def test_every_fault_is_told_with_its_time_and_whom_it_struck():
    trace = Trace(kept=100_000)
    _, killed, frozen, *_ = run(5, trace)
    events = [tuple(re.split(r"  +", line.strip())[1:3]) for line in trace.lines]
    assert [address for address, event in events if event == "IS KILLED"] == killed and killed
    assert [address for address, event in events if event == "IS STOPPED"] == frozen and frozen
    names = {event for _, event in events}
    assert {"REQUEST LOST", "REPLY LOST", "FRAME REPEATED", "CLOCK IS SET", "starts", "is dead", "goes on"} <= names
    times = [float(line.split()[0]) for line in trace.lines]
    assert times == sorted(times) and times[0] == 0.0


def test_commits_are_told_with_the_events_in_them():
    trace = Trace(kept=100_000)
    run(1, trace, Faults())
    text = str(trace)
    assert "accepted" in text and "entry 1: StepFinished add" in text and "the task is completed" in text
    assert "workflow:w" in text and "epoch 1" in text


def test_only_the_last_lines_are_kept_and_how_many_came_before_is_said():
    trace = Trace(kept=7)
    run(2, trace)
    assert len(trace.lines) == 7 < trace.count
    assert str(trace).startswith(f"(the last 7 of {trace.count:,} lines)\n")


def test_a_frame_that_cannot_be_read_is_told_so():
    assert contents_of(b"\xc1").startswith("cannot be read")


def not_so(_storm, _status):
    raise AssertionError("I0: as planted")


def test_a_storm_that_fails_says_what_happened_last(monkeypatch):
    monkeypatch.setattr(storm, "check_invariants", not_so)
    told = seed.last_lines(23)
    lines = told.splitlines()
    assert lines[0].endswith("(`make seed SEED=23 TRACE=1` prints all of it):")
    assert lines[1].startswith("(the last 200 of ") and len(lines) == 203
    assert lines[-1] == "and then AssertionError: I0: as planted"
    assert "client" in lines[-2] and "is dead" in lines[-2]


def test_a_storm_that_does_not_fail_again_says_so():
    assert seed.last_lines(23).endswith("and then it did NOT fail")


def test_what_is_logged_is_part_of_it_and_logging_is_left_as_it_was():
    trace, log = Trace(), logging.getLogger("podium")
    before = log.level, log.propagate, list(log.handlers)
    logging.disable(logging.CRITICAL)
    try:
        with seed.logged_to(trace):
            log.warning("it rains %s", "cats")
        assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)
    assert "logs WARNING" in trace.lines[-1] and trace.lines[-1].endswith("it rains cats")
    assert (log.level, log.propagate, list(log.handlers)) == before


def test_the_command_prints_the_faults_of_one_storm(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["seed", "29"])
    assert seed.main() == 0
    out = capsys.readouterr().out
    assert out.startswith("seed 29: ") and out.endswith("every invariant holds\n")
    assert "starts" in out and "gets a frame" not in out


def test_the_command_prints_everything_and_how_it_failed(monkeypatch, capsys):
    monkeypatch.setattr(storm, "check_invariants", not_so)
    monkeypatch.setattr("sys.argv", ["seed", "31", "--trace"])
    assert seed.main() == 1
    out, err = capsys.readouterr()
    assert "gets a frame" in out and "every invariant" not in out
    assert err.endswith("AssertionError: I0: as planted\n")


def test_the_soak_runs_and_counts_what_happens():
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.soak", "--seeds", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "3 seeds, 0 failed" in done.stdout and "step finished" in done.stdout
