"""Collects the acknowledgements of tasks that were submitted together, perhaps in several batches, into one answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from ...protocols.errors import PodiumError, from_wire
from ...supervisors.messages.client import Ack, Submission, TaskEnded

Waiting = dict[str, list[Future[TaskEnded]]]
"""Futures of the ends of tasks, by task id."""


class Accepted:
    """The acknowledgements of one submission. Call its methods on the event loop; any thread may wait for `ids`."""

    def __init__(self, count: int) -> None:
        self.ids: Future[list[str]] = Future()
        """Future of the ids of all tasks, in order, or of the first error."""
        self._acks: list[Ack | None] = [None] * count
        self._missing = count
        self._end_if_complete()

    def take(self, places: Sequence[int], acks: list[Ack]) -> None:
        """Take the acknowledgements of the tasks at these places in the submission."""
        for place, ack in zip(places, acks, strict=True):
            self._acks[place] = ack
        self._missing -= len(acks)
        self._end_if_complete()

    def fail(self, error: PodiumError) -> None:
        """Fail the whole submission with this error."""
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
    """Take a supervisor's answer to a batch. If a key belonged to an older task, callers wait for that task instead.

    Args:
        waiting: futures of the ends of tasks; futures of refused tasks are removed.
        places: indices of the batch's tasks in the submission, and so in `ends`.
        answer: an acknowledgement for each task, or the error of all of them.
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


def settle(future: Future[Any], value: object) -> None:
    """Set the result, unless the future is done or was cancelled meanwhile, in whatever thread."""
    with suppress(InvalidStateError):
        future.set_result(value)


def fail(future: Future[Any], error: BaseException) -> None:
    """Set the error, unless the future is done or was cancelled."""
    with suppress(InvalidStateError):
        future.set_exception(error)
