"""Sets tasks aside that a supervisor cannot work on, so that the shard goes on without them.

A task whose journal cannot be folded is *stalled*: nothing of it runs, and nothing of it is lost. A task at which two
supervisors in a row died is stalled, too: the journal keeps which task its owner works on (`Journal.doing`), and the
next owner reads that. When the cause is mended, somebody redrives the task. It can also be dropped or cancelled, which
needs no folding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...protocols.blame import fault_of
from ...protocols.errors import FixTheCall
from ...protocols.outcomes import Failure
from ...protocols.values import Value, pack
from ..faults import report
from ..ports.journal import STALLED, Closing, Entry, Journal, Note, OpenTask, Standing
from ..ports.world import World
from ..tasks.events import Cancelled, Dropped, Event, pack_events
from ..watching.watchers import Watchers

MOST_DEATHS = 2
"""Number of supervisors that die in a row at the same entry of one task before the task is set aside."""
_SUSPECT = "suspect"


@dataclass(slots=True)
class Aside:
    found: OpenTask
    reason: str


class Quarantine:
    def __init__(self, world: World, journal: Journal, notes: Mapping[str, object], watchers: Watchers) -> None:
        self._world, self._journal, self._watchers = world, journal, watchers
        self.aside: dict[str, Aside] = {}
        self._reasons = {
            name.removeprefix(STALLED): str(why) for name, why in notes.items() if name.startswith(STALLED)
        }
        self._count_death(notes.get(_SUSPECT))

    def _count_death(self, suspect: Any) -> None:
        """Count the death of the predecessor against the task that it worked on, if it died at work."""
        last = self._journal.doing.before
        if not last:
            if suspect:
                self._journal.write([Note(_SUSPECT, None)])
            return
        deaths = suspect[1] + 1 if suspect and suspect[0] == last else 1
        id, _, entry = last.rpartition(" ")
        if deaths < MOST_DEATHS:
            self._journal.write([Note(_SUSPECT, [last, deaths])])
            return
        self._reasons[id] = f"{deaths} supervisors in a row died while they worked on it, after its entry {entry}"
        self._journal.write([Note(_SUSPECT, None), Note(STALLED + id, self._reasons[id])])

    def reason(self, id: str) -> str | None:
        """Return the reason why the task is, or has to be, set aside; None if there is none."""
        return self._reasons.get(id)

    def refusal(self, id: str) -> FixTheCall | None:
        """Return the error that refuses a new submission at which supervisors died, or None."""
        return FixTheCall(f"task {id} is not accepted: {self._reasons[id]}") if id in self._reasons else None

    def keep(self, found: OpenTask) -> None:
        """Set a task aside for the reason that `reason` returns."""
        self._set_aside(found, self._reasons[found.record.task_id])

    def cannot_fold(self, found: OpenTask, error: Exception) -> None:
        """Set a task aside whose journal cannot be folded, and report the error."""
        report(f"task {found.record.task_id} cannot be folded, and is set aside", error)
        self._set_aside(found, f"its journal cannot be folded: {fault_of(error).message}")

    def _set_aside(self, found: OpenTask, reason: str) -> None:
        id = found.record.task_id
        self.aside[id], self._reasons[id] = Aside(found, reason), reason
        self._world.log("error", "task set aside", task=id, reason=reason)
        if found.record.status != "stalled":
            self._journal.write([Standing(id, "stalled"), Note(STALLED + id, reason)])

    def release(self, id: str) -> OpenTask:
        """Take a task out of the quarantine, so that it is folded again; returns its record and entries."""
        del self._reasons[id]
        self._journal.write([Standing(id, "running"), Note(STALLED + id, None)])
        found = self.aside.pop(id).found
        return replace(found, record=replace(found.record, status="running"))

    def drop(self, id: str, request: str) -> None:
        reason = self._reasons[id]
        self._close(id, "failed", Failure("stalled", reason), Dropped(request, self._world.now()))

    def cancel(self, id: str, then: Callable[[], None]) -> None:
        self._close(id, "cancelled", Failure("cancelled", "the task was cancelled"), Cancelled(self._world.now()), then)

    def _close(
        self, id: str, status: str, failure: Failure, event: Event, then: Callable[[], None] | None = None
    ) -> None:
        found, now = self.aside.pop(id).found, self._world.now()
        del self._reasons[id]
        record = found.record.ended(status, now, None, failure, {})  # type: ignore[arg-type]
        closing = Closing(status, now, None, pack(failure.to_wire()))
        entry = Entry(id, len(found.bodies) + 1, pack_events([event]), closing)

        def over() -> None:
            self._watchers.ended(record, entry.n)
            if then is not None:
                then()

        self._journal.write([entry, Note(STALLED + id, None)], over)

    def to_wire(self) -> dict[str, Value]:
        """Return the reasons by task id."""
        return {id: aside.reason for id, aside in self.aside.items()}
