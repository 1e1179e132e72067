"""Large values on a real Ray cluster: every type, real kills, and which process holds what."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import psutil
import pytest

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.stores import blobs_of
from podium.errors import BlobMissing, BlobsAway, InvalidSetting
from tests.support import typed
from tests.support.processes import pid_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

MB = 1_000_000
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with podium.connect(data=tmp_path_factory.mktemp("values"), inline_bytes=64, num_cpus=2) as engine:
        yield engine


@podium.protocol
def grow(ctx: podium.Context, n: int) -> dict[str, np.ndarray]:
    with ctx.new_file("n.txt") as file:
        file.write(str(n).encode())
    ctx.emit(np.full(1000, n))
    return {"array": np.full(MB // 4, n, dtype=np.float32)}


@podium.protocol
def slowly(arrays: dict[str, podium.Lazy[np.ndarray]]) -> dict[str, podium.Lazy[np.ndarray]]:
    time.sleep(0.02)
    return arrays


@podium.protocol
def total(arrays: dict[str, np.ndarray]) -> float:
    return float(arrays["array"].sum())


def kill(engine, address: str) -> None:
    """Kill an actor as soon as it runs."""
    deadline = time.monotonic() + 30
    while (pid := pid_of(engine, address)) is None:
        assert time.monotonic() < deadline, f"{address} does not run"
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


CHAIN = Workflow("chain", Sequence(grow, slowly, total))


def test_values_of_every_type_go_through_with_every_part_in_the_store(engine):
    typed.goes_through(engine)


def test_real_kills_lose_no_value_and_leave_none_dangling(engine):
    assert engine.submit(CHAIN, 1).result(timeout_s=60) == MB // 4
    tasks = engine.submit_many(CHAIN, list(range(60)))
    for victim in ("supervisor/chain", "supervisor/chain/grow-0", "supervisor/chain/total-0", "coordinator"):
        kill(engine, victim)
    assert [task.result(timeout_s=120) for task in tasks] == [n * MB / 4 for n in range(60)]
    store = blobs_of(engine.settings.store)
    uses = {(use.name, use.size) for use in engine._core.reader.blob_uses()}
    assert uses and all(store.size_of(name) == size for name, size in uses)


def test_a_large_array_is_held_by_nobody_but_its_hosts(engine):
    @podium.protocol
    def makes(n: int) -> np.ndarray:
        return np.full(n, 1.0)

    @podium.protocol
    async def takes(array: np.ndarray) -> float:
        return float(array[-1])

    flow = Workflow("held", Sequence(makes, takes))
    assert engine.submit(flow, 1000).result(timeout_s=60) == 1.0
    others = [psutil.Process(), *(psutil.Process(pid_of(engine, name)) for name in ("coordinator", "supervisor/held"))]
    before = [process.memory_info() for process in others]
    assert engine.submit(flow, 20 * MB).result(timeout_s=60) == 1.0
    grown = [after.rss - facts.rss for after, facts in zip([p.memory_info() for p in others], before, strict=True)]
    assert max(grown) < 20 * MB, "160 MB went from step to step"


def test_a_file_goes_up_and_comes_back(engine, tmp_path):
    (tmp_path / "in.bin").write_bytes(os.urandom(5 * MB))

    @podium.protocol
    def halves(ctx: podium.Context, file: podium.File) -> list[podium.File]:
        found = []
        with file.open() as stream:
            for n in range(2):
                with ctx.new_file(f"half-{n}") as half:
                    half.write(stream.read(file.size_bytes // 2))
                found.append(half.file)
        return found

    one, two = engine.submit(Workflow("halves", halves), podium.File(tmp_path / "in.bin")).result(timeout_s=60)
    assert one.read_bytes() + two.read_bytes() == (tmp_path / "in.bin").read_bytes()
    assert (one.name, two.size_bytes) == ("half-0", 5 * MB // 2)


def test_a_large_object_of_ray_is_taken_in(engine):
    import ray

    given = {"array": ray.put(np.ones(MB // 4, dtype=np.float32))}
    flow = Workflow("taken", Sequence(Step(slowly), Parallel({"a": total, "b": total})))
    assert engine.submit(flow, given).result(timeout_s=60) == {"a": MB / 4, "b": MB / 4}


def test_another_blob_store_than_the_cluster_has_is_refused(engine, tmp_path):
    with (
        podium.connect(data=engine.settings.data, blobs=f"file://{tmp_path}") as other,
        pytest.raises(
            InvalidSetting,
            match="the cluster has its blobs beside the journal, this client file:///",
        ),
    ):
        other.submit(CHAIN, 1)


def test_a_folder_of_another_machine_is_reached_through_ray(engine, tmp_path):
    """Here the other machine is this one. On three machines: test_ray_machines.py."""
    import ray

    from podium.cluster.on_ray.node_blobs import PIECE_BYTES, NodeBlobs, blobs_on

    place = engine.settings.store._replace(folder=str(tmp_path), node=ray.get_runtime_context().get_node_id())
    store, content = blobs_on(place), os.urandom(PIECE_BYTES + 1000)
    key = store.put([content])
    assert FolderBlobs(tmp_path / "blobs").size_of(key.name) == len(content) == store.size_of(key.name)
    store.cache.path(key.name).unlink()
    assert bytes(store.get(key)) == content
    store.doom(key.name, NOW)
    assert [(blob.name, blob.doomed_at) for blob in store.listing()] == [(key.name, NOW)]
    assert store.renewed(key).generation == 1
    store.spare(key.name)
    assert store.renewed(key) == key
    store.doom(key.name, NOW)
    store.delete(key.name, NOW)
    with pytest.raises(BlobMissing, match=f"is not in {tmp_path}/blobs: it is lost"):
        store.get(key)
    assert list((tmp_path / "blobs" / "drafts").iterdir()) == []
    gone = NodeBlobs("0" * 56, str(tmp_path))
    with pytest.raises(BlobsAway, match="the machine that has it cannot be reached"):
        gone.size_of(key.name)
