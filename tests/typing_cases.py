"""What a user's type checker says of the public API. `make check` runs mypy over it against the built wheel.

`assert_type` is what must be known; a `type: ignore` with a code is what must be an error, and mypy complains about
one that is not. Nothing here runs, and names are not those of the tests.
"""

from __future__ import annotations

from typing import assert_type

import podium


@podium.protocol
def half(amount: int) -> float:
    return amount / 2


@podium.protocol(concurrency=3, retry="tool", timeout_s=5)
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
