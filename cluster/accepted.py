"""The acknowledgements of tasks that were submitted together, perhaps in several batches, as one answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from ..protocols.errors import PodiumError, from_wire
from ..protocols.values import Value
from .ended import Ended

Waiting = dict[str, list[Future[Ended]]]
"""Futures of the ends of tasks, by task."""


class Accepted:
    """All methods belong to one event loop; the future may be waited for in any thread."""

    def __init__(self, count: int) -> None:
        self.ids: Future[list[str]] = Future()
        """The ids of all, in order, or the first of their errors."""
        self._rows: list[list[Value]] = [[] for _ in range(count)]
        self._missing = count
        self._end_if_complete()

    def take(self, places: Sequence[int], rows: list[list[Value]]) -> None:
        """[id, null] or [null, error] of those at these places."""
        for place, row in zip(places, rows, strict=True):
            self._rows[place] = row
        self._missing -= len(rows)
        self._end_if_complete()

    def fail(self, error: PodiumError) -> None:
        """None of them is acknowledged."""
        fail(self.ids, error)

    def _end_if_complete(self) -> None:
        if self._missing > 0 or self.ids.done():
            return
        refusal = next((refusal for _, refusal in self._rows if refusal is not None), None)
        if refusal is None:
            settle(self.ids, [id for id, _ in self._rows])
        else:
            self.fail(from_wire(refusal))


def acknowledged(
    waiting: Waiting,
    tasks: list[list[Value]],
    accepted: Accepted,
    places: Sequence[int],
    ends: list[Future[Ended]],
    answer: list[list[Value]] | PodiumError,
) -> None:
    """Take what a supervisor said of a batch. Who waits for a task with a key waits for the one it belongs to.

    Args:
        places: of the batch's tasks in the submission, that is in `ends`.
    """
    rows = [[None, answer.to_wire()]] * len(tasks) if isinstance(answer, PodiumError) else answer
    for task, place, (id, refusal) in zip(tasks, places, rows, strict=True):
        if id != task[0]:
            futures = waiting.pop(task[0], [])
            if id is not None:
                waiting[id] += futures
        if refusal is not None:
            fail(ends[place], from_wire(refusal))
    accepted.take(places, rows)


def settle(future: Future[Any], value: Any) -> None:
    """Set the result, unless whoever waited has given up meanwhile, in whatever thread."""
    with suppress(InvalidStateError):
        future.set_result(value)


def fail(future: Future[Any], error: BaseException) -> None:
    """Set the error, unless it is settled or was given up."""
    with suppress(InvalidStateError):
        future.set_exception(error)
