"""What users' type checkers say of the public API. `make check` runs mypy and pyright over it against the built wheel.

`assert_type` is what must be known; a `type: ignore` with a code is what must be an error, and both complain about
one that is not. Nothing here runs, and names are not those of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import podium


@podium.protocol
def half(amount: int) -> float:
    return amount / 2


@podium.protocol(concurrency=3, replicas=(1, 4), spread=True, retry="tool", timeout_s=5)
async def fetch(ctx: podium.Context, url: str) -> bytes:
    ctx.heartbeat()
    return url.encode()


class Search(podium.Protocol):
    concurrency = 4
    retry = 2

    async def start(self) -> None:
        self.known = ["a"]

    async def run(self, ctx: podium.Context, query: str) -> list[str]:
        return [each for each in self.known if query in each]


class Plain(podium.Protocol):
    def run(self, query: str) -> str:
        return query


class Ticks(podium.Protocol):
    def run(self) -> int:
        return 1


async def protocols(ctx: podium.Context) -> None:
    assert_type(half(3), float)
    assert_type(half(amount=3), float)
    half("three")  # type: ignore[arg-type]
    half(ctx, 3)  # type: ignore[call-arg, arg-type]
    assert_type(await fetch(ctx, url="u"), bytes)
    await fetch("u")  # type: ignore[call-arg, arg-type]
    podium.protocol(concurency=3)  # type: ignore[call-overload]
    podium.protocol(quotas={"llm": "1"})  # type: ignore[dict-item]


def nodes(several: list[podium.Step], by_name: dict[str, object]) -> podium.Workflow:
    step = podium.Step(fetch, timeout_s=3, retry="llm", undo=half, fallback=[half, Search])
    podium.Step(fetch, timout_s=3)  # type: ignore[call-overload]
    podium.Step(fetch, timeout_s="3")  # type: ignore[call-overload]
    podium.Sequence(half, fetch, step, Search, timeout_s=10, with_={"amount": "input"})
    podium.Sequence(*several)
    podium.Sequence(half, with_input="x")  # type: ignore[call-overload]
    podium.Parallel({"a": half, "b": Search}, join=podium.quorum(1), rest="wait")
    podium.Parallel(each="input", do=fetch, limit=4)
    podium.Parallel(by_name, rest="leave")  # type: ignore[arg-type]
    podium.Hierarchy(Search, team={"a": half}, max_rounds=3)
    podium.Hierarchy(Search)  # type: ignore[call-arg]
    podium.Adaptive({"a": half}, start="a", rules=[podium.Rule(to="end")], max_visits=2)
    podium.Adaptive({"a": half}, start="a")  # type: ignore[call-arg]
    podium.Workflow("flow", step, shard=2)  # type: ignore[call-overload]
    return podium.Workflow("flow", step, shards=2, starts="as_needed")


@podium.protocol
def count(data: bytes) -> int:
    return len(data)


@podium.protocol
def lines(data: bytes) -> Iterator[str]:
    yield str(data)


@podium.protocol
async def clock(ctx: podium.Context) -> float:
    return ctx.left_s or 0.0


@podium.protocol
def sized(items: list[str]) -> int:
    return len(items)


@podium.protocol
def pack(ctx: podium.Context, data: podium.Lazy[bytes]) -> podium.File:
    assert_type(data.get(), bytes)
    with ctx.new_file("out") as file:
        file.write(data.get())
    return file.file


class Typed(podium.Protocol[str, list[str]]):
    async def run(self, ctx: podium.Context, query: str) -> list[str]:
        return [query]


async def values(engine: podium.Engine, client: podium.AsyncEngine) -> None:
    """The input and output of a tree are known, and what does not fit is an error."""
    assert_type(podium.Step(fetch, retry=2), podium.Step[str, bytes])
    assert_type(podium.Step(count, with_="outputs.x"), podium.Step[Any, int])
    assert_type(podium.Step("tools:count"), podium.Step[Any, Any])
    assert_type(podium.Sequence(fetch, count), podium.Sequence[str, int])
    assert_type(podium.Sequence(podium.Step(fetch), lines, sized, half), podium.Sequence[str, float])
    assert_type(podium.Sequence(fetch, clock), podium.Sequence[str, float])
    assert_type(podium.Sequence(Typed, sized), podium.Sequence[str, int])
    assert_type(podium.Sequence(Search, sized), podium.Sequence[Any, int])
    podium.Sequence(count, fetch)  # type: ignore[misc]
    podium.Sequence(Typed, fetch)  # type: ignore[call-overload]
    podium.Sequence(fetch, count, lines)  # type: ignore[misc]
    flow = podium.Workflow("flow", podium.Sequence(fetch, count), timeout_s=9)
    assert_type(flow, podium.Workflow[str, int])
    assert_type(podium.Workflow("one", fetch), podium.Workflow[str, bytes])
    assert_type(engine.submit(flow, "u"), podium.Task[int])
    assert_type(engine.submit(flow, "u").result(), int)
    assert_type(engine.submit_many(flow, ["u"]), list[podium.Task[int]])
    assert_type(await client.submit(flow, "u"), podium.AsyncTask[int])
    assert_type(await (await client.submit(flow, "u")), int)
    assert_type(await (await client.submit(flow, "u")).plain_result(), Any)
    engine.submit(flow, 3)  # type: ignore[misc]
    engine.submit_many(flow, [3])  # type: ignore[misc]
    await client.submit(flow, b"u")  # type: ignore[misc]
    podium.codec(Kept, name="kept", dump=Kept.to_bytes, load=Kept.of)
    podium.codec(Kept, name="kept", dump=Kept.to_bytes, load=len)  # type: ignore[arg-type]
    assert_type(podium.Secret("port", int).reveal(), int)
    assert_type(podium.Secret("db").reveal(), str)
    assert_type(podium.Lazy(3), podium.Lazy[int])
    assert_type(podium.Sequence(fetch, podium.Step(pack, with_="input")), podium.Sequence[str, podium.File])
    podium.Sequence(fetch, pack)  # type: ignore[misc]
    file = engine.submit(podium.Workflow("pack", pack), podium.Lazy(b"data")).result()
    assert_type(file.open("r").read(), str)
    assert_type(file.open().read(), bytes)
    podium.Sequence(sequence=["tools:a", "tools:b"], name="both")


class Kept:
    def to_bytes(self) -> bytes:
        return b""

    @classmethod
    def of(cls, data: bytes) -> Kept:
        return cls()


async def connecting(settings: podium.Settings) -> None:
    with podium.connect(data=settings.data, cluster="inprocess", limits={"llm": 3, "tokens": "9/min"}) as engine:
        assert_type(engine, podium.Engine)
    async with podium.connect_async(lease_s=3, user=None) as client:
        assert_type(client, podium.AsyncEngine)
    podium.connect(leese_s=3)  # type: ignore[call-arg]
    podium.connect_async(cluster="in process")  # type: ignore[arg-type]
    podium.connect(sources={})  # type: ignore[call-arg]


async def requests(engine: podium.Engine, client: podium.AsyncEngine, request: podium.Request) -> None:
    schema = {"type": "object"}
    assert_type(engine.ask("why?", root=".", tools=["grep"], answer_schema=schema, priority=2), podium.Task)
    assert_type(await client.ask(request, type="simple_query", limits={"answer_tokens": 90}), podium.AsyncTask)
    await client.ask("why?", attachments=[{"name": "a.md", "text": "A"}], session=None)
    engine.ask("why?", rot=".")  # type: ignore[call-arg]
    engine.ask("why?", type="simple")  # type: ignore[arg-type]
    await client.ask("why?", tools=3)  # type: ignore[arg-type]


async def states(engine: podium.Engine, client: podium.AsyncEngine) -> None:
    status = engine.status()
    assert_type(status, podium.status.ClusterStatus)
    assert_type(await client.status(), podium.status.ClusterStatus)
    assert_type(status.quotas["llm"].held, int)
    assert_type(status.workflows["flow"].open, int | None)
    assert_type(status.to_json(), dict[str, Any])
    assert_type((await client.set_limits(llm=3))["llm"], podium.status.LimitUse)
    assert_type(engine.set_breaker("model", "open")["model"], podium.status.BreakerStatus)
    status.quotas["llm"].held = 3  # type: ignore[misc]
    assert status.quotas["llm"].hold  # type: ignore[attr-defined]


async def tasks(engine: podium.Engine, client: podium.AsyncEngine, flow: podium.Workflow) -> None:
    assert_type(engine.submit(flow, 3), podium.Task)
    assert_type(engine.task("t-1").wait(3), bool)
    task = await client.submit(flow, 3)
    assert_type(task, podium.AsyncTask)
    assert_type(await task, Any)
    assert_type(await task.result(), Any)
    assert_type(await task.wait(), bool)
    assert_type(task.done(), bool)
    assert_type(await task.read_record(), podium.TaskRecord)
    assert_type(engine.task("t-1").read_record(), podium.TaskRecord)
    assert task.status  # type: ignore[attr-defined]
    assert_type(await client.tasks(), list[podium.AsyncTask])
    client.task("t-1").cancel()  # type: ignore[attr-defined]
    client.submit(flow, 3).result()  # type: ignore[attr-defined]
    await engine.task("t-1")  # type: ignore[misc]
