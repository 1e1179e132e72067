"""On a Ray cluster of three machines: any may go if the tasks are in a database; with a folder, those of hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from podium.cluster.store.postgres.machines import Machines
from tests.support import machines
from tests.support.machines import chaos
from tests.support.machines.checking import seen

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not())),
]
DRIVER = [sys.executable, "-m", "tests.support.machines.load"]


def load(bed, fault, count):
    """Run a load with a fault in its middle, and see that no promise is broken; returns the driver's figures."""
    driver = bed.drive(1, count)
    at = time.monotonic()
    fault(bed)
    facts = chaos.told(driver)
    assert chaos.broken(facts, seen(chaos.WITNESS, bed.database), at) == []
    return facts


def machines_of(bed, asked=3):
    shown = json.loads(bed.podium(asked, "status", "-o", "json"))["cluster"]
    return {machine["host"]: machine["home"] for machine in shown["machines"]}


def until_another_home(moved_s, bed):
    """Kill the machine of the coordinator, and note the seconds until another is the home.

    That needs neither Ray nor a start of anything, so it takes as long on a busy machine.
    """
    rows = Machines(bed.database)
    with bed.database.connect() as db:
        began, before = time.monotonic(), rows.claim(db).home
        chaos.killed_coordinator(bed)
        while rows.claim(db).home == before:
            time.sleep(0.1)
    moved_s.append(time.monotonic() - began)


@pytest.mark.skipif("PODIUM_TEST_POSTGRES" in os.environ, reason="the server has to listen for the machines")
def test_any_machine_may_go_and_no_promise_is_broken():
    with chaos.bed() as bed:
        assert machines_of(bed) == {"machine2": True}
        load(bed, chaos.cut(7), 60)
        assert machines_of(bed)["machine2"] is True
        moved_s: list[float] = []
        load(bed, partial(until_another_home, moved_s), 80)
        assert moved_s[0] < chaos.LEASE_S + chaos.GRACE_S + 6
        homes = [machine for machine, is_home in machines_of(bed).items() if is_home]
        assert homes in (["machine1"], ["machine3"])
        load(bed, partial(chaos.drained, within_s=8), 60)
        assert machines_of(bed, 1) == {"machine1": True}
        assert json.loads(bed.podium(1, "down", "-o", "json")) == {"ended": True}
        assert json.loads(bed.podium(1, "down", "-o", "json")) == {"ended": False}
        with ThreadPoolExecutor() as two:  # one begins the next cluster, the other joins it
            ups = [two.submit(bed.podium, 1, "up", "--address", bed.three.address, "-o", "json") for _ in "ab"]
        assert len({json.loads(up.result())["pid"] for up in ups}) == 1


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
