"""What the engine says of itself: a line for what an operator wants to know, and none for a step."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

import podium
from podium import Breaker, Sequence, Step, Supervision, Workflow
from podium.cluster.engine_log import NAME, line_of
from podium.errors import Overloaded
from podium.supervisors.seldom import Seldom
from podium.testing import Simulation
from tests import sample

FLOW = Workflow("w", Sequence(Step(sample.wide), Step(sample.wide)))


def lines(simulation, level=None):
    return [line for each, line in simulation.logged if level in (None, each)]


def has(simulation, *parts):
    return any(all(part in line for part in parts) for line in lines(simulation))


@pytest.mark.parametrize(
    "fields, told",
    [
        ({}, ""),
        ({"open": 3}, " open=3"),
        ({"took_s": 0.25}, " took_s=0.250"),
        ({"reason": "disk full"}, ' reason="disk full"'),
        ({"reason": ""}, ' reason=""'),
        ({"reason": 'say "no"'}, r' reason="say \"no\""'),
        ({"rule": "a=b"}, ' rule="a=b"'),
        ({"left_s": None, "cold": True}, " cold=True"),
        ({"limits": {"llm": 5}}, """ limits="{'llm': 5}\""""),
        ({"user": "Åsa"}, " user=Åsa"),
    ],
)
def test_a_line_has_who_what_and_the_facts(fields, told):
    assert line_of("supervisor/w", 3, "started", fields) == f"supervisor/w@3 started{told}"
    assert line_of("client", 0, "started", fields) == f"client started{told}"


def test_what_happens_seldom_is_told_at_once_and_what_happens_often_with_its_number():
    seldom = Seldom(10.0)
    assert [seldom.count("full", 1, now) for now in (0.0, 1.0, 9.9, 10.0, 11.0, 30.0)] == [1, 0, 0, 3, 0, 2]
    assert seldom.count("slow", 5, 1.0) == 5, "each kind by itself"


def test_starting_and_stopping_have_a_line_each_and_steps_none():
    async def work(engine):
        for task in await engine.submit_many(FLOW, [{"n": n} for n in range(200)]):
            await task.result()

    simulation = Simulation()
    simulation.run(work)
    assert has(simulation, "coordinator@1 started", "cold=True")
    assert has(simulation, "coordinator@1 child started child=supervisor/w")
    assert has(simulation, "supervisor/w@1 started open=0")
    assert has(simulation, "coordinator@1 deployed workflow=w version=1")
    assert has(simulation, "supervisor/w@1 stops open=0")
    assert len(simulation.logged) < 20 and not has(simulation, "t-0")


def test_a_child_that_is_lost_is_told_with_the_reason_and_its_successor_with_what_it_took_over():
    async def work(engine):
        tasks = await engine.submit_many(FLOW, [{"n": n, "s": 5} for n in range(3)])
        await asyncio.sleep(2)
        simulation.kill("supervisor/w/wide-0")
        await asyncio.sleep(2)
        simulation.kill("supervisor/w")
        return [await task.result() for task in tasks]

    simulation = Simulation()
    simulation.run(work)
    assert has(simulation, "supervisor/w@1 child lost child=supervisor/w/wide-0 reason=", "restarts_in_s=")
    assert has(simulation, "coordinator@1 child lost child=supervisor/w reason=")
    assert has(simulation, "supervisor/w@2 started open=3 took_s=")
    assert len(lines(simulation, "warning")) == 2


def test_an_escalation_and_a_workflow_that_is_down_are_errors():
    flow = Workflow("w", Step(sample.wide), supervision=Supervision(intensity=0))

    async def work(engine):
        for _ in range(2):
            await (await engine.submit(flow, {"n": 1})).result()
            await asyncio.sleep(5)
            simulation.kill("supervisor/w/wide-0")
            await asyncio.sleep(5)

    simulation = Simulation(top_restart_intensity=1)
    simulation.run(work)
    assert any(re.search(r"supervisor/w@\d+ gives up reason=", line) for line in lines(simulation, "error"))
    assert any("coordinator@1 workflow down workflow=w reason=" in line for line in lines(simulation, "error"))


def test_refusals_have_one_line_for_many():
    async def work(engine):
        for _ in range(50):
            with pytest.raises(Overloaded):
                await engine.submit_many(FLOW, [{"n": n, "s": 50} for n in range(20)])
        await asyncio.sleep(20)
        with pytest.raises(Overloaded):
            await engine.submit_many(FLOW, [{"n": n, "s": 50} for n in range(20)])

    simulation = Simulation(max_open_tasks=10)
    simulation.run(work)
    told = [line for line in lines(simulation, "warning") if "tasks refused" in line]
    assert len(told) == 2
    assert "count=20 " in told[0] and "count=1000 " in told[1]


def test_a_clock_that_is_set_a_breaker_and_limits_have_lines():
    @podium.protocol(breaker=Breaker(window=2, min_calls=2), retry=None)
    async def breaks(x):
        raise ValueError("no")

    async def work(engine):
        for _ in range(4):
            await (await engine.submit(Workflow("b", breaks), 1)).wait()
        await engine.set_limits(llm=3, **{"llm per user": 1})
        simulation.clock_offset_s = 7_200
        await (await engine.submit(Workflow("b", breaks), 1)).wait()

    simulation = Simulation()
    simulation.run(work)
    assert has(simulation, "resources@1 breaker open breaker=breaks reason=")
    assert has(simulation, """coordinator@1 limits set limits="{'llm': 3, 'llm per user': 1}\"""")
    assert has(simulation, "clock was set by_s=7200.000")


def test_the_engine_keeps_its_lines_in_the_data_directory_and_prints_nothing(tmp_path, capfd):
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        assert engine.submit(FLOW, {"n": 1}).result(timeout_s=30) == {"n": 3}
    assert capfd.readouterr() == ("", "")
    told = (tmp_path / "logs" / f"{NAME}.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 (info|warning|error) \S+ ", line) for line in told)
    assert any(" info supervisor/w@1 started open=0 " in line for line in told)


def test_no_log_is_kept_where_none_is_wanted(tmp_path):
    with podium.connect(data=tmp_path, cluster="inprocess", log_mb=0) as engine:
        engine.submit(FLOW, {"n": 1}).result(timeout_s=30)
    assert not (tmp_path / "logs").exists()


def test_who_sets_the_logger_has_the_facts_of_each_line(tmp_path, caplog):
    with (
        caplog.at_level(logging.INFO, logger="podium"),
        podium.connect(data=tmp_path, cluster="inprocess") as engine,
    ):
        engine.submit(FLOW, {"n": 1}).result(timeout_s=30)
    facts = [record.podium for record in caplog.records if hasattr(record, "podium")]
    assert {"address": "supervisor/w", "epoch": 1, "event": "governs", "version": "1"}.items() <= next(
        each for each in facts if each["event"] == "governs"
    ).items()
