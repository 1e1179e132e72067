"""Burr with its SQLite persister in WAL mode: the state is committed after each action, before the next one.

Resuming after a crash is the application's own work: nothing goes on by itself. It runs one application after another;
in W4, where steps sleep, each in a thread of its own.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path

from burr.core import ApplicationBuilder, GraphBuilder, State, action
from burr.core.persistence import SQLitePersister
from measuring import measure
from work import STEPS, Parts, Peer, add, slow

WAITS_S = 60.0
"""For another thread's commit."""


@action(reads=["n"], writes=["n"])
def step(state: State) -> State:
    return state.update(**add({"n": state["n"]}))


def slow_step(name: str) -> Callable:
    @action(reads=["n", "task"], writes=["n"])
    def sleeping(state: State) -> State:
        return state.update(**slow(state["task"], name, {"n": state["n"]}))

    return sleeping


GRAPH = GraphBuilder().with_actions(**dict.fromkeys(STEPS, step)).with_transitions(*pairwise(STEPS)).build()
SLOW = (
    GraphBuilder().with_actions(**{name: slow_step(name) for name in STEPS}).with_transitions(*pairwise(STEPS)).build()
)


@contextmanager
def persisting(folder: Path) -> Iterator[SQLitePersister]:
    path = folder / "burr.sqlite"
    with closing(sqlite3.connect(path, timeout=WAITS_S, check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        persister = SQLitePersister(str(path), connection=connection)
        persister.initialize()
        yield persister


@contextmanager
def peer() -> Iterator[Peer]:
    numbers = count()
    with tempfile.TemporaryDirectory() as folder, persisting(Path(folder)) as persister:

        def one(input: dict) -> dict:
            building = ApplicationBuilder().with_graph(GRAPH).with_entrypoint("first").with_state(**input)
            building = building.with_identifiers(app_id=str(next(numbers))).with_state_persister(persister)
            _, _, state = building.build().run(halt_after=["third"])
            return {"n": state["n"]}

        yield Peer(lambda inputs: [one(input) for input in inputs])


def go_on(folder: Path, count: int) -> list[dict]:
    """Begin each task, or resume it behind its last action; each with a connection of its own."""
    with persisting(folder):
        pass  # makes its table
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(partial(one_of, folder), range(count)))


def one_of(folder: Path, number: int) -> dict:
    with persisting(folder) as persister:
        saved = persister.load(None, str(number))
        if saved is not None and saved["position"] == STEPS[-1]:
            return {"n": saved["state"]["n"]}
        building = ApplicationBuilder().with_graph(SLOW).with_identifiers(app_id=str(number))
        building = building.with_state_persister(persister).initialize_from(
            persister,
            resume_at_next_action=True,
            default_state={"n": number, "task": number},
            default_entrypoint=STEPS[0],
        )
        _, _, state = building.build().run(halt_after=[STEPS[-1]])
        return {"n": state["n"]}


if __name__ == "__main__":
    measure("Burr, SQLite WAL", "apache-burr", "each step", peer, Parts(go_on, go_on))
