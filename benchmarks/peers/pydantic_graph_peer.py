"""pydantic-graph in one process, which keeps nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from measuring import measure
from pydantic_graph import Graph, GraphBuilder, StepContext, reduce_sum
from work import Peer, add


def chain() -> Graph:
    graph = GraphBuilder(input_type=dict, output_type=dict)

    async def step(ctx: StepContext[None, None, dict]) -> dict:
        return add(ctx.inputs)

    first, second, third = (graph.step(step, node_id=name) for name in ("first", "second", "third"))
    nodes = [graph.start_node, first, second, third, graph.end_node]
    graph.add(*(graph.edge_from(before).to(after) for before, after in itertools.pairwise(nodes)))
    return graph.build()


def fan() -> Graph:
    graph = GraphBuilder(input_type=list, output_type=int)

    @graph.step
    async def part(ctx: StepContext[None, None, tuple[int, float]]) -> int:
        number, sleep_s = ctx.inputs
        if sleep_s:
            await asyncio.sleep(sleep_s)
        return number

    total = graph.join(reduce_sum, initial=0)
    graph.add(
        graph.edge_from(graph.start_node).map().to(part),
        graph.edge_from(part).to(total),
        graph.edge_from(total).to(graph.end_node),
    )
    return graph.build()


@contextmanager
def peer() -> Iterator[Peer]:
    chained, fanned = chain(), fan()

    async def many(inputs: list[dict]) -> list[dict]:
        return await asyncio.gather(*(chained.run(inputs=input) for input in inputs))

    async def one_fan(count: int, sleep_s: float) -> int:
        return await fanned.run(inputs=[(number, sleep_s) for number in range(count)])

    with asyncio.Runner() as runner:
        yield Peer(lambda inputs: runner.run(many(inputs)), lambda *of: runner.run(one_fan(*of)))


if __name__ == "__main__":
    measure("pydantic-graph", "pydantic-graph", "no", peer)
