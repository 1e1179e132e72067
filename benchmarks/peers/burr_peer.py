"""Burr with its SQLite persister in WAL mode: the state is committed after each action, before the next one.

Resuming after a crash is the application's own work: nothing goes on by itself. It runs one application after another.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count, pairwise

from burr.core import ApplicationBuilder, GraphBuilder, State, action
from burr.core.persistence import SQLitePersister
from work import Peer, add, measure


@action(reads=["n"], writes=["n"])
def step(state: State) -> State:
    return state.update(**add({"n": state["n"]}))


NAMES = ["first", "second", "third"]
GRAPH = GraphBuilder().with_actions(**dict.fromkeys(NAMES, step)).with_transitions(*pairwise(NAMES)).build()


@contextmanager
def peer() -> Iterator[Peer]:
    numbers = count()
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/burr.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        persister = SQLitePersister(f"{folder}/burr.sqlite", connection=connection)
        persister.initialize()

        def one(input: dict) -> dict:
            building = ApplicationBuilder().with_graph(GRAPH).with_entrypoint("first").with_state(**input)
            building = building.with_identifiers(app_id=str(next(numbers))).with_state_persister(persister)
            _, _, state = building.build().run(halt_after=["third"])
            return {"n": state["n"]}

        yield Peer(lambda inputs: [one(input) for input in inputs])


if __name__ == "__main__":
    measure("Burr, SQLite WAL", "burr", "each step", peer)
