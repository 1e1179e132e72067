"""What new tasks are refused for: the machine, slots, and rates of one kind of task."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import podium
from podium import Sequence, Workflow
from podium.cluster.config import Settings, load_settings
from podium.errors import InvalidSetting, Overloaded
from podium.supervisors.admission.admission import Admission, Newcomer, Slots
from podium.supervisors.limits.throttle import Thresholds, Throttle, is_pressed
from podium.supervisors.ports.world import Load
from podium.supervisors.settings import Governance
from podium.testing import Simulation
from tests import sample

CALM = Load(0.1, 0.1)


def refusal(gate, load=CALM, slots=(), source="mcp", kinds=("ask",), count=1, now=0.0, user="ada"):
    return gate.refusal(Counter({Newcomer(user, kinds): count}), source, "critical", load, list(slots), now)


@pytest.mark.parametrize(
    ("settings", "load", "says"),
    [
        ({}, Load(1.0, 0.9), None),
        ({}, Load(0.0, 0.91), "91% of the machine's memory is used, the limit is max_memory=0.9"),
        ({"max_memory": 0.5}, Load(0.0, 0.51), "max_memory=0.5"),
        ({"max_cpu": 0.8}, Load(0.8, 0.0), None),
        ({"max_cpu": 0.8}, Load(0.81, 0.0), "81% of the machine's CPU is used, the limit is max_cpu=0.8"),
        ({"max_cpu": 0.3}, Load(0.31, 0.0), "max_cpu=0.3"),
    ],
)
def test_a_machine_that_is_not_well_gets_nothing_new(settings, load, says):
    refused = refusal(Admission(Governance(**settings)), load)
    assert (refused is None) if says is None else (says in str(refused))


@pytest.mark.parametrize(
    ("used", "count", "is_refused"), [(39, 1, False), (40, 1, True), (37, 4, True), (0, 40, False)]
)
def test_slots_are_refused_above_their_share_if_asked_for(used, count, is_refused):
    slots = [Slots("other", 0, 1, 1000), Slots("request", used, 1, 50)]
    refused = refusal(Admission(Governance(max_slots=0.8)), slots=slots, count=count)
    assert (refused is not None) == is_refused
    assert not is_refused or f"{used} of 50 permits of 'request' are taken, the limit is max_slots=0.8" in str(refused)
    assert refusal(Admission(Governance()), slots=slots, count=count) is None


def test_a_rate_of_one_kind_counts_instead_of_that_of_its_source():
    gate = Admission(
        Governance(rates={"mcp": "1/s burst 3", "mcp.tool_execution": "1/s burst 1", "mcp.w": "1/s burst 2"})
    )
    typed, plain, other = ("tool_execution", "ask"), ("ask",), ("simple_query", "w")
    assert refusal(gate, kinds=typed) is None
    assert "the rate is 1/s burst 1 for each user from 'mcp.tool_execution'" in str(refusal(gate, kinds=typed))
    assert refusal(gate, kinds=typed, user="bob") is None and refusal(gate, kinds=typed, source="cli", count=9) is None
    assert refusal(gate, kinds=plain, count=3) is None and refusal(gate, kinds=plain) is not None
    assert refusal(gate, kinds=other, count=2) is None and refusal(gate, kinds=other) is not None
    assert refusal(gate, kinds=typed, now=1.0) is None, "it comes back with time"


@pytest.mark.parametrize("name", ["mcp.", "mail", "mail.ask", ".ask", "mcp.a b", "cli.a.b"])
def test_names_of_rates_that_nobody_has_are_refused(name):
    with pytest.raises(InvalidSetting, match=r"rates|mcp.<workflow>"):
        load_settings(rates={name: "1/s"})
    assert Settings(rates={"driver.nightly": "1/min", "cli.context_query": "2/s"}).rates["driver.nightly"] == "1/min"


def test_requests_count_by_the_type_that_they_name_and_tasks_by_their_workflow():
    async def work(engine):
        async def refused(workflow, input):
            with pytest.raises(Overloaded) as caught:
                for _ in range(4):
                    await engine.submit(workflow, input)
            return str(caught.value)

        ask, other = Workflow("ask", Sequence(sample.echo)), Workflow("other", Sequence(sample.echo))
        assert "'driver.tool_execution'" in await refused(ask, {"request": {"type": "tool_execution"}})
        assert "'driver.ask'" in await refused(ask, {"request": {"type": "context_query"}})
        assert "'driver.ask'" in await refused(ask, {"request": {"text": "x"}})
        assert "'driver'" in await refused(other, {"request": "tool_execution"})

    rates = {"driver": "1/min burst 3", "driver.ask": "1/min burst 2", "driver.tool_execution": "1/min"}
    Simulation(rates=rates).run(work)


def test_tasks_beyond_the_share_of_slots_are_refused_and_come_in_when_others_have_ended():
    @podium.protocol(concurrency=50)
    async def slow(input):
        await asyncio.sleep(5)

    async def work(engine):
        flow = Workflow("w", Sequence(slow), quotas={"room": 2})
        first = await engine.submit(flow, 0)
        await asyncio.sleep(1)
        tasks = [await engine.submit(flow, n) for n in range(3)]
        with pytest.raises(Overloaded, match=r"8 of 10 permits of 'room' are taken, the limit is max_slots=0.8"):
            await engine.submit(flow, 9)
        for task in [first, *tasks]:
            await task.result()
        await (await engine.submit(flow, 9)).result()

    Simulation(limits={"room": 10}, max_slots=0.8).run(work)


def test_each_figure_of_the_throttle_is_a_setting():
    bounds = Thresholds(high=0.5, low=0.4, floor=0.2, step=0.4, samples=2, full_lag_s=2.0)
    throttle = Throttle(bounds)
    factors = []
    for load in [*[Load(0.51, 0.0)] * 6, *[Load(0.45, 0.0)] * 4, *[Load(0.39, 0.0)] * 6]:
        throttle.look(load, 0.0)
        factors.append(throttle.factor)
    assert factors == [1.0, 0.6, 0.6, 0.2, 0.2, 0.2, *[0.2] * 4, 0.2, 0.6, 0.6, 1.0, 1.0, 1.0]
    assert is_pressed(Load(0.0, 0.0, lag_s=1.1), bounds) and not is_pressed(Load(0.0, 0.0, lag_s=0.9), bounds)
    given = {"throttle_high": 0.5, "throttle_low": 0.4, "throttle_floor": 0.2, "throttle_samples": 2}
    assert Settings(**given, throttle_step=0.4, throttle_full_lag_s=2).governance().thresholds == bounds
    assert Settings().governance().thresholds == Thresholds()


def test_the_throttle_of_a_cluster_goes_by_its_settings():
    async def work(engine):
        await engine.submit(Workflow("w", Sequence(sample.echo), quotas={"room": 1}), 1)
        await asyncio.sleep(4)
        return (await engine.status()).throttle.factor

    simulation = Simulation(throttle=True, throttle_high=0.2, throttle_low=0.1, throttle_samples=3, limits={"room": 1})
    simulation.cpu_used = 0.3
    assert simulation.run(work) == 0.9


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"throttle_high": 0.2}, "throttle_low"),
        ({"throttle_low": 0.9}, "throttle_low"),
        ({"max_cpu": 80}, "max_cpu"),
        ({"max_slots": 0}, "max_slots"),
        ({"throttle_samples": 0}, "throttle_samples"),
        ({"throttle_floor": 0.0}, "throttle_floor"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_by_name(given, name):
    with pytest.raises(InvalidSetting, match=name):
        load_settings(**given)
