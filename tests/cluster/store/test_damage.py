"""What each kind of damage, and each way a disk can refuse, leads to: docs/journal.md has the table.

A crash is a copy of the files while the journal is open: what the kernel would have after a `kill -9`.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import pytest

from podium.cluster.cluster_file import ClusterFile, running_cluster
from podium.cluster.store import lock as locks
from podium.cluster.store.sqlite import opening
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.cluster.store.sqlite.mark import read_mark
from podium.cluster.store.sqlite.reading import FileReader
from podium.cluster.store.sqlite.schema import mark_path, shard_path, wal_path
from podium.protocols.errors import DataInUse, Fenced, InvalidSetting, JournalCorrupt, JournalFailed, PodiumError
from podium.supervisors.ports.journal import Forget, NewTask, Note
from tests.support.damaged import another_process, copy_of, fill, flip, look, opened, wipe
from tests.support.journals import durable, record

FLIPS = 250
"""Bits flipped per fuzz test; a run of 20,000 was made by hand."""


@pytest.fixture
def closed(tmp_path):
    """A data directory that was closed in order: all is in the main file."""

    async def work():
        journal = await opened(tmp_path / "closed")
        await fill(journal)
        await journal.close()
        return tmp_path / "closed"

    return asyncio.run(work())


# what was acknowledged must not vanish


def test_a_crash_loses_nothing(crashed, closed):
    assert look(crashed) == look(closed)


def test_a_torn_log_is_refused_and_left_as_it_was(crashed):
    path = shard_path(crashed, "w")
    os.truncate(wal_path(path), wal_path(path).stat().st_size - 100)
    before = path.read_bytes(), wal_path(path).read_bytes(), mark_path(path).read_bytes()
    with pytest.raises(JournalCorrupt, match="is 1 commit behind what was acknowledged; what to do: podium doctor"):
        look(crashed)
    assert (path.read_bytes(), wal_path(path).read_bytes(), mark_path(path).read_bytes()) == before


def test_a_missing_log_is_refused(crashed):
    wal_path(shard_path(crashed, "w")).unlink()
    with pytest.raises(JournalCorrupt, match="is 41 commits behind what was acknowledged"):
        look(crashed)


def test_an_older_copy_put_back_is_refused(tmp_path):
    async def work():
        journal = await opened(tmp_path / "live")
        await durable(journal, NewTask(record(), "d"))
        older = copy_of(tmp_path / "live", tmp_path / "older")
        await durable(journal, NewTask(record("t-2"), "d"), NewTask(record("t-3"), "d"))
        await journal.close()
        await (await opened(tmp_path / "live")).close()
        shutil.copy(mark_path(shard_path(tmp_path / "live", "w")), mark_path(shard_path(older, "w")))
        with pytest.raises(JournalCorrupt, match="is 2 commits behind"):
            await opened(older)

    asyncio.run(work())


@pytest.mark.parametrize("leave", ["nothing", "an empty file", "the log"])
def test_a_missing_file_is_not_a_new_shard(crashed, leave):
    path = shard_path(crashed, "w")
    path.unlink()
    if leave == "the log":
        mark_path(path).unlink()
    else:
        wal_path(path).unlink()
    if leave == "an empty file":
        path.touch()
    with pytest.raises(JournalCorrupt, match="missing or empty, but"):
        look(crashed)


@pytest.mark.parametrize("mark", [None, b"", b"PMK1 torn", bytes(24)])
def test_a_missing_or_torn_mark_is_made_again(crashed, closed, mark):
    path = mark_path(shard_path(crashed, "w"))
    path.unlink()
    if mark is not None:
        path.write_bytes(mark)
    assert look(crashed) == look(closed)
    assert read_mark(path).commits == 42


def test_the_mark_goes_with_each_commit_before_it_is_acknowledged(tmp_path):
    async def work():
        journal = await opened(tmp_path)
        path = mark_path(shard_path(tmp_path, "w"))
        seen = []
        for number in range(3):
            journal.write([Note("n", number)], lambda: seen.append(read_mark(path).commits))
            await durable(journal)
        assert seen == [2, 3, 4]
        await journal.close()

    asyncio.run(work())


# bits that flip


@pytest.mark.parametrize("first", range(0, FLIPS, 50))
def test_a_bit_that_flips_in_the_log_is_found_or_changes_nothing(crashed, closed, tmp_path, first):
    fuzz(crashed, look(closed), tmp_path, range(first, first + 50), wal_path, flip)


@pytest.mark.parametrize("first", range(0, FLIPS, 50))
def test_a_bit_that_flips_in_the_file_is_found_or_changes_nothing(closed, tmp_path, first):
    fuzz(closed, look(closed), tmp_path, range(first, first + 50), lambda path: path, flip)


@pytest.mark.parametrize("which", [wal_path, lambda path: path], ids=["log", "file"])
def test_a_sector_of_zeros_is_found_or_changes_nothing(crashed, closed, tmp_path, which):
    fuzz(crashed if which is wal_path else closed, look(closed), tmp_path, range(50), which, wipe)


def fuzz(data, sound, tmp_path, seeds, which, harm):
    for seed in seeds:
        copy = copy_of(data, tmp_path / f"seed-{seed}")
        where = harm(which(shard_path(copy, "w")), random.Random(seed))
        try:
            assert look(copy) == sound, f"seed {seed}: {where} changed what is read, unnoticed"
        except JournalCorrupt as error:
            assert "podium doctor" in str(error)
        except PodiumError as error:
            raise AssertionError(f"seed {seed}: {where} gave {error!r}") from error
        shutil.rmtree(copy)


def test_above_the_limit_a_file_is_not_checked_as_a_whole_but_what_is_read_is(closed, monkeypatch):
    monkeypatch.setattr(opening, "CHECK_BYTES", 0)
    path = shard_path(closed, "w")
    body = path.read_bytes()
    path.write_bytes(body.replace(b"xxxxx", b"xxyxx"))
    with pytest.raises(JournalCorrupt, match="the checksum does not match"):
        look(closed)


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    path = shard_path(tmp_path, "w")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    for read in (lambda: look(tmp_path), lambda: FileReader(tmp_path).find_task("t-1")):
        with pytest.raises(JournalCorrupt, match="not a database"):
            read()


def test_damage_that_sqlite_quotes_in_no_text_at_all_is_damage(closed):
    """Seeds 3071 and others of 20,000: the sqlite3 module raised UnicodeDecodeError."""
    path = shard_path(closed, "w")
    path.write_bytes(path.read_bytes().replace(b"STRICT", b"\xd3TRICT"))
    for read in (lambda: look(closed), lambda: FileReader(closed).find_task("t-1")):
        with pytest.raises(JournalCorrupt, match="malformed database schema"):
            read()


def test_tables_of_another_make_are_refused(closed):
    with closing(sqlite3.connect(shard_path(closed, "w"))) as db:
        db.execute("DROP INDEX task_keys")
    with pytest.raises(JournalCorrupt, match="not the tables of format 4: CREATE UNIQUE INDEX task_keys"):
        look(closed)


# a disk that refuses


async def refused(journal, *changes):
    """The error of a commit that must not be acknowledged."""
    failed = asyncio.get_running_loop().create_future()
    journal.on_failure = failed.set_result
    journal.write(list(changes), lambda: failed.set_exception(AssertionError("acknowledged")))
    error = await asyncio.wait_for(failed, 30)
    await journal.close()
    return error


def big(number):
    return NewTask(record(f"t-{number}", input="x" * 100_000), "d")


def test_a_full_database_fails_the_commit_and_goes_on_when_there_is_space(tmp_path):
    async def work():
        journal = await opened(tmp_path)
        await durable(journal, big(1))
        journal._db.execute("PRAGMA max_page_count=40")
        error = await refused(journal, big(2))
        assert isinstance(error, JournalFailed)
        assert str(error).endswith("w.db: database or disk is full")
        again = await opened(tmp_path)
        assert [task.record.task_id for task in await again.open_tasks()] == ["t-1"]
        await durable(again, big(2))
        await again.close()

    asyncio.run(work())


@contextmanager
def no_file_over(size_bytes):
    """Writes behind that size fail in this process, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_file_system_refuses_fails_the_commit_and_nothing_of_it_is_kept(tmp_path):
    async def work():
        journal = await opened(tmp_path)
        await durable(journal, big(1))
        with no_file_over(wal_path(shard_path(tmp_path, "w")).stat().st_size + 20_000):
            error = await refused(journal, big(2), big(3))
        assert isinstance(error, JournalFailed)
        assert "w.db: disk I/O error" in str(error)
        again = await opened(tmp_path)
        assert [task.record.task_id for task in await again.open_tasks()] == ["t-1"]
        await durable(again, big(2))
        await again.close()

    asyncio.run(work())


def test_a_mark_that_cannot_be_written_fails_the_commit(tmp_path):
    async def work():
        journal = await opened(tmp_path)
        os.close(journal._mark._handle)
        journal._mark._handle = os.open(os.devnull, os.O_RDONLY)
        assert "Bad file descriptor" in str(await refused(journal, big(1)))
        await (await opened(tmp_path)).close()

    asyncio.run(work())


@contextmanager
def without_privileges():
    """Root obeys permissions too, in this thread and those it starts (Linux capabilities are per thread)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    none[1], none[4] = before[1], before[4]  # effective: none; permitted: as before
    assert libc.capset(header, none) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def test_a_directory_without_permission_is_named(tmp_path):
    (tmp_path / "shards").mkdir(mode=0o500)
    with without_privileges(), pytest.raises(JournalFailed, match=r"shards/w\.lock: Permission denied"):
        asyncio.run(opened(tmp_path))


def test_a_file_that_may_not_be_written_is_named(closed):
    path = shard_path(closed, "w")
    os.chown(path, 65534, 65534) if os.geteuid() == 0 else path.chmod(0o444)
    path.parent.chmod(0o777)
    with without_privileges(), pytest.raises(JournalFailed, match=r"w\.db"):
        asyncio.run(opened(closed))


def test_a_data_directory_that_cannot_be_made_or_written_is_a_mistake_of_the_call(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting, match=r"setting 'data' \(.*/file/data\): cannot be used: Not a directory"):
        ClusterFile(tmp_path / "file" / "data").take()
    (tmp_path / "locked").mkdir(mode=0o500)
    with without_privileges(), pytest.raises(InvalidSetting, match=r"cannot be used: Permission denied \(.*lock\)"):
        ClusterFile(tmp_path / "locked").take()
    (tmp_path / "cluster.lock").touch(mode=0o000)
    with without_privileges(), pytest.raises(InvalidSetting, match=r"cannot be used: Permission denied \(.*lock\)"):
        running_cluster(tmp_path)


# a disk that is slow


class Slow(SqliteJournal):
    """A journal whose disk takes as long as the test wants."""

    def __init__(self, data):
        self.gate, self.took_s, self.now, self.commits = threading.Event(), 0.0, 0.0, 0
        self.gate.set()
        super().__init__(data, "w", lock_wait_s=0.1)
        self._clock = lambda: self.now

    def _make_durable(self, db):
        assert self.gate.wait(10)
        self.now += self.took_s
        self.commits += 1
        super()._make_durable(db)


def test_while_the_disk_is_slow_the_loop_turns_and_commits_group(tmp_path):
    async def work():
        journal = await Slow(tmp_path).open()
        journal.took_s = 0.5
        await durable(journal, Note("first", 1))
        before = journal.commits
        journal.gate.clear()
        order, turns = [], 0
        for number in range(100):
            journal.write([Note(f"n{number}", number)], lambda number=number: order.append(number))
            await asyncio.sleep(0)
            turns += 1
        assert (turns, order) == (100, [])
        journal.gate.set()
        await durable(journal)
        assert order == list(range(100))
        assert journal.commits - before <= 4, "what queued while one commit ran went into the next"
        await journal.close()

    asyncio.run(work())


def test_slow_commits_are_told_once_a_minute_with_the_figure(tmp_path, caplog):
    async def work():
        journal = await Slow(tmp_path).open()
        for number, took_s in enumerate([0.9, 1.5, 2.5, 57.0, 3.5, 0.1]):
            journal.took_s = took_s
            await durable(journal, Note("n", number))
        await journal.close()

    with caplog.at_level(logging.WARNING, "podium"):
        asyncio.run(work())
    assert [entry.getMessage() for entry in caplog.records] == [
        "slow disk: a commit of shard 'w' took 1.5 s",
        "slow disk: a commit of shard 'w' took 3.5 s",
    ]


@pytest.mark.alone
def test_a_long_reader_does_not_hold_up_the_next_owner(crashed, closed):
    with opening.reading(shard_path(crashed, "w")) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM tasks").fetchone() == (40,)
        began = time.monotonic()
        assert look(crashed) == look(closed)
        assert time.monotonic() - began < 4.0  # 0.1 s on a quiet machine; SQLite's own patience is 5 s


# two owners


def test_a_stopped_process_that_holds_the_shard_is_killed_and_its_shard_taken_over(tmp_path, caplog):
    with another_process(tmp_path) as zombie:
        zombie.send_signal(signal.SIGSTOP)
        journal_epoch = asyncio.run(epoch_of(tmp_path))
        assert zombie.wait(10) == -signal.SIGKILL
    assert journal_epoch == 2
    assert f"shard 'w' was still held by process {zombie.pid} after 0.1 s" in caplog.text


async def epoch_of(data):
    journal = await opened(data)
    await journal.close()
    return journal.epoch


def test_a_holder_that_the_kernel_does_not_confirm_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "holder", lambda path: None)
    with another_process(tmp_path) as other:
        with pytest.raises(DataInUse, match=f"is in use by process {other.pid}"):
            asyncio.run(opened(tmp_path))
        assert other.poll() is None


def test_the_holder_is_who_the_kernel_says_not_what_the_file_says(tmp_path):
    path = tmp_path / "shards" / "w.lock"
    with another_process(tmp_path) as other:
        path.write_text("1")
        assert locks.holder(path) == other.pid
    with path.open() as _, (tmp_path / "another.lock").open("w") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        assert locks.holder(path) is None, "to have it open, and to hold another, is not to hold it"


def test_a_zombie_that_goes_on_is_refused_and_nothing_of_it_is_stored(tmp_path, monkeypatch):
    async def work():
        zombie = await opened(tmp_path)
        await durable(zombie, NewTask(record(), "d"))
        monkeypatch.setattr(locks, "take", lambda path, shard, wait_s: os.open(os.devnull, os.O_RDONLY))
        new = await opened(tmp_path)
        await durable(new, NewTask(record("t-2"), "d"))
        error = await refused(zombie, NewTask(record("t-3"), "d"), Forget("t-9"))
        assert isinstance(error, Fenced)
        assert (error.epoch, error.newer) == (1, 2)
        await durable(new, NewTask(record("t-4"), "d"))
        assert [task.record.task_id for task in await new.open_tasks()] == ["t-1", "t-2", "t-4"]
        await new.close()

    asyncio.run(work())
