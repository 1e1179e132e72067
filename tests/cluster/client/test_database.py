"""An engine whose tasks are kept in PostgreSQL: the same client, commands and promises."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.cluster.doctor.database import examine_database
from podium.cluster.store.address import StoreAddress, place_of
from podium.cluster.store.postgres.connecting import Database
from podium.errors import AcceptanceUnknown, InvalidInput, InvalidSetting, NotFound, Overloaded, PodiumError
from tests.support import postgres
from tests.support.commands import run_command

RUNS: Counter[object] = Counter()


@podium.protocol(concurrency=50)
def double(input):
    RUNS[input] += 1
    return input * 2


@podium.protocol
def same(input):
    return input


@podium.protocol
def fails(input):
    raise ValueError("no")


@pytest.fixture
def installation(tmp_path):
    database = postgres.new_database()
    yield {"data": tmp_path / "here", "database": database.url, "database_schema": database.schema}
    postgres.drop(database)


def connect(installation, **more):
    return podium.connect(cluster="inprocess", **installation, **more)


DOUBLE = Workflow("w", Sequence(double, Step(double, name="again")))


def test_tasks_are_kept_in_the_database_and_nowhere_else(installation):
    with connect(installation) as engine:
        assert repr(engine) == f"<engine {place_of(installation['database'])}, inprocess, started here>"
        task = engine.submit(DOUBLE, 3, key="k")
        assert task.result() == 12
    assert not list(Path(installation["data"]).glob("shards/*.db"))
    with connect(installation) as engine:
        assert engine.submit(DOUBLE, 3, key="k").id == task.id
        assert [each.id for each in engine.tasks()] == [task.id]
        assert engine.task(task.id).read_record().result == 12
        with pytest.raises(NotFound):
            engine.task("t-nobody")


def test_what_was_open_goes_on_with_the_next_engine(installation):
    started, go_on = threading.Event(), threading.Event()

    @podium.protocol
    async def waits(input):
        started.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return input

    flow = Workflow("w", Sequence(double, waits))
    RUNS.clear()
    engine = connect(installation)
    task = engine.submit(flow, 5)
    assert started.wait(20)
    engine.close()
    go_on.set()
    with connect(installation) as engine:
        assert engine.task(task.id).result(timeout_s=20) == 10
    assert RUNS[5] == 1


def test_commands_read_the_database_by_its_url(installation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PODIUM_DATABASE_SCHEMA", installation["database_schema"])
    url = installation["database"]
    flow = Workflow("w", Parallel({"a": double, "b": Step(fails, otherwise={"value": 0})}))
    with podium.connect(data=url, cluster="inprocess") as engine:
        task = engine.submit(flow, 3)
        assert task.result() == {"a": 6, "b": 0}
        lost = engine.submit(Workflow("x", fails), 1)
        with pytest.raises(podium.PodiumError):
            lost.result()
    assert (tmp_path / ".podium").is_dir() and not (tmp_path / "postgresql:").exists()
    for command, words in {
        ("ps",): [task.id, lost.id],
        ("show", task.id[:12]): [task.id, "degraded"],
        ("show", task.id, "--events"): ["ValueError: no"],
        ("workflows",): ["w", "x"],
        ("dead", "ls"): [lost.id],
        ("graph", task.id): ["flowchart"],
    }.items():
        code, out, err = run_command((*command, "--data", url), tmp_path, dict(os.environ))
        assert code == 0, err
        out = out.decode()
        for word in words:
            assert word in out, (command, out)


def test_a_url_as_data_and_database_mean_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    load = podium.cluster.config.load_settings
    one, two = load(data="postgresql://ada:pass-word@db/work"), load(database="postgresql://eve:other@db/work")
    assert one.data == two.data and one.data.parent == tmp_path / ".podium"
    assert load(data="postgresql://db/work", database_schema="b").data != one.data
    assert load(data="x", database="postgresql://db/work").data == Path("x")
    assert "pass-word" not in repr(one) and "pass-word" not in str(one.store.place)


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"data": Path("postgresql://db/work")}, "give the URL as text"),
        ({"data": "postgresql:db"}, "give the URL as text"),
        ({"database": "mysql://db/work"}, "expected a URL such as postgresql://"),
        ({"data": "postgresql://db/work", "database_schema": "Work; DROP"}, "database_schema"),
        ({"database": "postgresql://db/work", "database_timeout_s": 0}, "database_timeout_s"),
    ],
)
def test_a_wrong_database_is_an_invalid_setting(keywords, words):
    with pytest.raises(InvalidSetting) as refused:
        podium.connect(cluster="inprocess", **keywords)
    assert words in str(refused.value)


def test_without_the_driver_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "podium.cluster.store.postgres.connecting", None)
    with pytest.raises(InvalidSetting, match="install podium with the extra `postgres`"):
        podium.connect(cluster="inprocess", data=tmp_path, database="postgresql://db/work")


def test_a_database_that_cannot_be_reached_says_where(tmp_path):
    url = "postgresql://ada:secret@127.0.0.1:1/work"
    with pytest.raises(podium.PodiumError) as refused:
        podium.connect(cluster="inprocess", data=tmp_path, database=url, database_timeout_s=0.3)
    assert "postgresql://127.0.0.1:1/work" in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.parametrize("odd", [{"key": "a\0b"}, {"user": "a\0b"}])
def test_a_text_that_no_database_can_hold_is_refused_alone(installation, odd):
    with connect(installation) as engine:
        with pytest.raises(InvalidInput, match="NUL"):
            engine.submit(DOUBLE, 1, **odd)
        assert engine.submit(Workflow("x", same), {"a\0": "b\0"}, key="\N{SNOWMAN}").result() == {"a\0": "b\0"}


def test_a_server_that_dies_under_load_loses_and_repeats_nothing(installation):
    server = postgres.stoppable()
    RUNS.clear()
    with connect(installation) as engine:
        tasks = []
        ended = threading.Event()

        def restarting():
            for _ in range(3):
                if ended.wait(0.3):
                    return
                server.stop()
                server.start()

        thread = threading.Thread(target=restarting)
        thread.start()
        for n in range(300):
            while True:
                try:
                    tasks.append(engine.submit(DOUBLE, n * 1_000_003, key=str(n)))
                    break
                except Overloaded as error:
                    ended.wait(min(error.retry_after_s, 0.05))
        ended.set()
        thread.join()
        assert [task.result(timeout_s=60) for task in tasks] == [n * 4_000_012 for n in range(300)]
        assert len({task.id for task in tasks}) == 300 == len(engine.tasks(limit=1000))
    firsts, seconds = ([n * factor for n in range(300)] for factor in (1_000_003, 2_000_006))
    assert Counter([*firsts, *seconds]) == RUNS  # no step ran again
    with psycopg.connect(installation["database"]) as db:
        at = installation["database_schema"]
        assert db.execute(f"SELECT count(*), count(DISTINCT id) FROM {at}.tasks").fetchone() == (300, 300)


def wait_until(holds, within_s=20):
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_while_the_database_is_away_new_tasks_are_refused_and_running_ones_go_on(installation, caplog):
    server = postgres.stoppable()
    started, go_on = threading.Event(), threading.Event()

    @podium.protocol
    def waits(input):
        started.set()
        assert go_on.wait(20)
        return input + 1

    with connect(installation) as engine:
        task = engine.submit(Workflow("w", waits), 1)
        assert started.wait(20)
        server.stop()
        go_on.set()
        try:
            wait_until(lambda: "cannot be reached" in caplog.text)
            with pytest.raises(Overloaded, match="store") as refused:
                engine.submit(Workflow("w", waits), 1)
            assert refused.value.retry_after_s == 1
        finally:
            server.start()
        assert task.result(timeout_s=30) == 2
        assert engine.submit(Workflow("w", waits), 5).result(timeout_s=30) == 6


def once_back(submit, within_s=30):
    """Repeat a submission as its errors say, until there is a task."""
    give_up_at = time.monotonic() + within_s
    while True:
        try:
            return submit()
        except (Overloaded, AcceptanceUnknown) as error:
            assert time.monotonic() < give_up_at
            time.sleep(min(error.retry_after_s, 0.2))


@pytest.mark.parametrize("key", ["k-17", None])
def test_a_submission_that_meets_a_dead_database_first_is_answered(installation, key):
    server = postgres.stoppable()
    RUNS.clear()
    with connect(installation, database_timeout_s=1) as engine:
        engine.submit(DOUBLE, 1).result()
        server.stop()
        began = time.monotonic()
        try:
            with pytest.raises(AcceptanceUnknown, match="same key") as unknown:
                engine.submit(DOUBLE, 31, key=key)
            assert 0.9 < time.monotonic() - began < 15
            with pytest.raises(Overloaded):
                engine.submit(DOUBLE, 31, key=key)
        finally:
            server.start()
        if key is not None:
            task = once_back(lambda: engine.submit(DOUBLE, 31, key=key))
            assert task.id == unknown.value.task_id
        else:
            wait_until(lambda: any(each.id == unknown.value.task_id for each in engine.tasks()))
            task = engine.task(unknown.value.task_id)
        assert task.result(timeout_s=30) == 124
    assert RUNS[31] == RUNS[62] == 1


def test_submissions_on_their_way_when_the_database_goes_are_answered_and_repeated(installation):
    """Each is accepted, refused, or unknown; with its key it is one task in the end, and runs once."""
    server = postgres.stoppable()
    answers, ready = {}, threading.Event()
    RUNS.clear()

    def sends(engine, sender):
        for n in range(sender, 10_000, 6):
            try:
                answers[n] = engine.submit(DOUBLE, n, key=f"k-{n}").id
            except (Overloaded, AcceptanceUnknown) as error:
                answers[n] = error
                return
            if len(answers) > 30:
                ready.set()

    with connect(installation, database_timeout_s=0.8) as engine:
        engine.submit(DOUBLE, -1).result()
        threads = [threading.Thread(target=sends, args=(engine, sender)) for sender in range(6)]
        for thread in threads:
            thread.start()
        assert ready.wait(20)
        server.stop()
        try:
            for thread in threads:
                thread.join(20)
            assert not any(thread.is_alive() for thread in threads)
        finally:
            server.start()
        assert any(isinstance(answer, AcceptanceUnknown) for answer in answers.values())
        tasks = {n: once_back(lambda n=n: engine.submit(DOUBLE, n, key=f"k-{n}")) for n in answers}
        for n, answer in answers.items():
            assert tasks[n].id == answer if isinstance(answer, str) else True
            assert tasks[n].result(timeout_s=30) == 4 * n
        assert len(engine.tasks(limit=1_000_000)) == len(answers) + 1
    assert Counter([-1, -2, *answers, *(2 * n for n in answers)]) == RUNS


def test_results_that_wait_are_bounded(installation, caplog):
    """More than `max_unsaved_mb` wait: no further step starts until the journal has caught up."""
    server = postgres.stoppable()
    big, may_run = "x" * 40_000, threading.Event()

    @podium.protocol(concurrency=2)
    async def large(input):
        while not may_run.is_set():
            await asyncio.sleep(0.005)
        RUNS["large"] += 1
        return big

    RUNS.clear()
    with connect(installation, max_unsaved_mb=0.2) as engine:
        tasks = engine.submit_many(Workflow("w", large), list(range(100)))
        wait_until(lambda: sum(pool.running for pool in engine.status().workflows["w"].pools) >= 2)
        server.stop()
        may_run.set()
        wait_until(lambda: "too much waits to become durable" in caplog.text)
        held = RUNS["large"]
        assert held < 20
        wait_until(lambda: not any(pool.running for pool in engine.status().workflows["w"].pools))
        assert RUNS["large"] <= held + 2  # the two that ran
        server.start()
        assert all(task.result(timeout_s=60) == big for task in tasks)
    assert RUNS["large"] == 100


def place_in(installation):
    return StoreAddress(str(installation["data"]), installation["database"], installation["database_schema"])


def doctor_of(installation):
    return {(each.check, each.level, each.what) for each in examine_database(place_in(installation))}


def test_the_doctor_looks_at_the_server_and_at_every_record(installation):
    assert ("tables", "warning", "no tables here") in doctor_of(installation)
    with connect(installation) as engine:
        task = engine.submit(DOUBLE, 3)
        task.result()
    found = doctor_of(installation)
    assert ("shard", "ok", "epoch 1, 0 open and 1 finished tasks") in found
    assert not [each for each in found if each[1] == "problem"]
    at = installation["database_schema"]
    with psycopg.connect(installation["database"], autocommit=True) as db:
        db.execute(f"UPDATE {at}.entries SET body = body || 'x' WHERE n = 1")
        db.execute(f"DELETE FROM {at}.notes WHERE name LIKE 'definition:%'")
        db.execute(f"UPDATE {at}.shards SET epoch = 7 WHERE shard = 'w'")
    problems = {what for _, level, what in doctor_of(installation) if level == "problem"}
    assert problems == {"the checksum does not match"}
    monitored = run_command(("doctor", "--data", installation["database"]), Path("/"), dict(os.environ))
    assert monitored[0] in (0, 1) and b"PostgreSQL" in monitored[1]


def test_the_doctor_says_what_makes_a_server_forget(installation):
    with connect(installation) as engine:
        engine.submit(DOUBLE, 1).result()
    with psycopg.connect(installation["database"], autocommit=True) as db:
        db.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
        try:
            found = doctor_of(installation)
        finally:
            db.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
    assert any(level == "problem" and "synchronous_commit is off" in what for _, level, what in found)


def test_a_backup_that_was_put_back_stops_its_shards_until_the_loss_is_accepted(installation, tmp_path):
    database = Database(installation["database"], installation["database_schema"])
    with connect(installation) as engine:
        engine.submit(DOUBLE, 3, key="old").result()
    postgres.dump(database, tmp_path / "dump")
    with connect(installation) as engine:
        lost = engine.submit(DOUBLE, 4, key="new")
        lost.result()
    assert not [each for each in doctor_of(installation) if each[1] == "problem"]
    postgres.restore(database, tmp_path / "dump")
    problems = {each.place: each for each in examine_database(place_in(installation)) if each.level == "problem"}
    assert set(problems) == {"coordinator", "w"}
    assert "older copy" in problems["w"].what and "--repair --accept-loss w" in problems["w"].remedy
    with pytest.raises(PodiumError, match="older copy") as refused, connect(installation) as engine:
        engine.submit(DOUBLE, 5)
    assert "podium doctor" in str(refused.value)

    assert "is for data directories" in doctor_command(installation, "--repair")
    assert "no lost data of shard 'other'; there is some of coordinator, w" in doctor_command(
        installation, "--repair", "--accept-loss", "other"
    )
    assert "loss accepted" in doctor_command(installation, "--repair", "--accept-loss", "*")
    assert not [each for each in doctor_of(installation) if each[1] == "problem"]
    with connect(installation) as engine:
        assert [each.read_record().key for each in engine.tasks()] == ["old"]
        assert engine.submit(DOUBLE, 6).result() == 24
        assert "in use" in doctor_command(installation, "--repair", "--accept-loss", "*")
        with pytest.raises(NotFound):
            engine.task(lost.id)


def doctor_command(installation, *options):
    """Run `podium doctor` on the installation; returns what it prints, in one line."""
    settings = {"PODIUM_DATABASE": "database", "PODIUM_DATA": "data", "PODIUM_DATABASE_SCHEMA": "database_schema"}
    environment = {**os.environ, **{name: str(installation[key]) for name, key in settings.items()}, "COLUMNS": "999"}
    _, out, *more = run_command(("doctor", *options), Path("/"), environment)
    return " ".join(b" ".join([out, *more]).decode().split())


def test_the_doctor_tells_of_a_database_that_is_away(tmp_path):
    place = StoreAddress(str(tmp_path), "postgresql://127.0.0.1:1/work")
    (finding,) = examine_database(place)
    assert (finding.check, finding.level) == ("database", "problem")
