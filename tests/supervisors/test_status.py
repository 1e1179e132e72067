"""The state of a cluster comes in classes, which give the same plain data as its actors sent."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import warnings

import pytest

import podium
from podium import Hierarchy, Sequence, Supervision, Workflow, status
from podium.errors import TaskFailed, WorkflowDown
from podium.status import ClusterStatus, Durations, LimitUse, WorkflowStatus
from podium.supervisors.figures.counters import BOUNDS_S
from podium.supervisors.messages.client import AskStatus, ClusterFigures
from podium.testing import Simulation
from tests import sample

TEAM = Workflow("team", Sequence(sample.add, Hierarchy(sample.lead, team={"x": sample.add}, name="duo")))


class Moody(podium.Protocol):
    mood = "good"

    async def start(self):
        if self.mood != "good":
            raise OSError("no mood")

    async def run(self, n: int) -> int:
        return n


MOODY = Workflow("moody", Sequence(Moody), supervision=Supervision(intensity=0))


async def figures(engine):
    return (await engine.core.ask_coordinator(AskStatus(), ClusterFigures))._asdict()


def on_the_wire(figures):
    """The plain data of the actors, with what is written for a limit in its usual order."""
    return json.loads(json.dumps(figures))


@pytest.fixture(scope="module")
def lived():
    """What the actors of a cluster say after many things have happened in it: as plain data."""
    simulation = Simulation(
        limits={"llm": 2, "calls": "30/min burst 9"},
        throttle=True,
        alerts={"hot": "load.cpu > 0.7"},
        alert_every_s=1,
        rest_after_s=400,
        restart_intensity=0,
    )

    @podium.protocol(quotas={"llm": 1, "calls": 2}, breaker=podium.Breaker(window=8, min_calls=4, open_s=9000))
    async def fails(input):
        raise ConnectionError("gone")

    async def work(engine):
        await (await engine.submit(TEAM, {"n": 3})).result()
        for _ in range(6):
            with pytest.raises(TaskFailed):
                await (await engine.submit(Workflow("failing", Sequence(fails)), 1)).result()
        found = [await figures(engine)]
        await (await engine.submit(MOODY, 5)).result()
        Moody.mood = "bad"
        simulation.kill("supervisor/moody")
        simulation.cpu_used = 0.9
        await asyncio.sleep(30)
        with pytest.raises(WorkflowDown):
            await (await engine.submit(MOODY, 6)).result()
        await engine.submit(Workflow("busy", Sequence(sample.slow, sample.model)), {"s": 5_000, "n": 1}, user="eve")
        await asyncio.sleep(10)
        found.append(await figures(engine))
        await asyncio.sleep(1000)
        found.append(await figures(engine))
        return found

    try:
        return simulation.run(work)
    finally:
        Moody.mood = "good"


def test_the_plain_data_of_a_status_are_those_that_the_actors_sent(lived):
    for wire in lived:
        assert on_the_wire(ClusterStatus.from_wire(wire).to_json()) == on_the_wire(wire)


def test_a_status_read_from_its_own_json_is_equal(lived):
    for wire in lived:
        found = ClusterStatus.from_wire(wire)
        assert ClusterStatus.from_wire(on_the_wire(found.to_json())).to_json() == found.to_json()


def test_what_was_lived_through_has_each_kind_of_thing(lived):
    early, hot, late = map(ClusterStatus.from_wire, lived)
    assert early.workflows["team"].tiers and early.workflows["team"].pools[0].protocol.startswith("tests.sample:")
    assert early.breakers["fails"].state == "open" and early.quotas["calls"].left is not None
    assert hot.throttle.factor < 1 and hot.throttle.changes[-1].reason == "90% of the CPU is used"
    assert hot.quotas["llm"].now == 1 and [alert.name for alert in hot.alerts] == ["hot"]
    down = hot.workflows["moody"]
    assert down.state == "down" and down.reason and (down.open, down.counts, down.pools) == (None, None, ())
    assert late.workflows["team"].state == "idle" and late.workflows["busy"].users == {"eve": 1}
    assert late.workflows["busy"].hosts_up == late.workflows["busy"].hosts > 0


def test_the_repr_of_a_status_says_how_things_are(lived):
    early, hot, late = map(ClusterStatus.from_wire, lived)
    assert repr(early) == "<cluster: workflows 2 up, 0 open tasks>"
    assert repr(hot) == "<cluster: workflows 3 up, 1 down, 1 open tasks, alert hot>"
    assert repr(late.workflows["team"]) == "<workflow idle>"
    assert repr(late.workflows["busy"]) == "<workflow up: 1 open, 2 of 2 hosts up>"
    assert repr(hot.workflows["moody"]).startswith("<workflow down: ")
    assert repr(early.workflows["team"].counts) == "<ended tasks: 1 completed; steps: 2 finished>"
    assert repr(Durations((0, 3, 1) + (0,) * 13, 0.5)) == "<4 durations, 0.125 s on average>"
    assert repr(Durations((0,) * 16, 0.0)) == "<0 durations>"


def test_nothing_of_a_status_can_be_changed(lived):
    found = ClusterStatus.from_wire(lived[0])
    for part in (found, found.workflows["team"], found.quotas["llm"], found.breakers["fails"], found.throttle):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)
        assert not hasattr(part, "__dict__")


def test_a_field_of_a_later_podium_is_no_problem():
    assert LimitUse.from_wire({"limit": 8, "held": 1, "waiting": 0, "lent": 4}) == LimitUse(8, held=1, waiting=0)


def test_an_entry_of_an_older_journal_has_one_shard():
    wire = {"hash": "h", "version": "9", "when_down": "fail", "quotas": True, "state": "idle", "reason": None}
    assert WorkflowStatus.from_wire(wire).to_json() == {**wire, "shards": 1}


def test_who_reads_a_status_by_key_is_told_of_the_attribute(lived):
    found = ClusterStatus.from_wire(lived[0])
    with pytest.warns(DeprecationWarning, match="use the attribute `quotas`") as told:
        assert found["quotas"] is found.quotas
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["workflows"]["team"]["counts"]["tasks"] == {"completed": 1}
        assert found["workflows"]["team"].get("why") is None and found["workflows"]["team"].get("restarts") == 0
        with pytest.raises(KeyError):
            found["quotas"]["llm"]["now"]


def test_the_bounds_of_durations_are_said_where_they_are_documented():
    text = " ".join((inspect.getsource(Durations)).split())
    assert f"{', '.join(f'{bound:g}' for bound in BOUNDS_S[:-1])} and {BOUNDS_S[-1]:g} seconds" in text


def test_limits_and_breakers_come_in_the_same_classes_when_they_are_changed():
    async def work(engine):
        await engine.deploy(TEAM)
        uses = await engine.set_limits(llm=6)
        assert uses["llm"] == LimitUse(6, held=0, waiting=0)
        with pytest.raises(podium.errors.NotFound):
            await engine.set_breaker("modell", "open")

    Simulation(limits={"llm": 2}).run(work)


def test_each_class_of_a_status_is_public():
    named = set(status.__all__)
    for name in named:
        kind = getattr(status, name)
        for hint in map(str, inspect.get_annotations(kind).values()):
            words = set("".join(c if c.isalnum() or c == "_" else " " for c in hint).split())
            assert words <= named | KNOWN, f"{name} has a field of the type {hint}"


KNOWN = set("ForwardRef Mapping tuple Literal None str int float bool Amount WorkflowState".split()) | set(
    "closed open half_open forced_open".split()
)
