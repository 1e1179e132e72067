"""Shards of older formats: migrated when they are opened, read as they are, refused when they are too new."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing

import pytest

import podium
from podium import Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.cluster.store.sqlite import migrations
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.cluster.store.sqlite.reading import FileReader
from podium.cluster.store.sqlite.schema import FORMAT, shard_path
from podium.protocols.errors import FixTheCall, JournalCorrupt, JournalFailed
from podium.protocols.values import pack
from tests import sample
from tests.support.commands import run_command
from tests.support.format_1 import FAILURE, FORMAT_1, sealed, write_format_1


def version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def opened(data, then=None):
    """Open the shard, let `then` use it, close it."""

    async def work():
        journal = await SqliteJournal(data, "w", lock_wait_s=0.1).open()
        try:
            return journal.epoch, await then(journal) if then else None
        finally:
            await journal.close()

    return asyncio.run(work())


def test_a_shard_of_format_1_is_migrated_with_all_it_holds(tmp_path):
    path = write_format_1(tmp_path)

    async def look(journal):
        done = asyncio.get_running_loop().create_future()
        journal.find(["t-2"], [("u", "k-t-3")], done.set_result)
        return await journal.open_tasks(), await done, await journal.notes(), await journal.finished_count()

    epoch, ((task,), (two, three), notes, finished) = opened(tmp_path, look)
    assert (epoch, notes, finished) == (8, {"definition:h": {"hash": "h"}}, 2)
    assert (task.record.task_id, task.record.input, task.record.priority) == ("t-1", {"n": 1}, 3)
    assert task.bodies == [b"one", b"two"]
    assert (two.record.result, two.record.finished_at, two.payload_digest) == ({"r": b""}, 105.5, "d")
    assert (three.record.status, three.record.failure) == ("failed", FAILURE)
    assert version(path) == FORMAT
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert opened(tmp_path)[0] == 9


def test_the_file_of_the_old_format_is_kept_as_it_was(tmp_path):
    path = write_format_1(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    opened(tmp_path)
    copy = path.with_name("w.db.format1")
    with closing(sqlite3.connect(copy)) as db:
        assert list(db.iterdump()) == before
    assert version(copy) == 1
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob("*.draft"))


def test_a_damaged_record_stops_the_migration_and_changes_nothing(tmp_path):
    path = write_format_1(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE entries SET body = CAST(x'00' || body AS BLOB) WHERE task_id = 't-2' AND n = 2")
        db.commit()
        before = list(db.iterdump())
    with pytest.raises(JournalCorrupt, match="task t-2, entry 2: the checksum does not match"):
        opened(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
    assert version(path) == 1


def test_a_migration_that_breaks_off_leaves_the_old_format_whole(tmp_path, monkeypatch):
    path = write_format_1(tmp_path)

    def half(db, shard):
        step(db, shard)
        raise sqlite3.OperationalError("database or disk is full")

    step = migrations.STEPS[1]
    monkeypatch.setitem(migrations.STEPS, 1, half)
    with pytest.raises(JournalFailed, match=r"w\.db: database or disk is full"):
        opened(tmp_path)
    assert version(path) == 1
    monkeypatch.setitem(migrations.STEPS, 1, step)
    assert opened(tmp_path)[0] == 8


def test_readers_read_format_1_without_changing_it(tmp_path):
    path = write_format_1(tmp_path)
    reader = FileReader(tmp_path)
    assert [record.task_id for record in reader.list_tasks()] == ["t-1", "t-2", "t-3"]
    assert reader.find_task("t-3").record.failure == FAILURE
    assert reader.find_task("t-1").bodies == [b"one", b"two"]
    assert reader.open_count("w") == 1
    assert version(path) == 1


def test_a_newer_format_is_refused_with_both_versions_and_what_to_do(tmp_path):
    path = shard_path(tmp_path, "w")
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    for look in (lambda: opened(tmp_path), lambda: FileReader(tmp_path).find_task("t-1")):
        with pytest.raises(JournalCorrupt, match="format 99, this Podium reads formats 1 to 4: use the newer Podium"):
            look()


def test_a_copy_of_format_1_put_back_after_the_migration_is_refused(tmp_path):
    path = write_format_1(tmp_path)
    opened(tmp_path)
    path.write_bytes(path.with_name("w.db.format1").read_bytes())
    with pytest.raises(JournalCorrupt, match="format 1, but commits in a later format were acknowledged: 1"):
        opened(tmp_path)


# an upgrade with open tasks


OLD_FLOW = Workflow("w", Sequence(Step(sample.add, name="a"), Step(sample.add, name="b")))


def write_open_tasks(data):
    """As the first Podium left them: a definition that knows no code, one task at its start and one in its middle."""
    definition = {k: v for k, v in definition_of(OLD_FLOW).items() if k not in ("tree", "code", "interface")}
    definition["hash"] = OLD_FLOW.hash
    path = shard_path(data, "w")
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(f"BEGIN;{FORMAT_1}PRAGMA user_version=1;COMMIT;")
        for name, value in ((f"definition:{OLD_FLOW.hash}", definition), ("current", OLD_FLOW.hash)):
            db.execute("INSERT INTO notes VALUES (?, ?)", (name, sealed(pack(value))))
        for id in ("t-1", "t-2"):
            row = (id, "w", "1", OLD_FLOW.hash, sealed(pack({"n": 1})), "u", 0, None, "", "running", 100.5)
            db.execute(f"INSERT INTO tasks VALUES ({','.join('?' * 14)})", (*row, None, None, None))
        body = pack([["f", "a", {"n": 100}, 101.5]])
        db.execute("INSERT INTO entries VALUES (?,?,?,?)", ("t-2", 1, 1, sealed(body)))


def test_open_tasks_of_the_oldest_format_go_on_beside_those_of_a_new_version(tmp_path):
    write_open_tasks(tmp_path)
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        new = engine.submit(OLD_FLOW, {"n": 10})
        assert new.read_record().hash != OLD_FLOW.hash
        found = [engine.task(id).result(timeout_s=30) for id in ("t-1", "t-2", new.id)]
        assert engine.status().workflows["w"].stalled == {}
    assert found == [{"n": 3}, {"n": 101}, {"n": 12}]


@pytest.mark.faults
def test_an_event_of_a_later_podium_sets_its_task_aside_and_every_command_says_so(tmp_path, caplog):
    write_open_tasks(tmp_path)
    with closing(sqlite3.connect(shard_path(tmp_path, "w"), isolation_level=None)) as db:
        db.execute("INSERT INTO entries VALUES (?,?,?,?)", ("t-1", 1, 1, sealed(pack([["?", 1]]))))
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        assert engine.submit(OLD_FLOW, {"n": 10}).result(timeout_s=30) == {"n": 12}
        assert engine.task("t-2").result(timeout_s=30) == {"n": 101}
        with pytest.raises(FixTheCall, match=r"is still stalled: .* unknown event"):
            engine.redrive(["t-1"])
    assert "task t-1 cannot be folded, and is set aside" in caplog.text
    for words in (["show", "t-1"], ["ps"], ["dead", "ls"], ["dead", "show", "t-1"], ["doctor"]):
        environment = {**os.environ, "COLUMNS": "200"}
        code, out, err = run_command((*words, "--data", str(tmp_path)), tmp_path, environment)
        assert b"Traceback" not in err
        assert code == (words == ["doctor"])
        assert b"stalled" in out
        assert words == ["ps"] or b"unknown event" in out
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        engine.drop(["t-1"])
        assert engine.task("t-1").read_status() == "failed"
