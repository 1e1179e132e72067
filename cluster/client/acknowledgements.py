"""The acknowledgements of tasks that were submitted together, perhaps in several batches, as one answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from ...protocols.errors import PodiumError, from_wire
from ...supervisors.messages.client import Ack, Submission, TaskEnded

Waiting = dict[str, list[Future[TaskEnded]]]
"""Futures of the ends of tasks, by task."""


class Accepted:
    """All methods belong to one event loop; the future may be waited for in any thread."""

    def __init__(self, count: int) -> None:
        self.ids: Future[list[str]] = Future()
        """The ids of all, in order, or the first of their errors."""
        self._acks: list[Ack | None] = [None] * count
        self._missing = count
        self._end_if_complete()

    def take(self, places: Sequence[int], acks: list[Ack]) -> None:
        """Those of the tasks at these places."""
        for place, ack in zip(places, acks, strict=True):
            self._acks[place] = ack
        self._missing -= len(acks)
        self._end_if_complete()

    def fail(self, error: PodiumError) -> None:
        """None of them is acknowledged."""
        fail(self.ids, error)

    def _end_if_complete(self) -> None:
        if self._missing > 0 or self.ids.done():
            return
        acks = [ack for ack in self._acks if ack is not None]
        refusal = next((ack.error for ack in acks if ack.error is not None), None)
        if refusal is None:
            settle(self.ids, [ack.id for ack in acks])
        else:
            self.fail(from_wire(refusal))


def acknowledged(
    waiting: Waiting,
    tasks: list[Submission],
    accepted: Accepted,
    places: Sequence[int],
    ends: list[Future[TaskEnded]],
    answer: list[Ack] | PodiumError,
) -> None:
    """Take what a supervisor said of a batch. If a key belonged to an older task, callers wait for that task instead.

    Args:
        places: of the batch's tasks in the submission, that is in `ends`.
    """
    acks = [Ack(None, answer.to_wire())] * len(tasks) if isinstance(answer, PodiumError) else answer
    for task, place, ack in zip(tasks, places, acks, strict=True):
        if ack.id != task.id:
            futures = waiting.pop(task.id, [])
            if ack.id is not None:
                waiting[ack.id] += futures
        if ack.error is not None:
            fail(ends[place], from_wire(ack.error))
    accepted.take(places, acks)


def settle(future: Future[Any], value: Any) -> None:
    """Set the result, unless whoever waited has given up meanwhile, in whatever thread."""
    with suppress(InvalidStateError):
        future.set_result(value)


def fail(future: Future[Any], error: BaseException) -> None:
    """Set the error, unless it is settled or was given up."""
    with suppress(InvalidStateError):
        future.set_exception(error)
