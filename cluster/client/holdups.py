"""What keeps the tasks of a workflow from going on: as its cluster tells it, and as its shards do.

A supervisor that cannot start (its disk is full, its journal damaged, it died too often) is known to the coordinator, a
protocol of which no host can start to the supervisor, which notes it in the shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from ...protocols.errors import Overloaded, PodiumError
from ...supervisors.messages.client import AskStatus, ClusterStatus, Deploy, Deployed
from ...supervisors.ports.messaging import Message
from ...supervisors.shards import workflow_of
from ..config import Settings
from ..store.contract import Reader

T = TypeVar("T")
ASK_S = 2.0
"""How long a cluster has to say what is wrong, in seconds: whoever waits for a task has waited enough."""
RETRY_AFTER_S = 5.0
"""When to come back, in seconds, with a task that was refused because its workflow does not start."""


class Asking(Protocol):
    """The part of a client that can ask a cluster what is wrong."""

    settings: Settings

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def reader(self) -> Reader: ...

    async def aside(self, read: Callable[[], T]) -> T: ...

    def check(self) -> None:
        """Raises EngineClosed if nothing can be asked any more."""

    async def ask_coordinator(self, message: Message, form: Callable[..., T]) -> T: ...


def holdups(workflows: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The shards whose supervisors do not run, each with the reason; from `workflows` of the status."""
    for shard, facts in workflows.items():
        if facts.get("reason"):
            state = "is down" if facts["state"] == "down" else "does not start"
            yield shard, f"workflow '{workflow_of(shard)}' {state}: {facts['reason']}"


def blocked_hosts(blocked: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """As `Reader.blocked` gives them; each reason once."""
    for ref, whys in blocked.items():
        for why in dict.fromkeys(whys.values()):
            yield f"no host of '{ref}' can start: {why}"


async def not_up(core: Asking, names: Callable[[str], bool]) -> str:
    """Why the first of the supervisors with such shards does not run; "" if all do, or nobody can say."""
    with suppress(PodiumError, TimeoutError):
        status = await asyncio.wait_for(core.ask_coordinator(AskStatus(), ClusterStatus), ASK_S)
        return next((why for shard, why in holdups(status.workflows) if names(shard)), "")
    return ""


async def why_held(core: Asking, workflow: str) -> str:
    """What may keep a task of the workflow from going on; "" if nothing is known to."""
    why = await not_up(core, lambda shard: workflow_of(shard) == workflow)
    if why:
        return why
    with suppress(PodiumError):
        return "; ".join(blocked_hosts(await core.aside(lambda: core.reader.blocked(workflow))))
    return ""


def why_held_now(core: Asking, workflow: str) -> str:
    """The same, from any other thread."""
    with suppress(PodiumError, RuntimeError, TookTooLong):  # RuntimeError: the loop is closed
        core.check()
        return asyncio.run_coroutine_threadsafe(why_held(core, workflow), core.loop).result(2 * ASK_S)
    return ""


def refusal(why: str) -> Overloaded:
    return Overloaded(reason=why, retry_after_s=RETRY_AFTER_S)


async def answered(core: Asking, workflow: str, message: Deploy) -> Deployed:
    """Ask the coordinator for what needs the workflow's supervisor. Raises Overloaded, after `reconnect_s`, if that
    cannot start; without it, one waits as long as it takes."""
    asked = asyncio.get_running_loop().create_task(core.ask_coordinator(message, Deployed))
    try:
        while not asked.done():
            await asyncio.wait({asked}, timeout=core.settings.reconnect_s)
            if not asked.done() and (why := await not_up(core, lambda shard: workflow_of(shard) == workflow)):
                raise refusal(why)
        return asked.result()
    finally:
        asked.cancel()
