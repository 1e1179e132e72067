"""A client that comes back when it is asked to, as users' programs do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from podium.errors import BlobsAway, Overloaded, SpawnFailed

T = TypeVar("T")


async def at_last(call: Callable[[], Awaitable[T]]) -> T:
    """Submit, deploy or read, again while a store is away, and if actors died in their starts more often than allowed.

    Give submissions a key, as some of many may have been accepted.
    """
    while True:
        try:
            return await call()
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s)
        except BlobsAway:  # a simulated client cannot wait for a store while it reads: that would block the others
            await asyncio.sleep(1)
        except SpawnFailed as error:
            if not error.has_died:
                raise
