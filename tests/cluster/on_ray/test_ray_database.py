"""On Ray, with the tasks in PostgreSQL: a supervisor is killed, and the server dies under load."""

from __future__ import annotations

import os
import signal

import pytest

import podium
from podium import Sequence, Step, Workflow
from tests import sample
from tests.support import postgres
from tests.support.processes import pid_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def engine(tmp_path):
    database = postgres.new_database()
    place = {"database": database.url, "database_schema": database.schema}
    with podium.connect(data=tmp_path / "here", num_cpus=2, **place) as engine:
        yield engine
    postgres.drop(database)


def test_nothing_is_lost_with_a_supervisor_or_with_the_server(engine):
    server = postgres.stoppable()
    flow = Workflow("kinds", Sequence(sample.add, Step(sample.add, name="again"), sample.plain))
    expected = engine.submit(flow, {"n": 1}).result(timeout_s=60)
    tasks = engine.submit_many(flow, [{"n": 1}] * 300)
    os.kill(pid_of(engine, "supervisor/kinds"), signal.SIGKILL)
    assert [task.result(timeout_s=60) for task in tasks] == [expected] * 300
    tasks = engine.submit_many(flow, [{"n": 1}] * 300)
    server.stop()
    server.start()
    assert [task.result(timeout_s=120) for task in tasks] == [expected] * 300
    assert len(engine.tasks(limit=1000)) == 601
