"""The contract of a journal, run over every implementation; then what only SQLite can show."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from podium.cluster.store.memory.disk import Disk
from podium.cluster.store.memory.journal import MemoryJournal
from podium.cluster.store.rows import closing_row, entry_row, task_row
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.cluster.store.sqlite.reading import FileReader
from podium.cluster.store.sqlite.schema import shard_path
from podium.cluster.store.threaded import READY_CHANGES
from podium.protocols.errors import DataInUse, Fenced, JournalCorrupt, JournalFailed
from podium.protocols.outcomes import Failure
from podium.protocols.values import pack
from podium.supervisors.ports.journal import Closing, Entry, Forget, NewTask, Note, Standing
from tests.support.journals import durable, ended, found, record
from tests.support.stores import STORES, Files, Memory, Postgres


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    store = request.param(tmp_path)
    yield store
    if request.param is Postgres:
        store.drop()


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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 127, 129, 256, 300])
def test_however_many_are_written_at_once_each_is_there_as_it_was(store, count):
    ids = [f"t-{n}" for n in range(count)]
    keys = [None if n % 3 else f"{n}" * (n > 0) for n in range(count)]
    failure = Failure("error", "no")

    async def work():
        journal = await store.open()
        await durable(journal, *(NewTask(record(id, key=key), "d") for id, key in zip(ids, keys, strict=True)))
        closings = [
            Closing("failed", 200.0, None, pack(failure.to_wire()))
            if n % 2
            else Closing("completed", 200.0, pack(n), None)
            for n in range(count)
        ]
        await durable(journal, *(Entry(id, 1, b"", end) for id, end in zip(ids, closings, strict=True)))
        tasks = [each.record for each in await found(journal, ids)]
        assert [(task.task_id, task.key) for task in tasks] == list(zip(ids, keys, strict=True))
        assert [task.result for task in tasks] == [None if n % 2 else n for n in range(count)]
        assert [task.failure for task in tasks] == [failure if n % 2 else None for n in range(count)]
        await journal.close()

    asyncio.run(work())


def test_rows_hold_nothing_for_which_sqlite3_looks_for_an_adapter():
    """As it does for bytes and None, under the interpreter's lock, which makes writing them take twice as long."""
    completed, failed = Closing("completed", 1.0, pack(1), None), Closing("failed", 1.0, None, pack({}))
    rows = [task_row(NewTask(record(), "d")), entry_row(Entry("t-1", 1, b"one"), 1)]
    rows += [closing_row("t-1", completed), closing_row("t-1", failed)]
    assert {type(value) for row in rows for value in row} == {str, int, float, bytearray}


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
        await durable(journal, Standing("t-1", "running"), Note("a", None))
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
        assert "cannot write" in str(await asyncio.wait_for(failed, 30))

    if not isinstance(store, Memory) and isinstance(bad, Entry):
        pytest.skip("a database finds a gap when the shard is folded, not when it is written")
    asyncio.run(work())


def test_a_forgotten_task_is_gone_with_its_entries_its_key_and_the_runs_below_it(store):
    async def work():
        journal = await store.open()
        ids = ["t-1", "t-1/a", "t-1/a/b", "t-10", "t-2"]
        await durable(journal, *[NewTask(record(id, key=f"k-{id}"), "d") for id in ids])
        await durable(journal, *[ended(id, 105.0) for id in ids])
        await durable(journal, Forget("t-1"))
        assert [each.record.task_id for each in await found(journal, ids)] == ["t-10", "t-2"]
        assert await found(journal, keys=[("u", "k-t-1"), ("u", "k-t-1/a")]) == []
        assert await journal.finished_count() == 2
        done = asyncio.get_running_loop().create_future()
        journal.entries("t-1", done.set_result)
        assert await done == []
        assert store.reader.find_task("t-1") is None
        await journal.close()

    asyncio.run(work())


def test_forgetting_what_is_not_there_is_no_error_and_the_id_can_be_used_again(store):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(), "d"), ended("t-1", 105.0))
        await durable(journal, Forget("t-1"), NewTask(record(), "e"), Forget("t-9"), Entry("t-1", 1, b"anew"))
        (task,) = await journal.open_tasks()
        assert task.bodies == [b"anew"]
        await journal.close()

    asyncio.run(work())


@pytest.mark.parametrize("still_open", ["t-1", "t-1/a"])
def test_an_open_task_is_not_forgotten(store, still_open):
    async def work():
        journal = await store.open()
        await durable(journal, *[NewTask(record(id), "d") for id in ("t-1", "t-1/a")])
        await durable(journal, *[ended(id, 105.0) for id in {"t-1", "t-1/a"} - {still_open}])
        failed = asyncio.get_running_loop().create_future()
        journal.on_failure = failed.set_result
        journal.write([Forget("t-1")], lambda: failed.set_exception(AssertionError("acknowledged")))
        assert f"task {still_open} is open and cannot be forgotten" in str(await asyncio.wait_for(failed, 30))
        again = await store.open()
        assert len(await found(again, ["t-1", "t-1/a"])) == 2
        await again.close()

    asyncio.run(work())


def test_what_can_be_forgotten_is_listed_oldest_id_first(store):
    async def work():
        journal = await store.open()
        for number in range(1, 7):
            await durable(journal, NewTask(record(f"t-{number}", accepted_at=100.0 + number), "d"))
        await durable(journal, ended("t-4", 140.0), ended("t-2", 120.0), ended("t-1", 150.0), ended("t-6", 141.0))
        assert await journal.forgettable(before=150.0, limit=10) == ["t-2", "t-4", "t-6"]
        assert await journal.forgettable(before=150.0, limit=2) == ["t-2", "t-4"]
        assert await journal.forgettable(before=140.0, limit=10) == ["t-2"]
        assert await journal.finished_count() == 4
        await journal.close()

    asyncio.run(work())


def test_rounds_of_accept_finish_forget_keep_the_files_small(tmp_path):
    async def work():
        journal = await Files(tmp_path).open()
        path = shard_path(tmp_path, "w")
        sizes = []
        for round in range(50):
            ids = [f"t-{round:03}-{number:03}" for number in range(50)]
            await durable(journal, *[NewTask(record(id, input="x" * 5000), "d") for id in ids])
            await durable(journal, *[ended(id, 105.0, result="y" * 5000) for id in ids])
            assert await journal.forgettable(before=200.0, limit=1000) == ids
            await durable(journal, *[Forget(id) for id in ids])
            sizes.append(sum(file.stat().st_size for file in path.parent.iterdir()))
        await journal.close()
        assert max(sizes) < 24 * 2**20, "the log is folded in every 2,000 pages and cut at 16 MiB"
        assert path.stat().st_size < 2**17, "what 2,500 forgotten tasks of 10 kB took is given back"

    asyncio.run(work())


def test_a_query_after_the_journal_failed_raises_instead_of_waiting(tmp_path):
    async def work():
        journal = await Files(tmp_path).open()
        journal.write([Forget("t-1"), NewTask(record(), "d"), NewTask(record(), "d")])
        waiting = asyncio.ensure_future(journal.open_tasks())
        with pytest.raises(JournalFailed):
            await waiting
        with pytest.raises(JournalFailed):
            await journal.notes()

    asyncio.run(work())


def test_an_incarnation_that_was_let_go_gives_the_shard_to_the_next_in_the_same_process(tmp_path):
    async def work():
        old = await Files(tmp_path).open()
        told = []
        old.write([NewTask(record(), "d")], lambda: told.append(1))
        old.let_go()
        new = await SqliteJournal(tmp_path, "w", lock_wait_s=5).open()
        assert (new.epoch, told) == (old.epoch + 1, [])
        await new.close()

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
        assert isinstance(await asyncio.wait_for(failed, 30), Fenced)

    asyncio.run(work())


def test_a_shard_has_one_writer(tmp_path):
    async def work():
        journal = await Files(tmp_path).open()
        with pytest.raises(DataInUse, match="is in use by process"):
            await Files(tmp_path).open()
        await journal.close()
        await (await Files(tmp_path).open()).close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("UPDATE entries SET body = x'70616C'", "task t-1, entry 1"),
        ("UPDATE entries SET epoch = epoch + 4", "task t-1, entry 1"),
        ("UPDATE entries SET task_id = 't-1', n = 2 WHERE task_id = 't-2'", "task t-1, entry 2"),
        ("UPDATE tasks SET version = '3' WHERE id = 't-1'", "task t-1"),
        ("UPDATE tasks SET input = x'01' WHERE id = 't-1'", "task t-1"),
        ("UPDATE tasks SET user = 'v' WHERE id = 't-1'", "task t-1"),
        ("UPDATE tasks SET digest = 'e' WHERE id = 't-1'", "task t-1"),
        ("UPDATE tasks SET accepted_at = 101 WHERE id = 't-1'", "task t-1"),
        ("UPDATE tasks SET id = 't-5' WHERE id = 't-1'", "task t-5"),
        ("UPDATE tasks SET result = x'02' WHERE id = 't-2'", "task t-2"),
        ("UPDATE tasks SET status = 'failed' WHERE id = 't-2'", "task t-2"),
        ("UPDATE tasks SET finished_at = 106 WHERE id = 't-2'", "task t-2"),
        ("UPDATE tasks SET finished_at = NULL WHERE id = 't-2'", "task t-2: status 'completed' with no time"),
        ("UPDATE tasks SET finished_at = 106 WHERE id = 't-1'", "task t-1: status 'pending' with a time"),
        ("UPDATE tasks SET status = 'odd' WHERE id = 't-1'", "task t-1: status 'odd'"),
        ("UPDATE notes SET value = x'02'", "note a"),
        ("UPDATE notes SET name = 'b'", "note b"),
        ("UPDATE shard SET commits = commits + 8", "the shard's own row"),
        ("UPDATE shard SET epoch = epoch + 8", "the shard's own row"),
    ],
)
def test_a_change_beneath_the_journal_is_found_and_named(tmp_path, change, place):
    async def work():
        files = Files(tmp_path)
        journal = await files.open()
        await durable(journal, NewTask(record(), "d"), Entry("t-1", 1, b"payload"), Note("a", 1))
        end = Closing("completed", 105.0, pack({"r": 1}), None)
        await durable(journal, NewTask(record("t-2"), "d"), Entry("t-2", 1, b"x", end))
        await journal.close()
        with sqlite3.connect(shard_path(tmp_path, "w")) as db:
            db.execute(change)
        with pytest.raises(JournalCorrupt, match=place) as caught:
            again = await files.open()
            try:
                await again.open_tasks()
                await again.notes()
                await found(again, ["t-1", "t-2", "t-5"])
                files.reader.find_task("t-5")
            finally:
                await again.close()
        assert str(caught.value).endswith("what to do: podium doctor")

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


def test_the_newest_definition_of_each_workflow_is_read(store):
    async def work():
        for shard, current in (("a", "h2"), ("b", "h1"), ("a.tier", "h1")):
            journal = await store.open(shard)
            notes = [Note(f"definition:{hash}", {"name": shard, "hash": hash}) for hash in ("h1", "h2")]
            await durable(journal, *notes, Note("current", current))
            await journal.close()
        return store.reader.definitions()

    assert asyncio.run(work()) == [{"name": "a", "hash": "h2"}, {"name": "b", "hash": "h1"}]


def test_the_sizes_of_shards_are_told(store):
    async def work():
        for shard, tasks in (("a", 2), ("a.tier", 1), ("coordinator", 0)):
            journal = await store.open(shard)
            await durable(journal, *[NewTask(record(f"{shard}-{n}", input="x" * 1_000), "d") for n in range(tasks)])
            await durable(journal, Note("large", "y" * 10_000 * (1 + tasks)))
            await journal.close()
        return store.reader.sizes()

    assert store.reader.sizes() == []
    sizes = asyncio.run(work())
    assert [(size.shard, size.tasks) for size in sizes] == [("a", 2), ("a.tier", 1), ("coordinator", 0)]
    assert all(size.size_bytes > 10_000 * (1 + size.tasks) for size in sizes)


def test_many_changes_of_one_turn_are_handed_over_in_parts_and_stay_in_order(tmp_path):
    """The thread gets them as soon as there are enough, while the loop brings more."""

    async def work():
        journal = await Files(tmp_path).open()
        acknowledged = []
        last = asyncio.get_running_loop().create_future()
        for n in range(3 * READY_CHANGES):
            journal.write([NewTask(record(f"t-{n:05}"), "")], lambda n=n: acknowledged.append(n))
        journal.write([], lambda: last.set_result(None))
        assert journal._under_way == 3  # the loop has not turned yet
        assert not acknowledged
        await asyncio.wait_for(last, 30)
        await journal.close()
        return acknowledged

    assert asyncio.run(work()) == list(range(3 * READY_CHANGES))
    assert len(FileReader(tmp_path).list_tasks(limit=1000)) == 3 * READY_CHANGES
