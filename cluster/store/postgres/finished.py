"""Knows which finished tasks of a shard may be forgotten next, without looking twice at the same rows.

Deleted rows stay in the table and its indexes as long as any session of the server has an older snapshot. A search that
began at the first task each time would walk over all of them. So the owner remembers how far it has looked, by id, and
which finished tasks it has passed. Open tasks that it passed become known when they end: the owner itself writes that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from ....supervisors.ports.journal import Change, Entry, Forget, NewTask
from ..rows import Row


class Finished:
    """The finished tasks of one shard, as far as its owner has looked."""

    def __init__(self) -> None:
        self.start = ""
        """The id at which the next look begins. No task before it has to be looked at again."""
        self._known: dict[str, float] = {}
        """Times of the ends of the finished tasks that were looked at, by id."""

    def note(self, changes: Iterable[Change]) -> None:
        """Follow the changes of a commit."""
        forgotten = set()
        for change in changes:
            match change:
                case Entry() if change.closing is not None and change.task_id < self.start:
                    self._known[change.task_id] = change.closing.finished_at
                case NewTask() if change.record.finished_at is not None and change.record.task_id < self.start:
                    self._known[change.record.task_id] = change.record.finished_at
                case Forget():
                    forgotten.add(change.task_id)
                case _:
                    pass
        if forgotten:
            self._known = {id: at for id, at in self._known.items() if forgotten.isdisjoint(_lineage(id))}

    def due(self, before: float, limit: int) -> list[str]:
        """Return at most `limit` known tasks that ended before that time."""
        return sorted(id for id, at in self._known.items() if at < before)[:limit]

    def look(self, rows: Sequence[Row], before: float) -> bool:
        """Look at the next rows (id, accepted_at, finished_at), in the order of ids.

        Returns whether all of them were accepted before that time, so that the rows behind them may be due, too. A task
        that was accepted later cannot have ended before. Ids are in the order of the acceptance, about.
        """
        for id, accepted_at, finished_at in rows:
            self.start = str(id)
            if accepted_at >= before:
                return False
            if finished_at is not None:
                self._known[self.start] = float(finished_at)
        return True


def _lineage(id: str) -> Iterable[str]:
    """Return the ids of a task and of those above it."""
    return accumulate(id.split("/"), "{}/{}".format)
