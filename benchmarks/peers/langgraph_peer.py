"""LangGraph with its SQLite checkpointer and durability="sync": a checkpoint is written before the next step starts.

The synchronous interface, which is the faster one here. Resuming after a crash is the application's own work: nothing
goes on by itself.
"""

from __future__ import annotations

import operator
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as counter
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from work import Peer, add, measure


class Chain(TypedDict):
    n: int


class Fan(TypedDict):
    count: int
    sleep_s: float
    total: Annotated[int, operator.add]


def step(state: Chain) -> dict:
    return add(state)


def part(given: dict) -> dict:
    if given["sleep_s"]:
        time.sleep(given["sleep_s"])
    return {"total": given["number"]}


def chain_graph() -> StateGraph:
    graph = StateGraph(Chain)
    names = ["first", "second", "third"]
    for name in names:
        graph.add_node(name, step)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


def fan_graph() -> StateGraph:
    graph = StateGraph(Fan)
    graph.add_node("part", part)
    spread = lambda state: [  # noqa: E731
        Send("part", {"number": number, "sleep_s": state["sleep_s"]}) for number in range(state["count"])
    ]
    graph.add_conditional_edges(START, spread, ["part"])
    graph.add_edge("part", END)
    return graph


@contextmanager
def peer() -> Iterator[Peer]:
    threads = counter()

    def config() -> Any:
        return {"configurable": {"thread_id": str(next(threads))}, "max_concurrency": 200}

    with tempfile.TemporaryDirectory() as folder, SqliteSaver.from_conn_string(f"{folder}/graph.sqlite") as saver:
        chain, fan = chain_graph().compile(checkpointer=saver), fan_graph().compile(checkpointer=saver)

        def many(inputs: list[dict]) -> list[dict]:
            return chain.batch(inputs, [config() for _ in inputs], durability="sync")

        def one_fan(count: int, sleep_s: float) -> int:
            given = {"count": count, "sleep_s": sleep_s, "total": 0}
            return fan.invoke(given, config(), durability="sync")["total"]

        yield Peer(many, one_fan)


if __name__ == "__main__":
    measure("LangGraph, SQLite, sync", "langgraph", "each step", peer)
