"""A database that went back in time is noticed by the next owner on the machine that saw the acknowledgements."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.mark import Known, Mark, mark_path, marks, read_mark
from podium.cluster.store.postgres.schema import quoted
from podium.cluster.store.postgres.writing import Probe
from podium.protocols.errors import JournalCorrupt
from podium.supervisors.ports.journal import Entry, Forget, NewTask, Note, Standing
from tests.support import postgres
from tests.support.journals import durable, ended, record


@pytest.fixture
def database():
    database = postgres.new_database(timeout_s=5)
    yield database
    postgres.drop(database)


def owned(database, folder, *batches, shard="w"):
    """Own the shard, and make these batches durable."""

    async def work():
        journal = await PostgresJournal(database, folder, shard).open()
        for changes in batches:
            await durable(journal, *changes)
        await journal.close()
        return journal.epoch

    return asyncio.run(work())


def refusal(database, folder):
    with pytest.raises(JournalCorrupt, match="older copy") as refused:
        owned(database, folder)
    return refused.value.problem


def task(n):
    return [NewTask(record(f"t-{n:03}"), "d")]


def restored_in_between(database, file, before, after, folder):
    """Own the shard, make a backup, own it again, and put the backup back."""
    owned(database, folder, *before)
    postgres.dump(database, file)
    owned(database, folder, *after)
    postgres.restore(database, file)


def test_the_next_owner_notices_a_backup_from_before_the_last_owner(database, tmp_path):
    restored_in_between(database, tmp_path / "dump", [task(1)], [task(2)], tmp_path / "here")
    assert "at epoch 1, but epoch 2 was acknowledged" in refusal(database, tmp_path / "here")


@pytest.mark.parametrize(
    ("last", "named"),
    [
        (task(7), "task t-007"),
        ([Entry("t-001", 2, b"two")], "entry 2 of task t-001"),
        ([Standing("t-001", "running"), Entry("t-001", 2, b"two"), Note("a", 1)], "entry 2 of task t-001"),
    ],
)
def test_the_next_owner_notices_a_backup_that_was_made_while_the_last_one_ran(database, tmp_path, last, named):
    async def work():
        journal = await PostgresJournal(database, tmp_path / "here", "w").open()
        await durable(journal, *task(1), Entry("t-001", 1, b"one"))
        await asyncio.to_thread(postgres.dump, database, tmp_path / "dump")
        await durable(journal, *last)
        await durable(journal, Note("b", 2))
        journal.let_go()  # its process is killed
        await asyncio.to_thread(journal._thread.join)

    asyncio.run(work())
    postgres.restore(database, tmp_path / "dump")
    assert refusal(database, tmp_path / "here").startswith(f"{named} was acknowledged and is gone")


def test_a_copy_of_the_server_from_before_is_noticed(database, tmp_path):
    """As a snapshot of its disk, or a standby that was behind."""
    server = postgres.stoppable()
    owned(database, tmp_path / "here", task(1))
    with server.stopped() as data:
        shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2)
        owner = data.stat()
    owned(database, tmp_path / "here", task(2))
    with server.stopped() as data:
        shutil.rmtree(data)
        (tmp_path / "copy").rename(data)
        for path in [data, *data.rglob("*")]:
            shutil.chown(path, owner.st_uid, owner.st_gid)
    assert "epoch 2 was acknowledged" in refusal(database, tmp_path / "here")


def test_a_backup_with_all_that_was_acknowledged_goes_on(database, tmp_path):
    owned(database, tmp_path / "here", task(1), [Entry("t-001", 1, b"one")])
    postgres.dump(database, tmp_path / "dump")
    postgres.restore(database, tmp_path / "dump")
    assert owned(database, tmp_path / "here", task(2)) == 2


def test_a_schema_that_is_gone_is_noticed(database, tmp_path):
    owned(database, tmp_path / "here", task(1))
    postgres.drop(database)
    assert "at epoch 0, but epoch 1" in refusal(database, tmp_path / "here")


def test_a_task_that_was_forgotten_is_not_missed_by_the_next_owner(database, tmp_path):
    owned(database, tmp_path, task(1), [ended("t-001", 5.0)], [Forget("t-001")])
    assert owned(database, tmp_path, task(2), task(3), [ended("t-002", 5.0)], [Forget("t-002")]) == 2
    assert owned(database, tmp_path) == 3


def test_an_owner_that_is_killed_right_after_it_forgot_a_task_leaves_no_mark_of_it(database, tmp_path):
    class Killed(PostgresJournal):
        def _durable(self, batch):
            rows = super()._durable(batch)
            if any(isinstance(change, Forget) for work in batch for change in work.changes):
                raise RuntimeError("killed")
            return rows

    async def work():
        journal = await Killed(database, tmp_path, "w").open()
        failed = asyncio.get_running_loop().create_future()
        journal.on_failure = failed.set_result
        await durable(journal, *task(1), ended("t-001", 5.0))
        journal.write([Forget("t-001")])
        await asyncio.wait_for(failed, 10)

    asyncio.run(work())
    assert owned(database, tmp_path) == 2


def test_forgetting_other_tasks_leaves_the_mark_as_it_is(database, tmp_path):
    owned(database, tmp_path, task(1), [ended("t-001", 5.0)], task(2), [Forget("t-001")])
    assert read_mark(path_of(database, tmp_path)) == Known(1, Probe("t-002"))


def path_of(database, folder):
    return mark_path(folder, database.url, database.schema, "w")


def test_a_machine_whose_shard_another_one_owned_meanwhile_misses_nothing(database, tmp_path):
    owned(database, tmp_path / "here", task(1), [ended("t-001", 5.0)])
    owned(database, tmp_path / "there", [Forget("t-001")])
    assert owned(database, tmp_path / "here", task(2)) == 3
    assert owned(database, tmp_path / "there") == 4


def test_a_machine_that_has_no_mark_knows_nothing(database, tmp_path):
    restored_in_between(database, tmp_path / "dump", [task(1)], [task(2)], tmp_path / "here")
    assert owned(database, tmp_path / "elsewhere") == 2


def test_another_address_has_a_mark_of_its_own(database, tmp_path):
    """A database that was moved to another server goes on; two schemas in turn share nothing."""
    owned(database, tmp_path, task(1))
    moved = Database(database.url, database.schema + "_moved")
    try:
        assert owned(moved, tmp_path, task(1)) == 1
        assert owned(database, tmp_path) == 2
        assert list(marks(tmp_path, moved.url, moved.schema)) == ["w"]
    finally:
        postgres.drop(moved)


def test_the_next_owner_goes_on_with_the_mark_of_the_last(database, tmp_path):
    """An owner that writes nothing keeps what was known."""
    owned(database, tmp_path, task(1))
    owned(database, tmp_path)
    with psycopg.connect(database.url, autocommit=True) as db:
        db.execute(f"DELETE FROM {quoted(database.schema)}.tasks")
    assert "task t-001 was acknowledged" in refusal(database, tmp_path)


def test_an_owner_that_is_refused_changes_nothing(database, tmp_path):
    restored_in_between(database, tmp_path / "dump", [task(1)], [task(2)], tmp_path / "here")
    for _ in range(3):
        refusal(database, tmp_path / "here")
    assert read_mark(path_of(database, tmp_path / "here")) == Known(2, Probe("t-002"))
    with psycopg.connect(database.url) as db:
        assert db.execute(f"SELECT epoch FROM {quoted(database.schema)}.shards").fetchone() == (1,)


@pytest.mark.parametrize("damage", [b"", b"PMP1", b"PMP1\xff\xff\xff\xffxxxxyyyy", b"\x00" * 40])
def test_a_torn_mark_counts_as_none(database, tmp_path, damage):
    owned(database, tmp_path, task(1))
    path_of(database, tmp_path).write_bytes(damage)
    assert read_mark(path_of(database, tmp_path)) is None
    assert owned(database, tmp_path) == 2


@pytest.mark.parametrize("known", [Known(3, None), Known(2**40, Probe("t-é/run", 7)), Known(1, Probe("t" * 3_000))])
def test_a_mark_is_read_as_it_was_written(tmp_path, known):
    mark = Mark(tmp_path / "m")
    for each in (Known(9, Probe("t" * 4_000, 1)), known):  # the longer one before leaves a rest behind
        mark.write(each)
    mark.sync()
    mark.close()
    assert read_mark(tmp_path / "m") == known
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o600
    assert read_mark(tmp_path / "none") is None


def test_a_mark_that_cannot_be_written_stops_the_shard_and_names_the_folder(database, tmp_path):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        failed = asyncio.get_running_loop().create_future()
        journal.on_failure = failed.set_result
        journal._mark.write = full
        journal.write(task(1))
        return str(await asyncio.wait_for(failed, 10))

    def full(_known):
        raise OSError(28, "No space left on device")

    text = asyncio.run(work())
    assert str(tmp_path) in text and "No space left" in text


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")
def test_a_shard_behind_a_pooler_notices_it_too(database, tmp_path):
    with tempfile.TemporaryDirectory(prefix="podium-pool-") as folder:
        pooler = postgres.Pooler(Path(folder))
        try:
            pooled = Database(pooler.url, database.schema, 5)
            owned(pooled, tmp_path, task(1))
            with psycopg.connect(database.url, autocommit=True) as db:
                db.execute(f"DELETE FROM {quoted(database.schema)}.tasks")
            assert "task t-001" in refusal(pooled, tmp_path)
        finally:
            pooler.close()
