"""Data directories that the code of earlier commits made, and left as `kill -9` does: they open, and their tasks go on.

Each has the same tasks, as far as its code knew them: a chain that completed, a step that failed, one that is parked, a
degraded result, a nested Hierarchy, a list, a task that is open and one that was cancelled. A file of the corpus is
named after the commit that made it, and never changes.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import podium
from podium import Sequence, Step, Workflow
from podium.cluster.client.recorded import recorded_events
from podium.cluster.doctor.checks import examine
from podium.cluster.store.address import StoreAddress
from podium.cluster.store.stores import store_of
from podium.errors import TaskFailed, WaitTimedOut
from podium.supervisors.tasks.history import step_rows
from tests import sample

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.tar.xz"))
ENDS = {"chain": "completed", "failing": "failed", "degraded": "completed", "team": "completed", "wide": "completed"}


@pytest.fixture(params=CORPUS, ids=lambda path: path.name.partition(".")[0])
def data(request, tmp_path):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


def test_what_was_recorded_is_read_without_a_cluster(data):
    reader = store_of(StoreAddress(str(data))).reader
    records = {record.workflow: record for record in reader.list_tasks(limit=50)}
    assert {name: records[name].status for name in ENDS if name in records} == {
        name: status for name, status in ENDS.items() if name in records
    }
    assert records["chain"].result == {"n": 3} and len(records) >= 5
    for record in records.values():
        stored = reader.find_task(record.task_id)
        assert step_rows(stored.record, stored.definition, stored.bodies)
        assert recorded_events(stored)[0].kind == "accepted"
    assert [finding for finding in examine(data) if finding.level == "problem"] == []


def test_tasks_that_are_open_go_on_and_new_ones_are_taken(data):
    with podium.connect(data=data, cluster="inprocess", user="ada") as engine:
        going_on = {task.workflow: task for task in engine.tasks(status="running")}
        assert "slow" in going_on, "it was running when its process was killed"
        assert going_on["slow"].cancel() == "cancelled"
        again = engine.submit(Workflow("chain", Sequence(Step(sample.add), Step(sample.add))), {"n": 1}, key="k-chain")
        assert again.result(timeout_s=30) == {"n": 3}, "the key still belongs to the task of then"
        assert [task.id for task in engine.tasks(workflow="chain")] == [again.id]


def test_dead_letters_of_then_are_driven_again(data):
    with podium.connect(data=data, cluster="inprocess", user="ada") as engine:
        letters = [letter.id for letter in engine.dead_letters()]
        assert letters
        for task in engine.redrive(letters):
            with pytest.raises((TaskFailed, WaitTimedOut), match=r"cannot do|parked"):
                task.result(timeout_s=3)
