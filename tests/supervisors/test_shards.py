"""A workflow with several shards is one workflow to whoever uses it, and as many to whatever breaks."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.cluster.gateways.cli.metrics import exposition
from podium.cluster.simulation.cluster import SimulatedSession, SimulatedWorld
from podium.cluster.simulation.virtual_loop import PROCESS
from podium.cluster.store.sqlite.reading import FileReader
from podium.errors import (
    FixTheCall,
    InvalidDefinition,
    InvalidInput,
    JournalCorrupt,
    JournalFailed,
    KeyConflict,
    TaskFailed,
    WorkflowDown,
)
from podium.protocols.values import unpack
from podium.supervisors.messages.client import Deploy, Deployed
from podium.supervisors.shards import is_tier, is_within, shards_of, spread, tier_shard, top_shard, workflow_of
from podium.supervisors.supervisor import Supervisor
from podium.testing import Faults, Simulation
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
    assert [number for index in range(4) for number, place in enumerate(places) if index in place] == [6, 5, 6, 1]


def test_tasks_are_spread_and_all_of_them_are_found_again():
    async def work(engine):
        tasks = await engine.submit_many(WIDE, [{"n": n} for n in range(30)])
        assert [await task.result() for task in tasks] == [{"n": n + 2} for n in range(30)]
        one_by_one = [await engine.submit(WIDE, {"n": 0}) for _ in range(30)]
        [await task.result() for task in one_by_one]
        listed = await engine.tasks(workflow="w", limit=1000)
        assert {task.id for task in listed} == {task.id for task in (*tasks, *one_by_one)}
        for task in tasks[:6]:
            found = await engine.task(task.id)
            assert found.workflow == "w" and await found.read_status() == "completed"
            assert await found.result() == await task.result()
            assert [event.kind async for event in found.events()][-1] == "completed"
        assert [each["name"] for each in await engine.definitions()] == ["w"]
        return [task.id for task in tasks], [task.id for task in one_by_one], await engine.status()

    sim = Simulation()
    together, alone, status = sim.run(work)
    assert Counter(where(sim)[id] for id in together) == dict.fromkeys(SHARDS, 10)
    assert {where(sim)[id] for id in alone} == set(SHARDS)
    assert {name: each.state for name, each in status.workflows.items()} == dict.fromkeys(SHARDS, "up")
    figures = exposition(status)
    assert 'podium_workflow_up{workflow="w"} 1' in figures
    assert 'podium_workflow_up{workflow="w",shard="w~1"} 1' in figures


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


def keys_of(shard_number, count, shards=2):
    """Submission keys of the simulation's user that belong to a shard."""
    keys = [f"k{n}" for n in range(100)]
    places = spread([("sim", key) for key in keys], shards, 0)[shard_number]
    return [keys[place] for place in places[:count]]


@pytest.fixture
def carried(monkeypatch):
    """Protocols can be loaded from what came with a deployment only, as those of a driver's `__main__`."""
    load = SimulatedWorld.load_protocol

    def load_protocol(world, ref, code, path):
        if code is None:
            raise LookupError(f"{ref} is of another process")
        return load(world, ref, None, path)

    monkeypatch.setattr(SimulatedSession, "code_of", lambda _self, _workflow: {"tests.sample:wide": b"code"})
    monkeypatch.setattr(SimulatedWorld, "load_protocol", load_protocol)


def corrupt(shard):
    return JournalCorrupt(shard=shard, place="row 1", problem="damaged")


def test_a_shard_that_is_down_does_not_hold_up_the_others(unreadable):
    workflow = Workflow("w", Step(sample.wide), shards=2)

    async def work(engine):
        await engine.deploy(workflow)
        unreadable["w~1"] = corrupt("w~1")
        sim.kill("supervisor/w~1")
        await asyncio.sleep(5)
        states = {name: each.state for name, each in (await engine.status()).workflows.items()}
        for _ in range(2):  # after the first refusal the client deploys again
            with pytest.raises(WorkflowDown, match="'w~1' is down"):
                await engine.submit(workflow, {"n": 0}, key=keys_of(1, 1)[0])
            for key in keys_of(0, 3):
                assert await (await engine.submit(workflow, {"n": 1}, key=key)).result() == {"n": 2}
        unreadable.clear()
        await engine.deploy(Workflow("w", Step(sample.wide), shards=2, version="2"))
        (key,) = keys_of(1, 1)
        return states, await (await engine.submit(workflow, {"n": 1}, key=key)).result()

    sim = Simulation()
    assert sim.run(work) == ({"w": "up", "w~1": "down"}, {"n": 2})


def test_a_workflow_all_of_whose_shards_are_down_is_down(unreadable):
    async def work(engine):
        unreadable.update({shard: corrupt(shard) for shard in SHARDS})
        with pytest.raises(WorkflowDown):
            await engine.submit(WIDE, {"n": 1})

    Simulation().run(work)


def test_a_shard_that_waits_for_its_disk_does_not_hold_up_the_others(unreadable):
    workflow = Workflow("w", Step(sample.wide), shards=2)

    async def work(engine):
        await engine.deploy(workflow)
        unreadable["w~1"] = JournalFailed(shard="w~1", reason="permission denied")
        sim.kill("supervisor/w~1")
        await asyncio.sleep(5)
        later = Workflow("w", Sequence(sample.wide, sample.wide), shards=2, version="2")
        assert await (await engine.submit(later, {"n": 1}, key=keys_of(0, 1)[0])).result() == {"n": 3}
        waiting = asyncio.ensure_future(engine.submit(later, {"n": 1}, key=keys_of(1, 1)[0]))
        await asyncio.sleep(40)
        assert not waiting.done()
        unreadable.clear()
        return await (await waiting).result()

    sim = Simulation()
    assert sim.run(work) == {"n": 3}


def test_a_shard_that_is_down_fails_nothing_in_the_others_whose_code_their_client_carries(unreadable, carried):
    workflow = Workflow("w", Sequence(sample.wide, sample.wide), shards=2)

    async def work(engine):
        tasks = await engine.submit_many(workflow, [{"n": n, "s": 20} for n in range(4)])
        await asyncio.sleep(1)
        unreadable["w~1"] = corrupt("w~1")
        sim.kill("supervisor/w~1")
        await asyncio.sleep(5)
        sim.kill("supervisor/w")
        ended = Counter()
        for task in tasks:
            try:
                await task.result()
                ended[where(sim)[task.id], "completed"] += 1
            except WorkflowDown:
                ended[where(sim)[task.id], "down"] += 1
        return ended

    sim = Simulation()
    assert sim.run(work) == {("w", "completed"): 2, ("w~1", "down"): 2}


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_code_that_a_client_carries_reaches_every_shard_once_after_the_coordinator_died(carried, monkeypatch, shards):
    workflow = Workflow("w", Sequence(sample.wide), shards=shards)
    deployed = Counter()
    receive = Supervisor.receive

    def counted(supervisor, ask):
        deployed[ask.kind] += 1
        receive(supervisor, ask)

    async def work(engine):
        first = await engine.submit(workflow, {"n": 1}, key=keys_of(0, 1, shards)[0])
        await first.result()
        sim.kill("coordinator")
        await asyncio.sleep(3)
        deployed.clear()
        tasks = [await engine.submit(workflow, {"n": 1}, key=keys_of(number, 2, shards)[1]) for number in range(shards)]
        return [await task.result() for task in tasks]

    monkeypatch.setattr(Supervisor, "receive", counted)
    sim = Simulation()
    assert sim.run(work) == [{"n": 2}] * shards
    assert deployed["govern"] == shards


def test_a_shard_that_is_idle_when_the_coordinator_dies_holds_no_permits_back():
    step = Step(sample.wide, quotas={"llm": 1})
    workflow = Workflow("w", Sequence(step, step), shards=2)

    async def work(engine):
        inputs = [{"n": n, "s": 1} for n in range(2)]
        tasks = await engine.submit_many(workflow, inputs, keys=keys_of(0, 2))
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        sim.kill("coordinator")
        assert [(await task.result())["n"] for task in tasks] == [2, 3]
        return asyncio.get_running_loop().time() - began

    sim = Simulation(limits={"llm": 1})
    assert sim.run(work) < 15


def test_a_deployment_that_reached_one_shard_only_reaches_the_others_when_they_start():
    first = Workflow("w", Sequence(sample.add), shards=2)
    second = Workflow("w", Sequence(sample.add, sample.add), shards=2, version="2")

    def current(sim):
        return {
            unpack(sim.disk.shards[shard].notes["current"]) == definition_of(second)["hash"] for shard in ("w", "w~1")
        }

    def run(seed):
        async def work(engine):
            await engine.deploy(first)
            deploying = asyncio.ensure_future(engine.deploy(second))
            while current(sim) == {False}:
                await asyncio.sleep(0.0005)
            halfway = current(sim)
            deploying.cancel()
            sim.kill("coordinator")
            await asyncio.sleep(20)
            (definition,) = await engine.definitions()
            for _ in range(4):
                task = await engine.submit_to(definition, {"n": 0}, user="ada")
                assert await task.result() == {"n": 2 if definition["version"] == "2" else 1}
            return halfway == {True, False}

        sim = Simulation(seed, faults=Faults(commit_s=0.05, delay_s=0.02))
        return sim.run(work)

    halfway = [run(seed) for seed in range(8)]
    assert any(halfway)


def test_status_may_be_asked_for_while_workflows_are_deployed():
    async def work(engine):
        await engine.deploy(WIDE)

        async def look():
            for _ in range(200):
                await engine.status()

        looking = asyncio.ensure_future(look())
        for n in range(5):
            await engine.deploy(Workflow(f"v{n}", Sequence(sample.add), shards=2))
        await looking

    Simulation(faults=Faults(delay_s=0.01)).run(work)


@pytest.mark.parametrize("shards", [1, 2])
def test_keys_and_users_that_are_no_text_are_refused(shards):
    async def work(engine):
        for bad in ("\ud800", 7, b"k"):
            for name in ("key", "user"):
                with pytest.raises(InvalidInput, match=name):
                    await engine.submit(Workflow("w", sample.add, shards=shards), {"n": 1}, **{name: bad})

    Simulation().run(work)


def test_dead_letters_of_every_shard_are_driven_again_and_dropped():
    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", sample.fail, shards=2), [{"n": n} for n in range(4)])
        for task in tasks:
            with pytest.raises(TaskFailed):
                await task.result()
        letters = await engine.dead_letters(workflow="w")
        assert {letter.id for letter in letters} == {task.id for task in tasks}
        again = await engine.redrive([task.id for task in tasks])
        for old, task in zip(tasks, again, strict=True):
            with pytest.raises(TaskFailed):
                await task.result()
            assert where(sim)[task.id] == where(sim)[old.id]
        await engine.drop([task.id for task in again])
        return await engine.dead_letters(workflow="w")

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
            most = max(most, (await engine.status()).quotas["llm"].held)
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


@podium.protocol(quotas={"llm": 1}, concurrency=10)
async def limited(ctx: podium.Context, input: dict) -> dict:
    process = PROCESS.get()
    RUNNING[ctx.task_id] = process
    MOST.append(sum(not other.dead for other in RUNNING.values()))
    try:
        await asyncio.sleep(input["s"])
    finally:
        RUNNING.pop(ctx.task_id, None)
    return input


RUNNING = {}
"""By task: the simulated process that runs it."""
MOST = []


@pytest.mark.parametrize("seed", range(6))
def test_telling_of_those_that_are_gone_late_costs_no_permit_of_those_that_live(seed):
    """Idle shards are told to be gone while one of them has been started for an older version, which has quotas."""
    RUNNING.clear()
    MOST.clear()
    old = {name: Workflow(name, Step(limited)) for name in ("w", "x")}

    async def work(engine):
        for name, workflow in old.items():
            await (await engine.submit(workflow, {"s": 0})).result()
            await engine.deploy(Workflow(name, Step(sample.wide), version="2"))
        await engine.deploy(Workflow("idle", Step(sample.wide), shards=8))
        wanting = Workflow("wanting", Step(limited))
        await engine.deploy(wanting)
        await asyncio.sleep(2)
        sim.kill("coordinator")
        await asyncio.sleep(0.5)
        first = asyncio.ensure_future(engine.submit(wanting, {"s": 1}))
        await asyncio.sleep(0.1)
        tasks = [await engine.submit(workflow, {"s": 30}) for workflow in old.values()]
        for task in [await first, *tasks]:
            assert await task.result()

    sim = Simulation(seed, {"llm": 1}, Faults(delay_s=0.3))
    sim.run(work, 1_000)
    assert max(MOST) == 1


def test_an_older_version_keeps_its_quotas_after_the_coordinator_died():
    async def work(engine):
        first = Workflow("w", Sequence(sample.wide, Step(sample.wide, quotas={"llm": 1})))
        task = await engine.submit(first, {"n": 1, "s": 5})
        await engine.deploy(Workflow("w", Step(sample.wide), version="2"))
        sim.kill("coordinator")
        return await task.result()

    sim = Simulation(limits={"llm": 1})
    assert sim.run(work, 1_000) == {"n": 3}


def test_a_supervisor_going_down_while_the_resource_actor_is_stopped_ends_nobody_else():
    workflow = Workflow("w", Step(sample.wide, quotas={"llm": 1}))

    async def work(engine):
        await engine.submit(workflow, {"n": 1, "s": 500})
        await asyncio.sleep(1)
        coordinator = sim.cluster.alive("coordinator")
        for n in range(4):
            if n == 3:
                sim.freeze("resources", 200)
            sim.kill("supervisor/w")
            await asyncio.sleep(3 if n < 3 else 100)
        return sim.cluster.alive("coordinator") is coordinator

    sim = Simulation(limits={"llm": 1})
    assert sim.run(work)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_client_that_brings_its_code_again_does_not_bring_its_version_back(carried, shards):
    first = Workflow("w", Sequence(sample.wide), shards=shards)
    second = Workflow("w", Sequence(sample.wide, sample.wide), shards=shards, version="2")

    async def work(engine):
        tasks = await engine.submit_many(first, [{"n": n, "s": 60} for n in range(4)])
        carrying, engine.core._carried = engine.core._carried, defaultdict(dict)
        await engine.deploy(second)  # another client's
        engine.core._carried = carrying
        sim.kill("coordinator")
        assert [(await task.result())["n"] for task in tasks] == [1, 2, 3, 4]
        return [each["version"] for each in await engine.definitions()]

    sim = Simulation()
    assert sim.run(work) == ["2"]


def test_a_deployment_waits_for_no_shard_whose_journal_cannot_be_opened(unreadable):
    workflow = Workflow("w", Step(sample.wide), shards=2)

    async def work(engine):
        unreadable["w~1"] = JournalFailed(shard="w~1", reason="permission denied")
        healthy = await asyncio.wait_for(engine.submit(workflow, {"n": 1}, key=keys_of(0, 1)[0]), 100)
        unreadable["w"] = unreadable["w~1"]
        sim.kill("supervisor/w")
        await asyncio.sleep(100)
        later = Workflow("w", Sequence(sample.wide, sample.wide), shards=2, version="2")
        deploying = asyncio.ensure_future(engine.deploy(later))
        await asyncio.sleep(40)
        assert not deploying.done()
        unreadable.clear()
        await deploying
        return await healthy.result()

    sim = Simulation()
    assert sim.run(work) == {"n": 2}


def test_a_coordinator_that_takes_its_time_and_dies_then_has_not_been_away_all_the_time(unreadable):
    workflow = Workflow("w", Step(sample.wide))

    async def work(engine):
        unreadable["w"] = JournalFailed(shard="w", reason="disk full")
        message = Deploy(definition_of(workflow), {})
        deploying = asyncio.ensure_future(engine._core.ask_coordinator(message, Deployed))
        await asyncio.sleep(engine.settings.reconnect_s + 100)
        sim.kill("coordinator")
        await asyncio.sleep(5)
        unreadable.clear()
        await deploying
        return await (await engine.submit(workflow, {"n": 1})).result()

    sim = Simulation()
    assert sim.run(work) == {"n": 2}
