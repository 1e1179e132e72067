"""The sweeper in the simulated cluster: what nobody names goes, what somebody names stays, whatever happens."""

from __future__ import annotations

import asyncio

import numpy as np

import podium
from podium import Workflow
from podium.testing import Simulation

GRACE_S = 100.0


@podium.protocol
async def slow(array: np.ndarray) -> np.ndarray:
    await asyncio.sleep(0.5)
    return array


FLOW = Workflow("w", slow)


def played(work, **settings):
    simulation = Simulation(blob_grace_s=GRACE_S, **settings)
    return simulation.run(work), simulation


def put(engine, n: int):
    """Store a content that nobody names."""
    return engine.core._session.world.blobs.put([bytes([n]) * 1000])


def names(scene) -> set[str]:
    return set(scene.disk.blobs.blobs)


def test_a_content_that_is_put_and_never_named_goes_after_two_graces_and_not_before():
    async def work(engine):
        key, scene = put(engine, 1), engine.core._session._scene
        await asyncio.sleep(1.9 * GRACE_S)
        was_there = key.name in names(scene)
        await asyncio.sleep(0.7 * GRACE_S)
        return was_there

    was_there, simulation = played(work)
    assert was_there and names(simulation) == set()


def test_a_content_that_is_put_shortly_before_a_sweep_can_be_named_for_a_whole_grace():
    """Between the acceptance and a sweep lies nothing, at whatever moment the content is put."""

    async def work(engine):
        for n in range(40):
            array = np.full(50_000, float(n % 3))
            task = await engine.submit(FLOW, array)
            assert (await task.result()).sum() == array.sum()
            await asyncio.sleep(17.0)

    played(work, keep_finished_s=20.0)


def test_what_was_doomed_is_spared_when_it_is_named():
    async def work(engine):
        scene = engine.core._session._scene
        task = await engine.submit(FLOW, np.zeros(50_000))
        await task.result()
        (name,) = names(scene)
        scene.disk.blobs.doomed[name] = scene.now()
        await asyncio.sleep(3 * GRACE_S)
        return name in names(scene) and name not in scene.disk.blobs.doomed

    assert played(work)[0]


def test_a_clock_that_is_set_shortens_no_grace():
    async def work(engine):
        key, scene = put(engine, 1), engine.core._session._scene
        await asyncio.sleep(1.3 * GRACE_S)  # it is doomed
        assert key.name in scene.disk.blobs.doomed
        scene.clock_offset_s = 100_000.0
        await asyncio.sleep(0.6 * GRACE_S)
        is_there = key.name in names(scene)
        await asyncio.sleep(1.2 * GRACE_S)
        return is_there

    is_there, simulation = played(work)
    assert is_there and names(simulation) == set()


def test_a_store_that_is_away_is_swept_later_and_said_so():
    async def work(engine):
        put(engine, 1)
        scene = engine.core._session._scene
        scene.blobs_back_at = scene.loop.time() + 3 * GRACE_S
        await asyncio.sleep(5.6 * GRACE_S)

    _, simulation = played(work)
    assert names(simulation) == set()
    told = [line for level, line in simulation.logged if "blobs not swept" in line]
    assert told and "out of reach" in told[0]
    assert any("blobs swept" in line and "bytes=1000" in line for _, line in simulation.logged)


def test_a_shard_that_cannot_be_read_keeps_everything(monkeypatch):
    from podium.cluster.store.memory.reading import DiskReader
    from podium.errors import JournalCorrupt

    def unreadable(_reader):
        raise JournalCorrupt(shard="w", place="blob x", problem="the checksum does not match")

    monkeypatch.setattr(DiskReader, "blob_uses", unreadable)

    async def work(engine):
        put(engine, 1)
        await asyncio.sleep(4 * GRACE_S)

    _, simulation = played(work)
    assert len(names(simulation)) == 1


def test_a_coordinator_that_dies_between_two_sweeps_goes_on():
    async def work(engine):
        put(engine, 1)
        for _ in range(6):
            await asyncio.sleep(0.5 * GRACE_S)
            engine.core._session._scene.kill("coordinator")
        await asyncio.sleep(GRACE_S)

    _, simulation = played(work)
    assert names(simulation) == set()
