"""How fast are durable tasks over a PostgreSQL database, against a data directory, in the same run?

W1 (tasks of 3 steps, submitted at once) and W2 (one at a time), as in throughput.py, on one Ray cluster; and entries of
the journal alone, with 1, 64 and 1,000 writers, as in journal.py. The server runs on this machine, with fsync and
synchronous_commit on. The two stores take turns.

    python benchmarks/stores.py [--tasks 1000] [--entries 20000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from harness import Row, latencies_ms, machine, over, percentile, report, throughput
from journal import WRITERS, entries_per_s
from throughput import podium_chain, podium_one

import podium
from podium.cluster.store.address import StoreAddress
from podium.cluster.store.stores import store_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support import postgres

SQLITE, POSTGRES = "SQLite", "PostgreSQL"


async def rate_of(address: StoreAddress, shard: str, writers: int, entries: int) -> float:
    journal, _ = await store_of(address).open_journal(shard)
    return await entries_per_s(journal, writers, entries)


def journals(places: dict[str, StoreAddress], entries: int, repeats: int) -> dict[tuple[str, int], Row]:
    rows = {(name, n): Row(name, f"entries, {n:,} writers", "per s") for name in places for n in WRITERS}
    for repeat in range(repeats):
        for writers in WRITERS:
            for name, place in places.items():
                count = entries // 10 if writers == 1 else entries
                rate = asyncio.run(rate_of(place, f"bench{repeat}x{writers}", writers, count))
                rows[name, writers].values.append(rate)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--entries", type=int, default=20_000)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    database = postgres.new_database()
    with tempfile.TemporaryDirectory() as folder:
        here = {"database": database.url, "database_schema": database.schema}
        places = {
            SQLITE: StoreAddress(f"{folder}/alone"),
            POSTGRES: StoreAddress(f"{folder}/alone", database.url, f"{database.schema}_alone"),
        }
        rows = journals(places, given.entries, given.repeats)
        with (
            podium.connect(data=f"{folder}/sqlite") as directory,
            podium.connect(data=f"{folder}/postgres", **here) as over_postgres,
        ):
            engines = {SQLITE: directory, POSTGRES: over_postgres}
            w1 = {name: Row(name, f"W1, {given.tasks} tasks", "tasks/s") for name in engines}
            w2 = {name: Row(name, "W2, p50", "ms") for name in engines}
            for engine in engines.values():
                throughput(podium_chain(engine), 200)
                latencies_ms(podium_one(engine), 20)
            for _ in range(given.repeats):
                for name, engine in engines.items():
                    w1[name].values.append(throughput(podium_chain(engine), given.tasks))
                    w2[name].values.append(percentile(latencies_ms(podium_one(engine), 40), 0.5))
    postgres.drop(database)
    ratios = {
        "W1 over PostgreSQL against SQLite (target >= 0.6, then 0.8)": over(w1[POSTGRES], w1[SQLITE]),
        "W2 p50 over PostgreSQL against SQLite": over(w2[POSTGRES], w2[SQLITE]),
        **{f"entries, {n:,} writers": over(rows[POSTGRES, n], rows[SQLITE, n]) for n in WRITERS},
    }
    report("stores", [*w1.values(), *w2.values(), *rows.values()], ratios, machine())


if __name__ == "__main__":
    main()
