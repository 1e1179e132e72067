"""A data folder that cannot be one: an error of ours, with the place, in every kind of cluster."""

from __future__ import annotations

import re

import pytest

import podium
from podium.errors import InvalidSetting


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
