"""What a running protocol is told about its run, and what it can say back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidInput
from .quantities import check_amount
from .values import Value


def _drop(_chunk: Value) -> None:
    """Nobody listens: a protocol called directly, in a unit test."""


def _nothing() -> None:
    """No time is running."""


def _never() -> bool:
    return False


def _for_ever() -> None:
    """No time is running out."""


def _no_folder() -> str:
    raise InvalidInput(problem="a context made by hand has no folder; give one: Context(_folder=lambda: path)")


@dataclass(frozen=True, slots=True)
class Context:
    """One attempt of one step. Everything is safe to use from the thread that `run` is called in."""

    task_id: str = "t-test"
    step: str = "step"
    """Path of the step in the tree, unique within the task, loops and rounds included."""
    attempt: int = 1
    """Counted from 1. A run that was lost with its host is repeated under the same number."""
    user: str = ""
    deadline: float | None = None
    """UTC seconds since 1970 at which this attempt, its step, a node around it or the task times out first, or None."""
    origin: str = ""
    """The first task of a chain in which each continues a failed one; else the task itself."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the cluster's setting `config` holds, the same for every protocol."""
    log: logging.Logger | logging.LoggerAdapter[Any] = field(
        default_factory=lambda: logging.getLogger("podium.protocol")
    )
    """Goes to the actor's log and, live, to `task.events()`."""
    _emit: Callable[[Value], None] = _drop
    _heartbeat: Callable[[], None] = _nothing
    _cancelled: Callable[[], bool] = _never
    _used: dict[str, float] = field(default_factory=dict)
    _folder: Callable[[], str] = _no_folder
    _left: Callable[[], float | None] = _for_ever

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step of this task, and of a task that continues it after a failure: hand
        it to services that deduplicate."""
        return f"{self.origin or self.task_id}:{self.step}"

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was cancelled or timed out. Plain functions look here and return early;
        async ones get an asyncio.CancelledError instead."""
        return self._cancelled()

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, below 0 when it has passed; None if there is none. Unlike the deadline it needs
        no clock, and is right in simulated time, too."""
        return self._left()

    @property
    def folder(self) -> str:
        """Path of a folder for this protocol's own files, below the data directory; made if it is not there, and kept.
        Replicas, and other workflows with the same protocol, have the same one."""
        return self._folder()

    def used(self, **amounts: float) -> None:
        """What this run has really used of its rates: `ctx.used(tokens=812)`. Amounts of several calls add up.

        It takes the place of what the step declared, and the difference is charged, or given back, when the run ends.
        Raises InvalidInput for what is no number from 0 on, such as infinity, which would use a rate up for ever.
        """
        for quota, amount in amounts.items():
            total = self._used.get(quota, 0.0) + check_amount(amount, f"used {quota}")
            self._used[quota] = check_amount(total, f"used {quota}")

    def emit(self, chunk: Value) -> None:
        """Send a partial result to whoever watches the task, now or later: it is recorded within some 20 ms, up to the
        setting `max_emitted_bytes` of each task. Readers see which attempt it is of."""
        self._emit(chunk)

    def heartbeat(self) -> None:
        """Say that the run goes on: its idle time-out begins anew. Cheap; `emit` and the log do so, too."""
        self._heartbeat()
