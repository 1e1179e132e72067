"""A workflow with several shards is one workflow to whoever uses it, and as many to whatever breaks."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.store.reading import FileReader
from podium.errors import FixTheCall, InvalidDefinition, KeyConflict, TaskFailed, WorkflowDown
from podium.supervisors.shards import is_tier, is_within, shards_of, spread, tier_shard, top_shard, workflow_of
from podium.testing import Simulation
from tests import sample

WIDE = Workflow("w", Sequence(sample.add, sample.add), shards=3)
SHARDS = ["w", "w~1", "w~2"]


def where(sim):
    """By task: its shard."""
    return {id: name for name, shard in sim.disk.shards.items() for id in shard.tasks}


def test_names():
    assert shards_of("w", 3) == SHARDS
    tiers = [tier_shard(shard, "team") for shard in SHARDS]
    assert [top_shard(tier) for tier in tiers] == SHARDS
    assert {workflow_of(name) for name in SHARDS + tiers} == {"w"}
    assert [is_tier(name) for name in (*SHARDS, *tiers)] == [False] * 3 + [True] * 3
    assert is_within("w.team", "w") and is_within("w", "w")
    assert not is_within("w~1", "w") and not is_within("w~1.team", "w")


@given(
    st.lists(st.tuples(st.sampled_from(["ada", "bob"]), st.none() | st.sampled_from("abcdef"))),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
def test_each_task_goes_to_one_shard_the_same_key_to_the_same_and_the_others_in_turn(senders, count, first):
    places = spread(senders, count, first)
    assert len(places) == count
    assert sorted(index for place in places for index in place) == list(range(len(senders)))
    of_key = {}
    for number, place in enumerate(places):
        for index in place:
            if senders[index][1] is not None:
                assert of_key.setdefault(senders[index], number) == number
    again = spread(senders[::-1], count, first + 1)
    for number, place in enumerate(again):
        for index in place:
            assert of_key.get(senders[::-1][index], number) == number
    loads = [len(place) for place in spread([("ada", None)] * len(senders), count, first)]
    assert max(loads) - min(loads) <= 1


def test_which_shard_a_key_belongs_to_never_changes():
    """Data directories depend on it."""
    places = spread([("ada", "k1"), ("ada", "k2"), ("bob", "k1"), ("", "a longer key")], 7, 0)
    assert [number for index in range(4) for number, place in enumerate(places) if index in place] == [3, 1, 6, 1]


def test_tasks_are_spread_and_all_of_them_are_found_again():
    async def work(engine):
        tasks = await engine.submit_many(WIDE, [{"n": n} for n in range(30)])
        assert [await task.result() for task in tasks] == [{"n": n + 2} for n in range(30)]
        one_by_one = [await engine.submit(WIDE, {"n": 0}) for _ in range(30)]
        [await task.result() for task in one_by_one]
        listed = engine.tasks(workflow="w", limit=1000)
        assert {task.id for task in listed} == {task.id for task in (*tasks, *one_by_one)}
        for task in tasks[:6]:
            found = engine.task(task.id)
            assert found.workflow == "w" and found.status == "completed"
            assert await found.result() == await task.result()
            assert [event.kind async for event in found.events()][-1] == "completed"
        assert [each["name"] for each in engine.definitions()] == ["w"]
        return [task.id for task in tasks], [task.id for task in one_by_one], await engine.status()

    sim = Simulation()
    together, alone, status = sim.run(work)
    assert Counter(where(sim)[id] for id in together) == dict.fromkeys(SHARDS, 10)
    assert {where(sim)[id] for id in alone} == set(SHARDS)
    assert {name: facts["state"] for name, facts in status["workflows"].items()} == dict.fromkeys(SHARDS, "up")


def test_a_key_gives_the_same_task_in_whatever_order():
    keys = [f"k{n}" for n in range(20)]
    inputs = [{"n": n} for n in range(20)]

    async def work(engine):
        first = await engine.submit_many(WIDE, inputs, keys=keys)
        again = await engine.submit_many(WIDE, inputs[::-1], keys=keys[::-1])
        with pytest.raises(KeyConflict):
            await engine.submit(WIDE, {"n": 100}, key="k7")
        assert [task.id for task in again[::-1]] == [task.id for task in first]
        assert [await task.result() for task in first] == [{"n": n + 2} for n in range(20)]

    sim = Simulation()
    sim.run(work)
    assert set(where(sim).values()) == set(SHARDS)


def test_the_number_of_shards_stays():
    async def work(engine):
        await engine.deploy(WIDE)
        with pytest.raises(FixTheCall, match="'w' has shards=3 since it was first deployed here, and not 1"):
            await engine.submit(Workflow("w", WIDE.root), {"n": 1})
        later = Workflow("w", Sequence(sample.add), version="2", shards=3)
        assert await (await engine.submit(later, {"n": 1})).result() == {"n": 2}
        assert await (await engine.submit(WIDE, {"n": 1})).result() == {"n": 3}

    Simulation().run(work)


@pytest.mark.parametrize("shards", [0, 65, 1.5])
def test_a_number_that_is_none_is_refused(shards):
    with pytest.raises(InvalidDefinition, match="shards"):
        Workflow("w", sample.add, shards=shards)


@pytest.mark.parametrize("victim", ["supervisor/w~1", "supervisor/w~1/wide-0", "coordinator", "everything"])
def test_every_shard_goes_on_after_a_crash(victim):
    slow = Workflow("w", Sequence(sample.wide, sample.wide), shards=2)

    async def work(engine):
        tasks = await engine.submit_many(slow, [{"n": n, "s": 1} for n in range(8)])
        await asyncio.sleep(1.5)
        for address in sorted(sim.cluster.addresses()) if victim == "everything" else [victim]:
            sim.kill(address)
        return [(await task.result())["n"] for task in tasks]

    sim = Simulation()
    assert sim.run(work) == [n + 2 for n in range(8)]


def test_a_shard_that_is_down_does_not_hold_up_the_others():
    poisoned = Workflow("w", Step(sample.wide), shards=2)

    async def work(engine):
        await engine.deploy(poisoned)
        for _ in range(10):
            sim.kill("supervisor/w~1")
            await asyncio.sleep(1)
        states = {name: facts["state"] for name, facts in (await engine.status())["workflows"].items()}
        ended = Counter()
        for n in range(10):
            try:
                ended[(await (await engine.submit(poisoned, {"n": n, "s": 0})).result())["n"] == n + 1] += 1
            except WorkflowDown as error:
                assert error.workflow == "w~1"
                ended["down"] += 1
        tasks = await engine.submit_many(poisoned, [{"n": 0, "s": 0}] * 4)
        return states, ended, [(await task.result())["n"] for task in tasks]

    sim = Simulation()
    states, ended, after = sim.run(work)
    assert states == {"w": "up", "w~1": "down"}
    assert set(ended) == {True, "down"}
    assert after == [1] * 4


def test_dead_letters_of_every_shard_are_driven_again_and_dropped():
    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", sample.fail, shards=2), [{"n": n} for n in range(4)])
        for task in tasks:
            with pytest.raises(TaskFailed):
                await task.result()
        letters = engine.dead_letters(workflow="w")
        assert {letter.id for letter in letters} == {task.id for task in tasks}
        again = await engine.redrive([task.id for task in tasks])
        for old, task in zip(tasks, again, strict=True):
            with pytest.raises(TaskFailed):
                await task.result()
            assert where(sim)[task.id] == where(sim)[old.id]
        await engine.drop([task.id for task in again])
        return engine.dead_letters(workflow="w")

    sim = Simulation()
    assert sim.run(work) == []


def test_nested_hierarchies_and_cancelling_work_in_every_shard():
    tiered = Workflow("w", Sequence(Hierarchy(sample.lead, team={"x": sample.wide}, name="team")), shards=2)

    async def work(engine):
        tasks = await engine.submit_many(tiered, [{"n": n, "s": 5} for n in range(4)])
        await asyncio.sleep(1)
        assert [await task.cancel() for task in tasks[:2]] == ["cancelled"] * 2
        results = [await task.result() for task in tasks[2:]]
        return {name for name in sim.disk.shards if is_tier(name)}, results

    sim = Simulation()
    tiers, results = sim.run(work)
    assert tiers == {"w.team", "w~1.team"}
    assert len(results) == 2


def test_a_quota_holds_over_all_shards_also_one_per_workflow():
    limited = Workflow("w", Step(sample.wide, quotas={"llm": 1}), shards=2)

    async def work(engine):
        tasks = await engine.submit_many(limited, [{"n": n, "s": 1} for n in range(12)])
        most = 0
        while not all([await task.wait(0.2) for task in tasks]):
            most = max(most, (await engine.status())["quotas"]["llm"]["held"])
        return most

    for limits in ({"llm": 3}, {"llm": 100, "llm per workflow": 3}):
        sim = Simulation(limits=limits)
        assert sim.run(work) == 3


def test_each_shard_rests_for_itself_and_wakes_for_what_is_asked_of_it():
    async def work(engine):
        (task, *_) = await engine.submit_many(WIDE, [{"n": n} for n in range(3)])
        await task.result()
        await asyncio.sleep(1_000)
        assert [name for name in sim.cluster.addresses() if name.startswith("supervisor")] == []
        kinds = [event.kind async for event in task.events()]
        awake = [name for name in sim.cluster.addresses() if name in {f"supervisor/{shard}" for shard in SHARDS}]
        return kinds[-1], awake, where(sim)[task.id]

    sim = Simulation()
    last, awake, shard = sim.run(work)
    assert last == "completed" and awake == [f"supervisor/{shard}"]


def test_files(tmp_path):
    keys = [f"k{n}" for n in range(8)]
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        tasks = engine.submit_many(WIDE, [{"n": n} for n in range(8)], keys=keys)
        assert [task.result() for task in tasks] == [{"n": n + 2} for n in range(8)]
    reader = FileReader(tmp_path)
    assert sorted(record.task_id for record in reader.list_tasks(workflow="w")) == sorted(task.id for task in tasks)
    assert {reader.find_task(task.id).shard for task in tasks} <= set(SHARDS)
    assert [each["name"] for each in reader.definitions()] == ["w"]
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        again = engine.submit_many(WIDE, [{"n": n} for n in range(8)], keys=keys)
        assert [task.id for task in again] == [task.id for task in tasks]
        with pytest.raises(FixTheCall, match="shards=3"):
            engine.deploy(Workflow("w", WIDE.root, shards=2))
