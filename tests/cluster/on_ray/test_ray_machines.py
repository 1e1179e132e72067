"""On a Ray cluster of three machines: hosts spread, shards stay with their folder, and a machine may die."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support import machines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not())),
]
DRIVER = [sys.executable, "-m", "tests.support.machines.load"]


@pytest.fixture(scope="module")
def three():
    with machines.machines(3) as made:
        yield made


def drive(three, data, count):
    words = [*DRIVER, data, three.address, str(count)]
    return subprocess.Popen(three.command(1, words, {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(driver):
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def test_hosts_spread_over_the_machines_and_every_acknowledged_task_is_found(three):
    said = told(drive(three, "/tmp/spread", 60))
    assert set(said["ran"]) == {"machine1", "machine2", "machine3"}
    assert (sum(said["ran"].values()), said["missing"]) == (60, 0)


def test_the_machine_of_a_host_loses_its_power_and_no_task_is_lost(three):
    driver = drive(three, "/tmp/killed", 600)
    assert driver.stdout.readline() == "submitted\n"
    three.kill(3)
    said = told(driver)
    assert (sum(said["ran"].values()), said["missing"]) == (600, 0)
