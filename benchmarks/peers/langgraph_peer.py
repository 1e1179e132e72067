"""LangGraph with its SQLite checkpointer and durability="sync": a checkpoint is written before the next step starts.

The synchronous interface, which is the faster one here. Resuming after a crash is the application's own work: nothing
goes on by itself.
"""

from __future__ import annotations

import operator
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as counter
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from measuring import measure
from work import STEPS, Parts, Peer, add, slow

IN_FLIGHT = 500


class Chain(TypedDict):
    n: int


class SlowChain(Chain):
    task: int


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


def slow_step(name: str) -> Callable[[SlowChain], dict]:
    return lambda state: slow(state["task"], name, {"n": state["n"]})


def chain_graph() -> StateGraph:
    return chained(Chain, dict.fromkeys(STEPS, step))


def slow_graph() -> StateGraph:
    return chained(SlowChain, {name: slow_step(name) for name in STEPS})


def chained(state: type, steps: dict[str, Callable[[Any], dict]]) -> StateGraph:
    graph = StateGraph(state)
    for name, node in steps.items():
        graph.add_node(name, node)
    for before, after in zip([START, *steps], [*steps, END], strict=True):
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


def go_on(folder: Path, count: int) -> list[dict]:
    """Begin each thread, or resume it: its input is None then."""
    with SqliteSaver.from_conn_string(str(folder / "graph.sqlite")) as saver:
        graph = slow_graph().compile(checkpointer=saver)
        configs: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(count)]
        begun = [saver.get_tuple(config) is not None for config in configs]
        inputs = [None if begun[number] else {"n": number, "task": number} for number in range(count)]
        limits = [{**config, "max_concurrency": IN_FLIGHT} for config in configs]
        return [{"n": state["n"]} for state in graph.batch(inputs, limits, durability="sync")]


if __name__ == "__main__":
    measure("LangGraph, SQLite, sync", "langgraph", "each step", peer, Parts(go_on, go_on))
