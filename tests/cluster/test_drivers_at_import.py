"""A module that drives when it is imported: actors that import it say so, instead of waiting for themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from podium.cluster.world import load_from_path
from podium.errors import FixTheCall
from tests.support import ROOT

PROTOCOL = """
import podium, asyncio

@podium.protocol
def double(n: int):
    return 2 * n

workflow = podium.Workflow("doubling", double)
"""
SAYS = r"podium.connect is reached when a host imports the module of '{}:double'.*`if __name__ == \"__main__\":`"
DRIVES = {
    "submits": "with podium.connect(data='data', cluster='inprocess') as engine:\n    engine.submit(workflow, 3)\n",
    "only_connects": "engine = podium.connect(data='data', num_cpus=1)\n",
    "by_hand": "engine = podium.Engine(podium.Settings(data='data', cluster='inprocess'))\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("name", DRIVES)
def test_a_module_that_drives_at_import_is_told_so(folder, name):
    (folder / f"drives_{name}.py").write_text(PROTOCOL + DRIVES[name])
    with pytest.raises(LookupError, match=SAYS.format(f"drives_{name}")):
        load_from_path(f"drives_{name}:double", [str(folder)])
    assert not (folder / "data").exists()


def test_what_it_imports_is_told_so_too(folder):
    (folder / "drives_below.py").write_text(PROTOCOL + DRIVES["submits"])
    (folder / "drives_above.py").write_text("from drives_below import double\n")
    with pytest.raises(LookupError, match=r"podium\.connect is reached .* imports the module of 'drives_above:d"):
        load_from_path("drives_above:d", [str(folder)])


def test_an_async_driver_is_told_what_to_do(folder):
    (folder / "drives_async.py").write_text(PROTOCOL + "asyncio.run(asyncio.sleep(0))\n")

    async def load():
        load_from_path("drives_async:double", [str(folder)])

    with pytest.raises(LookupError, match=r"asyncio.run\(\) cannot be called .*; put what .*under `if __name__ =="):
        asyncio.run(load())


def test_a_guarded_module_and_a_step_that_connects_are_none_of_this(folder):
    guarded = PROTOCOL + "if __name__ == '__main__':\n    podium.connect()\n"
    inside = guarded.replace("    return 2 * n", "    return podium.connect(data='x', cluster='moon')")
    (folder / "drives_not.py").write_text(inside)
    target = load_from_path("drives_not:double", [str(folder)])
    with pytest.raises(FixTheCall, match="setting 'cluster'"):
        target(1)


@pytest.mark.ray
def test_on_ray_the_deployment_says_it(tmp_path):
    (tmp_path / "driver_of_itself.py").write_text(
        PROTOCOL + "with podium.connect(data='data', num_cpus=1) as engine:\n"
        "    print(engine.submit(workflow, 3).result(timeout_s=60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import driver_of_itself"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "SpawnFailed" in last and "podium.connect is reached when a host imports" in last
