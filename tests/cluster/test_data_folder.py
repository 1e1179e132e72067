"""A data folder that cannot be one: an error of ours, with the place, in every kind of cluster."""

from __future__ import annotations

import re

import pytest

import podium
from podium.errors import InvalidSetting, Overloaded


def file(place):
    (place / "data").write_text("x")
    return place / "data"


def below_a_file(place):
    (place / "file").write_text("x")
    return place / "file" / "data"


def loop(place):
    (place / "data").symlink_to(place / "data")
    return place / "data"


def too_long(place):
    return place / ("x" * 300)


def zero_byte(place):
    return f"{place}/a\0b"


def lock_is_a_folder(place):
    (place / "data" / "cluster.lock").mkdir(parents=True)
    return place / "data"


def facts_are_a_folder(place):
    (place / "data" / "cluster.json").mkdir(parents=True)
    return place / "data"


CASES = {
    file: "it is there, and no folder",
    below_a_file: "Not a directory (.*/file/data)",
    loop: "it is there, and no folder",
    too_long: "File name too long (.*)",
    zero_byte: "a path has no zero bytes",
    lock_is_a_folder: "Is a directory (.*/cluster.lock)",
    facts_are_a_folder: "Is a directory (.*/cluster.json)",
}


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
@pytest.mark.parametrize("cluster", ["inprocess", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_folder_that_cannot_be_used_is_named(tmp_path, made, cluster):
    says = re.escape(CASES[made]).replace(r"\.\*", ".*")
    with pytest.raises(InvalidSetting, match=rf"^setting 'data' \(.*\): cannot be used: {says}$"):
        podium.connect(data=made(tmp_path), cluster=cluster, num_cpus=1)


@pytest.mark.ray
def test_a_token_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "data" / "ray.token").mkdir(parents=True)
    with pytest.raises(InvalidSetting, match=r"cannot be used: Is a directory \(.*/ray\.token\)"):
        podium.connect(data=tmp_path / "data", num_cpus=1)


@podium.protocol
async def same(n: int):
    return n


def test_one_shard_that_cannot_be_read_keeps_no_other_workflow_from_its_work(tmp_path):
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        for name in ("sound", "broken"):
            assert engine.submit(podium.Workflow(name, same), 1).result(timeout_s=30) == 1
    for path in (tmp_path / "shards").glob("broken.*"):
        path.unlink()
    (tmp_path / "shards" / "broken.db").mkdir()
    with podium.connect(data=tmp_path, cluster="inprocess", reconnect_s=1) as engine:
        assert engine.submit(podium.Workflow("sound", same), 2).result(timeout_s=30) == 2
        with pytest.raises(
            Overloaded, match="workflow 'broken' does not start: journal of shard 'broken' cannot write"
        ):
            engine.submit(podium.Workflow("broken", same), 2)
