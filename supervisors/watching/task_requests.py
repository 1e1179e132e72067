"""Answers requests about tasks from outside: cancel, follow until the end, watch the events.

Every answer tells what is durable. A task that is not in memory is looked up in the journal.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...protocols.errors import NotFound, from_wire
from ...protocols.outcomes import OPEN, Failure, TaskRecord
from ..messages.client import Accepted, Ack, Acks, CancelledAs, ClientEvent
from ..messages.door import with_kind
from ..messages.supervisor import RunEnded
from ..open_tasks import OpenTasks
from ..ports.journal import Found, Journal
from ..ports.messaging import Incoming
from ..ports.world import Clocks
from ..running.dispatch import Dispatcher
from ..tasks.client_events import (
    is_relayed,
    parked_event,
    past_events,
    put_started,
    task_ended,
    waiting_value,
)
from ..tasks.events import Cancelled, readable_events
from ..tasks.state import TaskState
from ..upkeep.quarantine import Quarantine
from ..waiting.resting import Resting
from .watchers import Attendance, Watch


class TaskRequests:
    def __init__(
        self,
        world: Clocks,
        journal: Journal,
        open_tasks: OpenTasks,
        dispatcher: Dispatcher,
        quarantine: Quarantine,
        resting: Resting,
    ) -> None:
        self._world, self._journal, self._open_tasks, self._resting = world, journal, open_tasks, resting
        self._tasks, self._dispatcher, self._watchers = open_tasks.tasks, dispatcher, open_tasks.watchers
        self._quarantine = quarantine

    def acknowledge(self, ask: Incoming, follow: bool, acks: list[Ack], ended: list[TaskRecord]) -> None:
        """Answer a submission with its acks; with `follow`, send them as a chunk and go on telling how tasks end."""
        if not follow:
            ask.reply(Acks(acks))
            return
        ask.chunk(with_kind(Accepted(acks)))
        for record in ended:
            ask.chunk(with_kind(task_ended(record)))
        over = {record.task_id for record in ended}
        self.follow(ask, [ack.id for ack in acks if ack.id is not None and ack.id not in over])

    def cancel(self, ask: Incoming, task_id: str) -> None:
        """Cancel a task; the answer has its status afterwards. A task that has ended stays as it is."""
        self._resting.awaken(task_id, partial(self._cancel, ask, task_id))

    def _cancel(self, ask: Incoming, task_id: str, task: TaskState | None) -> None:
        if task is not None and task.outcome is None:
            undo = self._open_tasks.plans[task.hash].undo_on_cancel
            self._open_tasks.take(task, Cancelled(self._world.now(), undo))
            status = "cancelled" if task.cancelled else task.status  # it may be failing, and run its undo steps
            self._journal.write([], lambda: ask.reply(CancelledAs(status)))  # type: ignore[arg-type]
            return
        if task_id in self._quarantine.aside:
            self._quarantine.cancel(task_id, partial(ask.reply, CancelledAs("cancelled")))
            return
        self._journal.find([task_id], [], partial(self._reply_status, ask, task_id))

    def _reply_status(self, ask: Incoming, task_id: str, found: list[Found]) -> None:
        if found:
            ask.reply(CancelledAs(found[0].record.status))
        else:
            ask.refuse(NotFound(what="task", name=task_id))

    def follow(self, ask: Incoming, ids: list[str]) -> None:
        """Send a chunk for each task when it ends; the message is answered after the last."""
        if all(id in self._tasks for id in ids):
            self._watchers.follow(ask, ids)
        else:  # look all of them up: more may end before the answer is there
            self._journal.find(ids, [], partial(self._follow_found, ask, ids))

    def _follow_found(self, ask: Incoming, ids: list[str], found: list[Found]) -> None:
        records = {each.record.task_id: each.record for each in found}
        missing = [id for id in ids if id not in self._tasks and id not in records]
        if missing:
            ask.refuse(NotFound(what="task", name=missing[0]))
            return
        over = [record for record in records.values() if record.status not in OPEN]
        for record in over:
            ask.chunk(with_kind(task_ended(record)))
        self._watchers.follow(ask, [id for id in ids if id not in {record.task_id for record in over}])

    def watch(self, ask: Incoming, task_id: str, since: int) -> None:
        """Send each event of a task, past ones from offset `since` on first; answered when the task ends."""
        self._resting.awaken(task_id, partial(self._watch, ask, task_id, since))

    def _watch(self, ask: Incoming, task_id: str, since: int, task: TaskState | None) -> None:
        if task is not None:
            self._dispatcher.watch(task, partial(self.relay, task))
        self._tell_from_the_past(Watch(ask, since), task_id)

    def attend(self, ask: Incoming, task_id: str, since: int, is_new: bool, error: Any) -> None:
        """Answer the supervisor above, which has submitted a nested run.

        It gets the events that it has to record, from offset `since` on, and as the answer how the run ended. If the
        run was not accepted (`error`), it is answered at once. A run that is set aside has not ended.
        """
        self._attend(ask, task_id, since, is_new, error)
        task = self._tasks.get(task_id)
        if task is not None:
            self._watchers.tell_waits(task, self._world.now())

    def _attend(self, ask: Incoming, task_id: str, since: int, is_new: bool, error: Any) -> None:
        aside = self._quarantine.aside.get(task_id)
        if error is not None:
            failure = Failure("stalled", str(from_wire(error)))
            ask.reply(RunEnded("failed", None, failure.to_wire(), {}))
        elif aside is not None:
            watch = Attendance(ask, since)
            self._watchers.add(watch, task_id)
            past = past_events(aside.found.record, readable_events(aside.found.bodies))
            self._watchers.caught_up(watch, past, len(aside.found.bodies))
        elif is_new and task_id in self._tasks:
            self._watchers.add(Attendance(ask, since, behind=None), task_id)
        else:
            self._tell_from_the_past(Attendance(ask, since), task_id)

    def _tell_from_the_past(self, watch: Watch, task_id: str) -> None:
        task = self._tasks.get(task_id)
        if task is None:
            self._journal.find([task_id], [], partial(self._watch_found, watch, task_id))
        else:
            self._watchers.add(watch, task_id)
            self._journal.entries(task_id, lambda bodies: self._tell_past(watch, task, bodies))

    def _watch_found(self, watch: Watch, task_id: str, found: list[Found]) -> None:
        if not found:
            watch.ask.refuse(NotFound(what="task", name=task_id))
            return
        self._journal.entries(task_id, lambda bodies: self._tell_all(watch, found[0].record, bodies))

    def _tell_all(self, watch: Watch, record: TaskRecord, bodies: list[bytes]) -> None:
        past = past_events(record, readable_events(bodies))
        for event in past:
            watch.tell(event)
        watch.close(record, len(past))

    def _tell_past(self, watch: Watch, task: TaskState, bodies: list[bytes]) -> None:
        past, waiting = past_events(task.record, readable_events(bodies)), list(task.waiting.values())
        for place in task.running.values():
            if self._dispatcher.is_started(task, place):
                put_started(past, place, self._world.now())
        if task.status == "parked":
            past.append(parked_event(self._world.now()))
        past += [ClientEvent("waiting", place.opened_at, place.path, 1, waiting_value(place)) for place in waiting]
        self._watchers.caught_up(watch, past, len(bodies))

    def relay(self, task: TaskState, event: ClientEvent) -> None:
        """Forward a live event of a nested run to this task's watchers, after flushing what was recorded before it.

        End events and offsets of the nested run are dropped.
        """
        if event.step and not is_relayed(event):
            self._open_tasks.flush(task)
            told = event._replace(offset=None)
            self._journal.write([], lambda: self._watchers.tell(task.record.task_id, told))
