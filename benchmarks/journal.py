"""How many entries does the journal make durable, against SQLite with one commit for each, on the same disk?

So many writers at once, each of which writes its next entry when its last one is durable: 1 (what a lone task sees), 64
and 1,000. Podium commits together whatever has queued while the last commit ran; the other way is one INSERT per
transaction, with the same settings (WAL, synchronous=FULL). Entries per second, and ms per entry for the lone writer.

    python benchmarks/journal.py [--entries 20000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from harness import Row, machine, report

from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.protocols.outcomes import TaskRecord
from podium.supervisors.ports.journal import Entry, Journal, NewTask
from podium.supervisors.tasks.events import StepFinished, pack_events

WRITERS = (1, 64, 1_000)
BODY = pack_events([StepFinished("first", {"n": 1}, 1_700_000_000.0)])


def record_of(id: str) -> TaskRecord:
    return TaskRecord(id, "chain", "1", "hash", {"n": 1}, "ada", 0, None, "running", 1_700_000_000.0)


async def together(folder: str, writers: int, entries: int) -> float:
    return await entries_per_s(await SqliteJournal(Path(folder), "bench").open(), writers, entries)


async def entries_per_s(journal: Journal, writers: int, entries: int) -> float:
    """Entries per second through one journal, with so many writers that each await their last entry. Closes it."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = entries

    def write(id: str, n: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set_result(None)
        elif left > 0:
            journal.write([Entry(id, n, BODY)], partial(write, id, n + 1))

    journal.write([NewTask(record_of(f"t-{n}"), "") for n in range(writers)])
    began = time.perf_counter()
    for n in range(writers):
        journal.write([Entry(f"t-{n}", 1, BODY)], partial(write, f"t-{n}", 2))
    await done
    rate = entries / (time.perf_counter() - began)
    await journal.close()
    return rate


def alone(folder: str, entries: int) -> float:
    """Entries per second with a transaction for each."""
    with closing(sqlite3.connect(f"{folder}/alone.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE entries (task_id TEXT, n INTEGER, body BLOB, PRIMARY KEY (task_id, n)) WITHOUT ROWID")
        began = time.perf_counter()
        for n in range(entries):
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", ("t-0", n, BODY))
        return entries / (time.perf_counter() - began)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entries", type=int, default=20_000)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    ours = {writers: Row("podium", f"{writers:,} at once", "per s") for writers in WRITERS}
    lone, one = Row("podium", "an entry, alone", "ms"), Row("a commit for each", "one by one", "per s")
    for _ in range(given.repeats):
        for writers, row in ours.items():
            entries = given.entries if writers > 1 else given.entries // 10
            with tempfile.TemporaryDirectory() as folder:
                row.values.append(asyncio.run(together(folder, writers, entries)))
        lone.values.append(1000 / ours[1].values[-1])
        with tempfile.TemporaryDirectory() as folder:
            one.values.append(alone(folder, given.entries // 10))
    ratios = {f"{n:,} writers over a commit for each": row.median / one.median for n, row in ours.items()}
    report("journal", [*ours.values(), lone, one], ratios, machine())


if __name__ == "__main__":
    main()
