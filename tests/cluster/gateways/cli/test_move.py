"""`podium move`: tasks go from a directory to a database and back, and nothing of them is lost or bent."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.config import load_settings
from podium.cluster.store.address import StoreAddress
from podium.cluster.store.postgres.lease import Lease
from podium.cluster.store.stores import store_of
from tests.support import postgres
from tests.support.commands import run_command

GO_ON, STARTED = threading.Event(), threading.Event()


@podium.protocol
def double(input):
    return input * 2


@podium.protocol
def fails(input):
    raise ValueError("no")


@podium.protocol
def waits(input):
    STARTED.set()
    assert GO_ON.wait(20)
    return input + 1


@podium.protocol
def lead(input):
    return podium.verdict.accept(input["outcomes"]) if input["outcomes"] else podium.verdict.assign(["one"])


LARGE = Workflow("large", double)
NESTED = Workflow("nested", Sequence(double, Hierarchy(lead, team={"one": Step(double)}, name="team")))


@pytest.fixture
def place(tmp_path, monkeypatch):
    database = postgres.new_database()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PODIUM_DATABASE_SCHEMA", database.schema)
    yield database
    postgres.drop(database)
    with psycopg.connect(database.url, autocommit=True) as db:
        moved = f"{database.schema}_moved_%"
        for (name,) in db.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (moved,)).fetchall():
            db.execute(f'DROP SCHEMA "{name}" CASCADE')


def podium_command(*words):
    code, out, err = run_command(words, Path.cwd(), dict(os.environ))
    return code, out.decode() + err.decode()


def fill(data):
    """Leave an open task, ended ones, a dead letter and a nested run; returns the id of the open one."""
    GO_ON.clear()
    STARTED.clear()
    engine = podium.connect(cluster="inprocess", data=data)
    assert engine.submit(NESTED, 3, key="k").result(timeout_s=20)
    assert engine.submit(LARGE, "t" * 200_000, key="large").result(timeout_s=20)
    with pytest.raises(podium.PodiumError):
        engine.submit(Workflow("x", fails), 1).result(timeout_s=20)
    task = engine.submit(Workflow("w", Sequence(double, waits)), 5)
    assert STARTED.wait(20)
    GO_ON.set()
    engine.close()
    return task.id


def everything(address):
    reader = store_of(address).reader
    tasks = reader.list_tasks(limit=1000)
    found = {task.task_id: reader.find_task(task.task_id) for task in tasks}
    runs = {id: reader.subtasks(id) for id in found}
    return found, runs, reader.definitions(), [each.record.task_id for each in reader.dead_letters()]


def test_tasks_go_to_a_database_and_back(place, tmp_path):
    open_id = fill("here")
    before = everything(StoreAddress("here"))
    code, said = podium_command("move", "--data", "here", "--to", place.url)
    assert code == 0, said
    assert "Moved 5 tasks, with" in said.replace("\n", " ") and "and 1 blob," in said.replace("\n", " ")
    database = load_settings(data=place.url).store
    assert everything(database) == before
    assert not list(Path("here/shards").glob("*.db")) and list(Path("here").glob("shards.moved-*/w.db"))
    code, said = podium_command("move", "--data", place.url, "--to", "back")
    assert code == 0, said
    assert everything(StoreAddress("back")) == before
    with podium.connect(cluster="inprocess", data="back") as engine:
        assert engine.task(open_id).result(timeout_s=20) == 11
        assert engine.submit(LARGE, "t" * 200_000, key="large").result(timeout_s=20) == "t" * 400_000
        assert engine.submit(Workflow("nested", double), 3, key="other").result(timeout_s=20) == 6
    code, said = podium_command("doctor", "--data", "back")
    assert code == 0, said


def test_a_moved_database_goes_on_with_open_tasks(place):
    open_id = fill("here")
    assert podium_command("move", "--data", "here", "--to", place.url)[0] == 0
    with podium.connect(cluster="inprocess", data=place.url) as engine:
        assert engine.task(open_id).result(timeout_s=20) == 11
        assert engine.submit(NESTED, 3, key="k").id in {task.id for task in engine.tasks()}


def test_a_move_is_refused_while_a_cluster_runs_and_into_what_is_not_empty(place):
    fill("here")
    with podium.connect(cluster="inprocess", data="here"):
        code, said = podium_command("move", "--data", "here", "--to", place.url)
        assert code != 0 and "podium down" in said
    with podium.connect(cluster="inprocess", data=place.url) as engine:
        engine.submit(Workflow("w", double), 1).result(timeout_s=20)
    code, said = podium_command("move", "--data", "here", "--to", place.url)
    assert code != 0 and "has tasks already" in said
    assert podium_command("move", "--data", "nothing", "--to", "there")[1].count("nothing to move") == 1
    assert podium_command("move", "--data", "here", "--to", "here")[0] == 2


def test_a_move_is_refused_while_another_machine_has_the_database(place):
    fill("here")
    elsewhere = Lease(place, 15, "elsewhere boot")
    elsewhere.take()
    code, said = podium_command("move", "--data", "here", "--to", place.url)
    assert code != 0 and "a cluster on elsewhere" in said.replace("\n", " ")
    elsewhere.release()
    assert podium_command("move", "--data", "here", "--to", place.url)[0] == 0
    elsewhere.take()
    assert podium_command("move", "--data", place.url, "--to", "back")[0] != 0
    elsewhere.release()
    code, said = podium_command("move", "--data", place.url, "--to", "back")
    assert (code, "runs out" in said) == (0, False), said


def test_a_damaged_directory_is_not_moved(place):
    fill("here")
    with closing(sqlite3.connect("here/shards/w.db")) as db:
        db.execute("UPDATE entries SET body = x'00' WHERE n = 1")
        db.commit()
    code, said = podium_command("move", "--data", "here", "--to", place.url)
    assert code != 0 and "checksum" in said.replace("\n", " ")
    assert Path("here/shards/w.db").exists()
    assert store_of(load_settings(data=place.url).store).reader.list_tasks() == []


def test_the_nearer_of_directory_and_database_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("PODIUM_DATABASE", "postgresql://db/work")
    assert load_settings(data="x").database is None
    assert load_settings().database == "postgresql://db/work"
    monkeypatch.setenv("PODIUM_DATA", "y")
    assert (load_settings().database, load_settings().data) == ("postgresql://db/work", Path("y"))
