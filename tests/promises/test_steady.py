"""What runs for long stays as it is: no objects, file handles or threads are left behind by tasks, or by workflows that
come and go. And many who ask at once all get their answer."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

import podium
from podium import Hierarchy, Sequence, Workflow
from tests import sample

SLACK_OBJECTS = 1_500
"""Of some 50,000: caches, histograms, and what is under way when they are counted. A task that left a handful behind,
or a workflow that left an actor, is far above."""


def flow(name="w"):
    return Workflow(
        name, Sequence(sample.echo, Hierarchy(sample.lead, team={"x": sample.echo}, name="team")), quotas={"request": 1}
    )


def counted():
    """(objects, file handles, threads) once nothing is under way any more."""
    least = None
    for _ in range(5):
        time.sleep(0.05)
        gc.collect()
        now = (len(gc.get_objects()), len(os.listdir("/proc/self/fd")), threading.active_count())
        least = now if least is None else tuple(map(min, least, now))
    return least


def check_flat(before, after):
    objects, handles, threads = (now - then for then, now in zip(before, after, strict=True))
    assert objects < SLACK_OBJECTS, f"{objects} objects more"
    assert handles <= 2 and threads <= 1, f"{handles} file handles and {threads} threads more"


@pytest.fixture
def engine(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path / "data") as engine:
        yield engine


@pytest.mark.alone
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts file handles as Linux shows them")
def test_a_thousand_tasks_leave_nothing_behind(engine):
    def run(count):
        for task in engine.submit_many(flow(), list(range(count)), priority=-1):
            task.result(timeout_s=30)

    run(200)
    before = counted()
    run(1_000)
    check_flat(before, counted())


@pytest.mark.alone
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts file handles as Linux shows them")
def test_workflows_that_come_and_go_leave_nothing_behind(engine):
    def cycle():
        for name in ("a", "b"):
            assert engine.submit(flow(name), 1).result(timeout_s=30)
            engine.undeploy(name)

    for _ in range(3):
        cycle()
    before = counted()
    for _ in range(8):
        cycle()
    check_flat(before, counted())


def test_a_hundred_questions_at_once_are_all_answered(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for n in range(5):
        (folder / f"part_{n}.py").write_text(f'"""Writers of part {n} are fenced by epochs."""\nEPOCH = {n}\n')
    config = {"requests": {"grants": {"*": {"paths": [str(folder)]}}}}
    with podium.connect(cluster="inprocess", data=tmp_path / "data", config=config) as engine:
        question = "how are the writers of part {} fenced?"
        users = [f"user-{n % 12}" for n in range(100)]
        tasks = [engine.ask(question.format(n % 5), root=str(folder), user=user) for n, user in enumerate(users)]
        held = []
        for n, task in enumerate(tasks):
            held.append(engine.status().quotas["request"].held)
            assert f"part {n % 5}" in task.result(timeout_s=60)["text"]
        assert {task.read_status() for task in tasks} == {"completed"}
        assert 1 <= max(held) <= 50, "no more at once than there are permits"
