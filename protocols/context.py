"""The context of a run: facts about the run for the protocol, and calls by which the protocol reports back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .asking import Answer
from .errors import InvalidInput
from .file import NewFile
from .quantities import check_amount
from .values import Value


def _drop(_chunk: Value) -> None:
    """Drop a chunk: nobody watches a protocol that a unit test calls directly."""


def _nothing() -> None:
    """Do nothing: no silence is measured."""


def _never() -> bool:
    return False


def _for_ever() -> None:
    """Return None: there is no deadline."""


def _no_folder() -> str:
    raise InvalidInput(problem="a context made by hand has no folder; give one: Context(_folder=lambda: path)")


def _no_file(_name: str) -> NewFile:
    raise InvalidInput(problem="a context made by hand has no blob store; give one: Context(_new_file=…)")


@dataclass(frozen=True, slots=True)
class Context:
    """The first argument of a protocol that asks for it: one attempt of one step.

    All of it may be used from the thread that a plain `run` is called in. For a unit test, make one: `Context()`.
    """

    task_id: str = "t-test"
    """The id of the task."""
    step: str = "step"
    """The path of the step in the tree, such as `files[3]/judge`. It is unique within the task, also in loops."""
    attempt: int = 1
    """The number of the attempt, from 1. A run that was lost with its host is repeated under the same number."""
    user: str = ""
    """The user whom the task belongs to."""
    deadline: float | None = None
    """The time at which this attempt must end, in UTC seconds since 1970: the first of all time-outs around it. None
    if there is none."""
    origin: str = ""
    """The id of the first task in a chain of redrives. For a task that continues no other, its own id."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The value of the cluster's setting `config`, the same for every protocol."""
    log: logging.Logger | logging.LoggerAdapter[Any] = field(
        default_factory=lambda: logging.getLogger("podium.protocol")
    )
    """A logger. Its lines go to `logs/<protocol>.log` in the data directory and, live, to `task.events()`."""
    answers: tuple[Answer, ...] = ()
    """The answers to the last `podium.Ask` of this step; empty if it has asked nothing yet."""
    resume: Any = None
    """The `resume` of that `podium.Ask`."""
    _emit: Callable[[Value], None] = _drop
    _heartbeat: Callable[[], None] = _nothing
    _cancelled: Callable[[], bool] = _never
    _used: dict[str, float] = field(default_factory=dict)
    _folder: Callable[[], str] = _no_folder
    _left: Callable[[], float | None] = _for_ever
    _new_file: Callable[[str], NewFile] = _no_file

    @property
    def answer(self) -> Answer | None:
        """The answer to the last `podium.Ask` of this step, the last of several; None if it has asked nothing yet."""
        return self.answers[-1] if self.answers else None

    @property
    def idempotency_key(self) -> str:
        """A text that is the same for every attempt of this step, also when a redriven task continues it.

        Give it to services that recognise a repeated call by such a key.
        """
        return f"{self.origin or self.task_id}:{self.step}"

    @property
    def cancelled(self) -> bool:
        """True once this attempt was cancelled or timed out. A plain function looks here and returns early.

        An async function gets an `asyncio.CancelledError` instead.
        """
        return self._cancelled()

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline: below 0 when it has passed, None if there is none. Right in simulations, too."""
        return self._left()

    @property
    def folder(self) -> str:
        """The path of a folder for this protocol's own files, below the data directory. It is made at the first use.

        The folder is kept. Replicas, and other workflows with the same protocol, share it.
        """
        return self._folder()

    def new_file(self, name: str) -> NewFile:
        """Begin a file of any size, which is in the blob store when it is closed.

            with ctx.new_file("out.parquet") as file:
                table.write_parquet(file)
            return file.file

        `file.file` is the `podium.File` to hand on. If an exception leaves the `with` block, nothing is kept.
        """
        return self._new_file(name)

    def used(self, **amounts: float) -> None:
        """Say how much of its rates this run has really used: `ctx.used(tokens=812)`. Several calls add up.

        The sum replaces the amount that the step declared. The difference is charged, or given back, when the run ends.

        Raises:
            InvalidInput: An amount is not a finite number from 0 on.
        """
        for quota, amount in amounts.items():
            total = self._used.get(quota, 0.0) + check_amount(amount, f"used {quota}")
            self._used[quota] = check_amount(total, f"used {quota}")

    def emit(self, chunk: Value) -> None:
        """Send a part of a result to those who watch the task, now or later, as an event of kind `chunk`.

        It is recorded within some 20 ms, until the task has emitted `max_emitted_bytes` (a setting). Later chunks are
        told live only.
        """
        self._emit(chunk)

    def heartbeat(self) -> None:
        """Say that the run goes on: its `idle_timeout_s` begins anew. `emit` and `log` do the same. It is cheap."""
        self._heartbeat()
