"""The acknowledgements of tasks that were submitted together, perhaps in several batches, as one answer."""

from __future__ import annotations

from concurrent.futures import Future

from ..protocols.errors import PodiumError, from_wire
from ..protocols.values import Value


class Accepted:
    """All methods belong to one event loop; the future may be waited for in any thread."""

    def __init__(self, count: int) -> None:
        self.ids: Future[list[str]] = Future()
        """The ids of all, in order, or the first of their errors."""
        self._rows: list[list[Value]] = [[] for _ in range(count)]
        self._missing = count
        self._end_if_complete()

    def take(self, start: int, rows: list[list[Value]]) -> None:
        """[id, null] or [null, error] of those from `start` on."""
        self._rows[start : start + len(rows)] = rows
        self._missing -= len(rows)
        self._end_if_complete()

    def fail(self, error: PodiumError) -> None:
        """None of them is acknowledged."""
        if not self.ids.done():
            self.ids.set_exception(error)

    def _end_if_complete(self) -> None:
        if self._missing > 0 or self.ids.done():
            return
        refusal = next((refusal for _, refusal in self._rows if refusal is not None), None)
        if refusal is None:
            self.ids.set_result([id for id, _ in self._rows])
        else:
            self.fail(from_wire(refusal))
