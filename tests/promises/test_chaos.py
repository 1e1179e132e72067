"""Real kills of every class of process under load, on one cluster: benchmarks/chaos.py in small."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.testbed import checks, witness
from benchmarks.testbed.kills import every_class
from benchmarks.testbed.storm import storm
from benchmarks.testbed.witness import Line

SEED = 20


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_repeated_whatever_is_killed(tmp_path):
    orders = Random(SEED).sample(every_class(), len(every_class()))
    found = storm(tmp_path, SEED, orders, lanes=6, pause_s=0.5)
    assert found.problems == [], f"seed {SEED}"
    assert len(found.kills) >= 12
    assert found.most_in_use > 0


def line(what="start", at=10.0, step="tick", in_use=0):
    return Line(what, "t-1", step, 1, 77, at, in_use)


RUN = ("t-1", "tick", 1)


def test_a_start_after_the_recorded_finish_is_found():
    assert checks.starts_after_finish([line(at=11.0)], {RUN: 10.5})
    assert not checks.starts_after_finish([line(at=10.0)], {RUN: 10.5})


def test_a_start_after_everything_was_dead_is_found_without_a_clock():
    then = checks.Snapshot(frozenset([RUN]), offset=0)
    assert checks.starts_after_snapshot([line(at=0.0)], then)
    assert not checks.starts_after_snapshot([line(step="other")], then)


def test_a_repetition_is_explained_by_a_death_between_and_by_nothing_else():
    twice = [line(at=100.0), line(at=101.0)]
    assert checks.repetitions(twice, [("host", 100.5)]) == (1, [])
    for kills in ([], [("resources", 100.5)], [("host", 101.5)], [("host", 50.0)]):
        assert len(checks.repetitions(twice, kills)[1]) == 1


def test_more_permits_in_use_than_there_are_is_found():
    assert checks.limits([line("take", in_use=4)])
    assert not checks.limits([line("take", in_use=3)])


def test_permits_in_use_are_counted_until_their_holder_ends(tmp_path, monkeypatch):
    class Ctx:
        task_id, step, attempt = "t-1", "model", 1

    for name, value in witness.begin(tmp_path, {"llm": 1}).items():
        monkeypatch.setenv(name, value)
    with witness.permit(Ctx, "llm"), witness.permit(Ctx, "llm"):
        pass
    with witness.permit(Ctx, "llm"):
        pass
    assert [line.in_use for line in witness.read(tmp_path)] == [1, 2, 1]
