"""Environments of hosts: they reach each start of a host with their packages, and wait for better times if broken."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.simulation.cluster import SimulatedWorld
from podium.errors import InvalidDefinition, SpawnFailed
from podium.protocols.environment import PACKAGE
from podium.protocols.errors import ENVIRONMENT_FAILED
from podium.supervisors.running.pool import RETRY_ENVIRONMENT_S
from podium.supervisors.versions import KEPT_VERSIONS
from podium.testing import Simulation, simulate
from tests import sample


class Spawns:
    """The environments with which hosts were started, and whether they can be prepared now."""

    def __init__(self):
        self.seen = []
        self.is_broken = False


@pytest.fixture
def spawns(monkeypatch):
    spawns = Spawns()
    spawn = SimulatedWorld.spawn

    async def watched(world, role, address, setup, needs):
        if role == "host" and needs.environment is not None:
            spawns.seen.append(needs.environment)
            if spawns.is_broken:
                await asyncio.sleep(3)
                raise SpawnFailed(address=address, reason="pip: no such thing", kind=ENVIRONMENT_FAILED)
        return await spawn(world, role, address, setup, needs)

    monkeypatch.setattr(SimulatedWorld, "spawn", watched)
    return spawns


def in_folder(folder, text="x = 1", name="inside"):
    folder.mkdir(exist_ok=True)
    (folder / "inner.py").write_text(text)

    @podium.protocol(name=name, runtime_env={"working_dir": folder})
    async def inside(input):
        await asyncio.sleep(input["s"])
        return {"n": input["n"] + 1}

    return inside


@podium.protocol(runtime_env={"env_vars": {"HUE": "teal"}})
async def hued(input):
    await asyncio.sleep(input.get("s", 0))
    return {"n": input["n"] + 1}


def packages_in(sim, shard="w"):
    return {name for name in sim.disk.shard(shard).notes if name.startswith(PACKAGE)}


REFUSED = r"it needs an environment of its own \(env_vars\), which one process cannot give: use cluster='ray'"


def test_one_process_refuses_an_environment_and_says_what_to_do():
    with pytest.raises(SpawnFailed, match=REFUSED):
        simulate(Workflow("w", Sequence(hued)), [{"n": 1}])


def test_so_does_a_cluster_in_this_process(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        with pytest.raises(SpawnFailed, match=REFUSED):
            engine.submit(Workflow("w", Sequence(hued)), {"n": 1})
        assert engine.submit(Workflow("v", Sequence(sample.add)), {"n": 1}).result(timeout_s=60) == {"n": 2}


def test_a_working_dir_of_the_client_is_refused_in_one_process_too(tmp_path):
    async def work(engine):
        await engine.submit(Workflow("w", Sequence(sample.add)), {"n": 1})

    with pytest.raises(SpawnFailed, match=r"\(working_dir\)"):
        Simulation(working_dir=str(tmp_path)).run(work)


def test_a_test_may_ignore_it():
    assert simulate(Workflow("w", Sequence(hued)), [{"n": 1}], ignore_runtime_env=True) == [{"n": 2}]


def test_each_start_of_a_host_gets_the_environment_with_its_package(spawns, tmp_path):
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(in_folder(tmp_path / "a"))), {"n": 1, "s": 5})
        await asyncio.sleep(1)
        sim.kill("supervisor/w/inside-0")
        return await task.result()

    sim = Simulation(ignore_runtime_env=True, runtime_env_timeout_s=77.0)
    assert sim.run(work) == {"n": 2}
    assert len(spawns.seen) == 2
    for environment in spawns.seen:
        assert environment.spec == {"working_dir": next(iter(environment.packages))}
        assert environment.timeout_s == 77.0


def test_another_cluster_has_the_packages_of_open_tasks_although_the_folder_is_gone(spawns, tmp_path):
    async def begin(engine):
        await engine.submit(Workflow("w", Sequence(in_folder(tmp_path / "a"))), {"n": 1, "s": 5}, key="k")
        await asyncio.sleep(1)

    async def go_on(engine):
        (task,) = await engine.tasks()
        return await task.result()

    first = Simulation(ignore_runtime_env=True)
    first.run(begin)
    (tmp_path / "a" / "inner.py").unlink()
    packages = spawns.seen[0].packages
    spawns.seen.clear()
    second = Simulation(ignore_runtime_env=True)
    second.disk = first.disk
    assert second.run(go_on) == {"n": 2}
    assert [each.packages for each in spawns.seen] == [packages]


def test_hosts_below_a_nested_hierarchy_get_packages_from_above(spawns, tmp_path):
    async def work(engine):
        team = Hierarchy(sample.lead, team={"x": in_folder(tmp_path / "a")}, name="h")
        task = await engine.submit(Workflow("w", Sequence(Step(sample.echo), team)), {"n": 1, "s": 1})
        await task.result()
        sim.kill("supervisor/w/h")
        task = await engine.submit(Workflow("w", Sequence(Step(sample.echo), team)), {"n": 1, "s": 1})
        return await task.result()

    sim = Simulation(ignore_runtime_env=True)
    assert sim.run(work) == {"x": {"n": 2}}
    assert all(len(each.packages) == 1 for each in spawns.seen)
    assert len(spawns.seen) >= 2
    assert packages_in(sim, "w/h") == set()


def test_a_version_that_came_while_its_shard_slept_has_its_package(spawns, tmp_path):
    async def work(engine):
        for number in range(2):
            flow = Workflow("w", Sequence(in_folder(tmp_path / "a", f"x = {number}")))
            assert await (await engine.submit(flow, {"n": 1, "s": 1})).result() == {"n": 2}
            await asyncio.sleep(100)

    Simulation(ignore_runtime_env=True, rest_after_s=20.0).run(work)
    assert len({next(iter(each.packages)) for each in spawns.seen}) == 2


def test_packages_are_kept_with_open_tasks_and_with_the_last_versions(spawns, tmp_path):
    async def work(engine):
        old = await engine.submit(Workflow("w", Sequence(in_folder(tmp_path / "a"))), {"n": 1, "s": 500})
        (oldest,) = packages_in(sim)
        for number in range(KEPT_VERSIONS + 3):
            await engine.deploy(Workflow("w", Sequence(in_folder(tmp_path / "a", f"y = {number}"))))
        await asyncio.sleep(60)
        kept = packages_in(sim)
        assert oldest in kept
        assert len(kept) == KEPT_VERSIONS + 1
        await old.result()
        await asyncio.sleep(60)
        return packages_in(sim) == kept - {oldest}

    sim = Simulation(ignore_runtime_env=True)
    assert sim.run(work)


def test_a_broken_environment_fails_its_deployment_and_nothing_else(spawns):
    async def work(engine):
        other = Workflow("other", Sequence(sample.slow))
        before = await engine.submit(other, {"n": 1, "s": 5})
        spawns.is_broken = True
        with pytest.raises(SpawnFailed, match=r"hued-0 did not start: pip: no such thing"):
            await engine.submit(Workflow("w", Sequence(hued)), {"n": 1})
        after = await engine.submit(other, {"n": 2, "s": 1})
        assert (await engine.status()).workflows["other"].restarts == 0
        await before.result()
        await after.result()
        return (await engine.status()).workflows["w"].state

    assert Simulation(ignore_runtime_env=True).run(work) == "up"


def test_an_environment_that_breaks_under_open_tasks_is_tried_again(spawns):
    async def work(engine):
        loop = asyncio.get_running_loop()
        task = await engine.submit(Workflow("w", Sequence(hued)), {"n": 1, "s": 5})
        await asyncio.sleep(1)
        spawns.is_broken = True
        spawns.seen.clear()
        sim.kill("supervisor/w/hued-0")
        await asyncio.sleep(2.5 * RETRY_ENVIRONMENT_S)
        assert "pip: no such thing" in next(iter(engine._core.reader.blocked("w").values())).popitem()[1]
        assert len(spawns.seen) == 3
        spawns.is_broken = False
        began_at = loop.time()
        assert await task.result() == {"n": 2}
        assert loop.time() - began_at < RETRY_ENVIRONMENT_S + 20
        await asyncio.sleep(20)
        return engine._core.reader.blocked("w")

    sim = Simulation(ignore_runtime_env=True)
    assert sim.run(work) == {}


def test_a_deployment_mends_it_at_once(spawns):
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(hued)), {"n": 1, "s": 5})
        await asyncio.sleep(1)
        spawns.is_broken = True
        sim.kill("supervisor/w/hued-0")
        await asyncio.sleep(20)
        spawns.is_broken = False
        engine._core._deployed.clear()
        await engine.deploy(Workflow("w", Sequence(hued)))
        began_at = asyncio.get_running_loop().time()
        await task.result()
        return asyncio.get_running_loop().time() - began_at

    sim = Simulation(ignore_runtime_env=True)
    assert sim.run(work) < 20


def test_a_folder_that_is_gone_is_refused_before_anything_is_sent(spawns, tmp_path):
    async def work(engine):
        flow = Workflow("w", Sequence(in_folder(tmp_path / "a")))
        (tmp_path / "a" / "inner.py").unlink()
        (tmp_path / "a").rmdir()
        with pytest.raises(InvalidDefinition, match=r"inside.*: .*a: No such file or directory"):
            await engine.deploy(flow)
        return sim.disk.shards.keys()

    sim = Simulation(ignore_runtime_env=True)
    assert "w" not in sim.run(work)
