"""A shard on disk that a test fills, copies as a crash leaves it, damages, and looks at."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import contextmanager

from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.supervisors.ports.journal import NewTask, Note
from tests.support.journals import durable, ended, found, record

IDS = [f"t-{number:02}" for number in range(40)]


async def opened(data, **options):
    return await SqliteJournal(data, "w", **{"lock_wait_s": 0.1, **options}).open()


async def fill(journal):
    """40 tasks of all sizes in 20 commits, half of them finished."""
    for one, two in zip(IDS[::2], IDS[1::2], strict=True):
        size = 10 ** (int(one[2:]) % 5)
        await durable(journal, NewTask(record(one, key=f"k-{one}", input="x" * size), "d"), NewTask(record(two), "d"))
        await durable(journal, ended(one, 105.0, result="y" * size), Note(f"note-{one}", {"about": one}))


async def contents(journal):
    """All that can be asked of a journal."""
    entries = []
    for id in IDS:
        done = asyncio.get_running_loop().create_future()
        journal.on_failure = done.set_exception
        journal.entries(id, done.set_result)
        entries.append(await asyncio.wait_for(done, 30))
    by_key = await found(journal, keys=[("u", f"k-{id}") for id in IDS])
    return (
        await journal.open_tasks(), await journal.notes(), await found(journal, IDS), by_key, entries,
        await journal.forgettable(before=200.0, limit=99), await journal.finished_count(),
    )  # fmt: skip


def copy_of(data, target):
    """The files as a crash leaves them."""
    shutil.copytree(data, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    return target


def look(data):
    async def work():
        journal = await opened(data)
        try:
            return await contents(journal)
        finally:
            await journal.close()

    return asyncio.run(work())


def flip(path, rng):
    """Flip one bit of a file; returns where."""
    body = bytearray(path.read_bytes())
    at, bit = rng.randrange(len(body)), rng.randrange(8)
    body[at] ^= 1 << bit
    path.write_bytes(body)
    return f"bit {bit} of byte {at} (page {at // 4096 + 1}, offset {at % 4096})"


def wipe(path, rng):
    """Fill one sector with zeros, as a failing disk may give it back; returns where."""
    body = bytearray(path.read_bytes())
    at = rng.randrange(len(body) // 512) * 512
    body[at : at + 512] = bytes(512)
    path.write_bytes(body)
    return f"the sector at byte {at} (page {at // 4096 + 1}, offset {at % 4096})"


HOLD = """
import asyncio, sys
from pathlib import Path
from podium.cluster.store.sqlite.journal import SqliteJournal

async def main():
    await SqliteJournal(Path(sys.argv[1]), "w").open()
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@contextmanager
def another_process(data):
    """A process that holds the shard."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()
