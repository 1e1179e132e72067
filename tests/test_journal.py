"""The contract of a journal, run over every implementation; then what only SQLite can show."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from podium.cluster.store.memory import Disk, DiskReader, MemoryJournal
from podium.cluster.store.reading import FileReader
from podium.cluster.store.sqlite import SqliteJournal, shard_path
from podium.protocols.errors import DataInUse, Fenced, JournalCorrupt
from podium.protocols.outcomes import Failure, TaskRecord
from podium.protocols.values import pack
from podium.supervisors.ports import Closing, Entry, NewTask, Note, Running


def record(id="t-1", **changes):
    facts = {
        "task_id": id, "workflow": "w", "version": "1", "hash": "h", "input": {"n": 1}, "user": "u", "priority": 0,
        "key": None, "status": "pending", "accepted_at": 100.0,
    }  # fmt: skip
    return TaskRecord(**{**facts, **changes})


class Files:
    def __init__(self, path):
        self.path = path
        self.reader = FileReader(path)

    async def open(self, shard="w"):
        return await SqliteJournal(self.path, shard, lock_wait_s=0.1).open()


class Memory:
    def __init__(self, path):
        self.disk = Disk()
        self.reader = DiskReader(self.disk)

    async def open(self, shard="w"):
        return MemoryJournal(self.disk, shard)


@pytest.fixture(params=[Files, Memory])
def store(request, tmp_path):
    return request.param(tmp_path)


async def durable(journal, *changes):
    done = asyncio.get_running_loop().create_future()
    journal.write(list(changes), lambda: done.set_result(None))
    await asyncio.wait_for(done, 5)


async def found(journal, ids=(), keys=()):
    done = asyncio.get_running_loop().create_future()
    journal.find(list(ids), list(keys), done.set_result)
    return await asyncio.wait_for(done, 5)


def test_what_was_written_is_there_for_the_next_incarnation(store):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(), "d"), Note("a", {"x": [1]}))
        await durable(journal, Entry("t-1", 1, b"one"))
        await journal.close()
        again = await store.open()
        (task,) = await again.open_tasks()
        assert task.record == record()
        assert task.bodies == [b"one"]
        assert await again.notes() == {"a": {"x": [1]}}
        assert again.epoch == journal.epoch + 1
        await again.close()

    asyncio.run(work())


def test_a_closing_entry_ends_the_task(store):
    async def work():
        journal = await store.open()
        failure = Failure("error", "m", "K", "tb", "a", 2)
        await durable(journal, NewTask(record(), "d"), NewTask(record("t-2"), "d"))
        await durable(
            journal,
            Entry("t-1", 1, b"x", Closing("completed", 105.0, pack({"r": 1}), None)),
            Entry("t-2", 1, b"y", Closing("failed", 106.0, None, pack(failure.to_wire()))),
        )
        assert await journal.open_tasks() == []
        one, two = await found(journal, ["t-1", "t-2"])
        assert (one.record.status, one.record.result, one.record.finished_at) == (
            "completed",
            {"r": 1},
            105.0,
        )
        assert (two.record.status, two.record.failure) == ("failed", failure)
        assert store.reader.find_task("t-1").bodies == [b"x"]
        await journal.close()

    asyncio.run(work())


def test_tasks_are_found_by_key_within_a_user(store):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(key="k"), "digest"))
        (hit,) = await found(journal, keys=[("u", "k")])
        assert (hit.record.task_id, hit.payload_digest) == ("t-1", "digest")
        assert await found(journal, keys=[("other", "k")]) == []
        await journal.close()

    asyncio.run(work())


def test_queries_see_the_writes_before_them(store):
    async def work():
        journal = await store.open()
        journal.write([NewTask(record(), "d")])
        assert len(await found(journal, ["t-1"])) == 1
        journal.write([Entry("t-1", 1, b"x")])
        done = asyncio.get_running_loop().create_future()
        journal.entries("t-1", done.set_result)
        assert await done == [b"x"]
        await journal.close()

    asyncio.run(work())


def test_a_pending_task_can_be_marked_running_and_a_note_deleted(store):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(), "d"), Note("a", 1))
        await durable(journal, Running("t-1"), Note("a", None))
        assert (await found(journal, ["t-1"]))[0].record.status == "running"
        assert await journal.notes() == {}
        await journal.close()

    asyncio.run(work())


def test_callbacks_come_in_the_order_of_the_writes(store):
    async def work():
        journal = await store.open()
        order = []
        for number in range(50):
            journal.write([Note(f"n{number}", number)], lambda number=number: order.append(number))
        await durable(journal)
        assert order == list(range(50))
        await journal.close()

    asyncio.run(work())


@pytest.mark.parametrize("bad", [NewTask(record(), "d"), Entry("t-1", 3, b"gap"), Entry("t-9", 1, b"nobody")])
def test_a_change_that_contradicts_the_shard_stops_the_journal(store, bad):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(), "d"), Entry("t-1", 1, b"x"))
        failed = asyncio.get_running_loop().create_future()
        journal.on_failure = failed.set_result
        journal.write([bad], lambda: failed.set_exception(AssertionError("acknowledged")))
        assert "cannot write" in str(await asyncio.wait_for(failed, 5))

    if isinstance(store, Files) and isinstance(bad, Entry):
        pytest.skip("SQLite finds a gap when the shard is folded, not when it is written")
    asyncio.run(work())


def test_an_overtaken_incarnation_is_refused(tmp_path):
    async def work():
        disk = Disk()
        old, new = MemoryJournal(disk, "w"), MemoryJournal(disk, "w")
        failed = asyncio.get_running_loop().create_future()
        old.on_failure = failed.set_result
        old.write([NewTask(record(), "d")])
        assert isinstance(await failed, Fenced)
        assert await new.open_tasks() == []

    asyncio.run(work())


def test_sqlite_checks_the_epoch_in_every_commit(tmp_path):
    async def work():
        journal = await Files(tmp_path).open()
        with sqlite3.connect(shard_path(tmp_path, "w")) as db:
            db.execute("UPDATE shard SET epoch = epoch + 1")
        failed = asyncio.get_running_loop().create_future()
        journal.on_failure = failed.set_result
        journal.write([NewTask(record(), "d")])
        assert isinstance(await asyncio.wait_for(failed, 5), Fenced)

    asyncio.run(work())


def test_a_shard_has_one_writer(tmp_path):
    async def work():
        journal = await Files(tmp_path).open()
        with pytest.raises(DataInUse, match="is in use by process"):
            await Files(tmp_path).open()
        await journal.close()
        await (await Files(tmp_path).open()).close()

    asyncio.run(work())


def test_a_flipped_bit_is_found_and_named(tmp_path):
    async def work():
        files = Files(tmp_path)
        journal = await files.open()
        await durable(journal, NewTask(record(), "d"), Entry("t-1", 1, b"payload"))
        await journal.close()
        with sqlite3.connect(shard_path(tmp_path, "w")) as db:
            (body,) = db.execute("SELECT body FROM entries").fetchone()
            db.execute("UPDATE entries SET body = ?", (bytes([body[0] ^ 1]) + body[1:],))
        again = await files.open()
        with pytest.raises(JournalCorrupt, match="task t-1, entry 1: the checksum does not match"):
            await again.open_tasks()
        await again.close()

    asyncio.run(work())


def test_a_missing_entry_is_found_and_named(tmp_path):
    async def work():
        files = Files(tmp_path)
        journal = await files.open()
        await durable(journal, NewTask(record(), "d"), Entry("t-1", 1, b"a"), Entry("t-1", 2, b"b"))
        await journal.close()
        with sqlite3.connect(shard_path(tmp_path, "w")) as db:
            db.execute("DELETE FROM entries WHERE n = 1")
        again = await files.open()
        with pytest.raises(JournalCorrupt, match="entry 1: missing; the next is 2"):
            await again.open_tasks()
        await again.close()

    asyncio.run(work())


def test_a_file_of_another_format_is_refused(tmp_path):
    async def work():
        path = shard_path(tmp_path, "w")
        path.parent.mkdir(parents=True)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version=99")
        with pytest.raises(JournalCorrupt, match="format 99, this Podium writes format 1"):
            await Files(tmp_path).open()

    asyncio.run(work())


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    async def work():
        path = shard_path(tmp_path, "w")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"this is not a database, whatever its name says" * 100)
        with pytest.raises(JournalCorrupt, match="not a database"):
            await Files(tmp_path).open()

    asyncio.run(work())
