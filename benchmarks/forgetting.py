"""Does forgetting slow commits down in PostgreSQL, also behind an old snapshot, and how much does the database grow?

Tasks of one shard, 64 at a time, each of five commits that share transactions with the others: accepted, three steps,
the end. Meanwhile finished tasks are forgotten, as fast as they end. The variants take turns, for some seconds each:

- nothing is forgotten;
- rows are deleted in batches of 500 tasks, as Podium does;
- tasks and entries lie in partitions by task id, and a partition whose tasks have all ended is dropped. Such tables can
  have no unique index of keys; here it is left out, in their favour.

Each of the two ways runs again beside a session that holds an old snapshot (REPEATABLE READ, idle), so that no deleted
row can be removed. First `--dead` tasks are made and forgotten behind that snapshot, and a vacuum, with the cost limits
of autovacuum, looks at deleted rows in vain meanwhile. W1 for 30 minutes makes some 10 million.

The processor time of a task (this process, and the server's process of the journal) tells what the speed tells, and
depends less on what else the machine does.

    python benchmarks/forgetting.py [--seconds 3] [--dead 1000000] [--repeats 10]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeAlias

import psutil
import psycopg
from harness import Row, machine, over, report
from journal import BODY, record_of

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.schema import quoted
from podium.protocols.outcomes import TaskRecord
from podium.protocols.values import pack
from podium.supervisors.ports.journal import Closing, Entry, Forget, NewTask, durable
from podium.supervisors.upkeep.retention import BATCH

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support import postgres

SHARD, AT_ONCE, ENTRIES = "bench", 64, 4
WARM_UP_S = 4.0
KEEP_S = 2.0
"""Seconds for which finished tasks are kept."""
PARTITION = 20_000
"""Number of tasks in a partition."""
Sizes: TypeAlias = "dict[Variant, tuple[float, int]]"
"""By variant: MB at the end, and finished tasks that are left."""
Rows: TypeAlias = "dict[Variant, Row]"
KEPT, ROWS, PARTITIONS = "nothing forgotten", "rows deleted", "partitions dropped"


@dataclass(frozen=True)
class Variant:
    way: str
    is_held: bool

    @property
    def name(self) -> str:
        return f"{self.way}, old snapshot" if self.is_held else self.way


VARIANTS = [Variant(KEPT, False), *(Variant(way, held) for held in (False, True) for way in (ROWS, PARTITIONS))]


def id_of(n: int) -> str:
    return f"t-{n:012}"


def new_task(n: int) -> TaskRecord:
    facts = record_of(id_of(n))
    return TaskRecord(facts.task_id, *("chain", "1", "hash", {"n": 1}, "ada", 0, None, "running"), time.time())


class Load:
    """Tasks that begin as others end, for some seconds."""

    def __init__(self, journal: PostgresJournal, first: int) -> None:
        self._journal, self._numbers = journal, count(first)
        self._until = 0.0
        self._running = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        journal.on_failure = self._over.set_exception
        self.ended: list[int] = []

    async def run(self, seconds: float) -> float:
        """Return the tasks that ended per second."""
        began = time.perf_counter()
        self._until = began + seconds
        for _ in range(AT_ONCE):
            self._begin()
        await self._over
        return len(self.ended) / (time.perf_counter() - began)

    def _begin(self) -> None:
        n = next(self._numbers)
        self._running += 1
        self._journal.write([NewTask(new_task(n), "")], partial(self._step, n, 1))

    def _step(self, n: int, entry: int) -> None:
        if entry < ENTRIES:
            self._journal.write([Entry(id_of(n), entry, BODY)], partial(self._step, n, entry + 1))
        else:
            end = Closing("completed", time.time(), pack({"n": 4}), None)
            self._journal.write([Entry(id_of(n), entry, BODY, end)], partial(self._end, n))

    def _end(self, n: int) -> None:
        self.ended.append(n)
        self._running -= 1
        if time.perf_counter() < self._until:
            self._begin()
        elif self._running == 0:
            self._over.set_result(None)


async def forget_rows(journal: PostgresJournal) -> None:
    """Forget as `Retention` does."""
    while True:
        ids = await journal.forgettable(time.time() - KEEP_S, BATCH)
        if ids:
            await durable(journal, [Forget(id) for id in ids])
        if len(ids) < BATCH:
            await asyncio.sleep(KEEP_S / 2)


class Partitions:
    """Tables of tasks and entries in partitions by task id."""

    def __init__(self, database: Database) -> None:
        self._url, self._at = database.url, quoted(database.schema)

    def make(self, first: int, most: int) -> None:
        with psycopg.connect(self._url, autocommit=True) as db:
            for table, key in (("tasks", "id"), ("entries", "task_id")):
                partitioned = f"LIKE {self._at}.{table} INCLUDING DEFAULTS, PRIMARY KEY ({self._key(table)})"
                db.execute(f"CREATE TABLE {self._at}.new ({partitioned}) PARTITION BY RANGE ({key})")
                db.execute(f"DROP TABLE {self._at}.{table}")
                db.execute(f"ALTER TABLE {self._at}.new RENAME TO {table}")
                for n in range(first // PARTITION, (first + most) // PARTITION + 1):
                    bounds = f"FROM ('{id_of(n * PARTITION)}') TO ('{id_of((n + 1) * PARTITION)}')"
                    parent = f"{self._at}.{table}"
                    db.execute(f"CREATE TABLE {self._at}.{table}_{n} PARTITION OF {parent} FOR VALUES {bounds}")
            db.execute(f"CREATE INDEX tasks_by_id ON {self._at}.tasks (id)")
            columns = "(shard, accepted_at, id)"
            db.execute(f"CREATE INDEX open_tasks ON {self._at}.tasks {columns} WHERE finished_at IS NULL")
            db.execute(f"CREATE INDEX newest_tasks ON {self._at}.tasks (accepted_at)")

    @staticmethod
    def _key(table: str) -> str:
        return "shard, id" if table == "tasks" else "shard, task_id, n"

    def drop(self, n: int) -> None:
        with psycopg.connect(self._url) as db:
            db.execute(f"DROP TABLE {self._at}.tasks_{n}, {self._at}.entries_{n}")


def make_dead(database: Database, dead: int) -> None:
    """Make tasks with their entries, and forget them."""
    at = quoted(database.schema)
    with psycopg.connect(database.url, autocommit=True) as db:
        for start in range(0, dead, PARTITION):
            until = min(dead, start + PARTITION) - 1
            db.execute(
                f"""INSERT INTO {at}.tasks SELECT '{SHARD}', 't-' || lpad(n::text, 12, '0'), 'chain', '1', 'hash',
                'ada', 0, NULL, '', 1, 1, 'running', NULL, NULL, '\\x81a16e01', NULL, NULL
                FROM generate_series({start}, {until}) n"""
            )
            db.execute(
                f"""INSERT INTO {at}.entries SELECT '{SHARD}', 't-' || lpad(n::text, 12, '0'), e, 1, %s, 1
                FROM generate_series({start}, {until}) n, generate_series(1, {ENTRIES}) e""",
                (BODY,),
            )
            theirs = f"id <= '{id_of(until)}' AND id >= '{id_of(start)}'"
            db.execute(f"UPDATE {at}.tasks SET finished_at = 2, status = 'completed' WHERE {theirs}")
            db.execute(f"DELETE FROM {at}.entries WHERE task_id <= '{id_of(until)}' AND task_id >= '{id_of(start)}'")
            db.execute(f"DELETE FROM {at}.tasks WHERE {theirs}")


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    with psycopg.connect(url) as db:
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        db.execute("SELECT 1")
        yield


@contextmanager
def vacuuming(database: Database) -> Iterator[None]:
    """A vacuum under way, as autovacuum does it."""
    at = quoted(database.schema)

    def work() -> None:
        with psycopg.connect(database.url, autocommit=True) as db:
            db.execute("SET vacuum_cost_delay = '2ms'")
            backend.append(db.info.backend_pid)
            with suppress(psycopg.errors.QueryCanceled):
                db.execute(f"VACUUM {at}.tasks, {at}.entries")

    backend: list[int] = []
    thread = threading.Thread(target=work)
    thread.start()
    yield
    with psycopg.connect(database.url, autocommit=True) as db:
        while thread.is_alive():
            db.execute("SELECT pg_cancel_backend(%s)", (backend[0],))
            thread.join(0.1)


def size_mb(database: Database) -> float:
    with psycopg.connect(database.url) as db:
        row = db.execute(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = %s AND relkind = 'r'",
            (database.schema,),
        ).fetchone()
    return float(str((row or (0,))[0])) / 1e6


@dataclass
class Runner:
    """One variant, over tables of its own."""

    variant: Variant
    database: Database
    journal: PostgresJournal
    next: int
    """Number of the next task."""
    partition: int
    """Number of the oldest partition."""

    async def rate(self, seconds: float) -> tuple[float, float]:
        """Run for a slice; returns the tasks per second, and the processor time of each in microseconds."""
        load, before_s = Load(self.journal, self.next), self._used_s()
        forgetting = asyncio.create_task(self._forget(load))
        with vacuuming(self.database) if self.variant == Variant(ROWS, is_held=True) else nullcontext():
            rate = await load.run(seconds)
        if forgetting.done():
            forgetting.result()
        forgetting.cancel()
        self.next += len(load.ended)
        return rate, 1e6 * (self._used_s() - before_s) / len(load.ended)

    def _used_s(self) -> float:
        """Return the processor time of this process, and of the server's process for its journal."""
        server = psutil.Process(self.journal._connection.info.backend_pid).cpu_times()
        return time.process_time() + server.user + server.system

    async def _forget(self, load: Load) -> None:
        if self.variant.way == ROWS:
            await forget_rows(self.journal)
        while self.variant.way == PARTITIONS:
            await asyncio.sleep(KEEP_S / 2)
            while self.next + len(load.ended) - (self.partition + 1) * PARTITION > 2 * AT_ONCE:
                oldest, self.partition = self.partition, self.partition + 1
                await asyncio.to_thread(Partitions(self.database).drop, oldest)


async def prepared(variant: Variant, url: str, folder: str, given: argparse.Namespace) -> Runner:
    database = Database(url, f"podium_{VARIANTS.index(variant)}")
    journal = await PostgresJournal(database, Path(folder), SHARD).open()
    first = given.dead // PARTITION + 1
    if variant.way == PARTITIONS:
        Partitions(database).make(first * PARTITION, int(given.seconds * given.repeats * 15_000))
    elif variant.is_held:
        began = time.perf_counter()
        await asyncio.to_thread(make_dead, database, given.dead)
        print(f"{given.dead:,} tasks made and forgotten in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return Runner(variant, database, journal, first * PARTITION, first)


async def measure(rates: Rows, times: Rows, urls: dict[bool, str], folder: str, given: argparse.Namespace) -> Sizes:
    """Run all variants in turns."""
    with old_snapshot(urls[True]):
        runners = [await prepared(variant, urls[variant.is_held], folder, given) for variant in VARIANTS]
        for runner in runners:
            await runner.rate(WARM_UP_S)
        for _ in range(given.repeats):
            for runner in runners:
                rate, used_us = await runner.rate(given.seconds)
                rates[runner.variant].values.append(rate)
                times[runner.variant].values.append(used_us)
            print({each.name: round(row.values[-1]) for each, row in rates.items()}, file=sys.stderr)
        sizes = {}
        for runner in runners:
            sizes[runner.variant] = (size_mb(runner.database), await runner.journal.finished_count())
            await runner.journal.close()
    return sizes


def databases() -> dict[bool, str]:
    """Make a database for the variants behind an old snapshot, which holds back deleted rows of its own database."""
    url = postgres.url()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP DATABASE IF EXISTS podium_held")
        db.execute("CREATE DATABASE podium_held")
    return {False: url, True: psycopg.conninfo.make_conninfo(url, dbname="podium_held")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3)
    options.add_argument("--dead", type=int, default=1_000_000)
    options.add_argument("--repeats", type=int, default=10)
    given = options.parse_args()
    rates = {each: Row(each.name, "W1 of the journal", "tasks/s") for each in VARIANTS}
    times = {each: Row(each.name, "processor time", "µs/task") for each in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        sizes = asyncio.run(measure(rates, times, databases(), folder, given))
    figures = [Row(each.name, "size at the end", "MB", [sizes[each][0]]) for each in VARIANTS]
    figures += [Row(each.name, "finished tasks left", "", [sizes[each][1]]) for each in VARIANTS]
    kept, (rows, rows_held, dropped, dropped_held) = VARIANTS[0], (VARIANTS[n] for n in (1, 3, 2, 4))
    ratios = {
        f"{ROWS}: behind an old snapshot against without (target >= 0.9)": over(rates[rows_held], rates[rows]),
        f"{PARTITIONS}: behind an old snapshot against without": over(rates[dropped_held], rates[dropped]),
        f"{ROWS}: processor time behind an old snapshot against without": over(times[rows_held], times[rows]),
        f"{PARTITIONS}: processor time behind an old snapshot": over(times[dropped_held], times[dropped]),
        f"{ROWS} against {KEPT}": over(rates[rows], rates[kept]),
        f"{PARTITIONS} against {KEPT}": over(rates[dropped], rates[kept]),
        f"{ROWS}: processor time against {KEPT}": over(times[rows], times[kept]),
        f"{PARTITIONS}: processor time against {KEPT}": over(times[dropped], times[kept]),
    }
    facts = machine() | {"dead_tasks": given.dead, "dead_rows": given.dead * (1 + ENTRIES)}
    report("forgetting", [*rates.values(), *times.values(), *figures], ratios, facts)


if __name__ == "__main__":
    main()
