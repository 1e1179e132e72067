"""Finds the reason why tasks of a workflow do not go on, from the cluster's status and from the shards.

The coordinator knows of a supervisor that cannot start: its disk is full, its journal is damaged, or it died too often.
The supervisor knows of a protocol whose hosts cannot start, and notes that in the shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from typing import Protocol, TypeVar

from ...protocols.errors import Overloaded, PodiumError
from ...supervisors.figures.status import ClusterStatus, WorkflowStatus
from ...supervisors.messages.client import Deploy, Deployed
from ...supervisors.ports.messaging import Message
from ...supervisors.shards import workflow_of
from ..config import Settings
from ..store.contract import Reader

T = TypeVar("T")
ASK_S = 2.0
"""Longest wait for the cluster's status, in seconds. It is short, because the caller has waited long for its task."""
RETRY_AFTER_S = 5.0
"""Seconds after which to retry a task that was refused because its workflow does not start."""


class Asking(Protocol):
    """The part of a client that can ask a cluster what is wrong."""

    settings: Settings

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def reader(self) -> Reader: ...

    async def aside(self, read: Callable[[], T]) -> T: ...

    def check(self) -> None:
        """Raise EngineClosed if the client is closed."""

    async def status(self) -> ClusterStatus: ...

    async def ask_coordinator(self, message: Message, form: Callable[..., T]) -> T: ...


def holdups(workflows: Mapping[str, WorkflowStatus]) -> Iterator[tuple[str, str]]:
    """Yield each shard whose supervisor does not run, with the reason. `workflows` is that of the status."""
    for shard, facts in workflows.items():
        if facts.reason:
            state = "is down" if facts.state == "down" else "does not start"
            yield shard, f"workflow '{workflow_of(shard)}' {state}: {facts.reason}"


def blocked_hosts(blocked: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield why hosts cannot start, each reason of a protocol once. `blocked` is the result of `Reader.blocked`."""
    for ref, whys in blocked.items():
        for why in dict.fromkeys(whys.values()):
            yield f"no host of '{ref}' can start: {why}"


async def not_up(core: Asking, names: Callable[[str], bool]) -> str:
    """Return why a supervisor of the named shards does not run; "" if all run, or the cluster does not answer."""
    with suppress(PodiumError, TimeoutError):
        status = await asyncio.wait_for(core.status(), ASK_S)
        return next((why for shard, why in holdups(status.workflows) if names(shard)), "")
    return ""


async def why_held(core: Asking, workflow: str) -> str:
    """Return what may keep tasks of the workflow from going on; "" if nothing is known."""
    why = await not_up(core, lambda shard: workflow_of(shard) == workflow)
    if why:
        return why
    with suppress(PodiumError):
        return "; ".join(blocked_hosts(await core.aside(lambda: core.reader.blocked(workflow))))
    return ""


def why_held_now(core: Asking, workflow: str) -> str:
    """Return the same as `why_held`, from any thread but the loop's."""
    with suppress(PodiumError, RuntimeError, TookTooLong):  # RuntimeError: the loop is closed
        core.check()
        return asyncio.run_coroutine_threadsafe(why_held(core, workflow), core.loop).result(2 * ASK_S)
    return ""


def refusal(why: str) -> Overloaded:
    return Overloaded(reason=why, retry_after_s=RETRY_AFTER_S)


async def answered(core: Asking, workflow: str, message: Deploy) -> Deployed:
    """Send the coordinator a deployment, which needs the workflow's supervisor, and return the answer.

    Waits as long as it takes, but every `reconnect_s` checks whether the supervisor cannot start.

    Raises:
        Overloaded: the supervisor cannot start; has the reason.
    """
    asked = asyncio.get_running_loop().create_task(core.ask_coordinator(message, Deployed))
    try:
        while not asked.done():
            await asyncio.wait({asked}, timeout=core.settings.reconnect_s)
            if not asked.done() and (why := await not_up(core, lambda shard: workflow_of(shard) == workflow)):
                raise refusal(why)
        return asked.result()
    finally:
        asked.cancel()
