"""Dead letters are parked steps and failed tasks. They are redriven or dropped.

A redriven parked step runs again in its own task. A failed task never changes: another task continues it, with the same
idempotency keys, and with its recorded events except those that made it fail. Each failed task has at most one
successor. A decision about a nested run, with the id "<task>/<path>", is passed on to its nested supervisor.

The answer to `Redrive` has the ids of the tasks that run now, the answer to `Drop` has the given ids. Both answers are
sent when the decision is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...protocols.blame import fault_of
from ...protocols.errors import FixTheCall, NotFound, PodiumError
from ...protocols.outcomes import TaskRecord
from ...protocols.values import Value
from ..children.nested import NestedSupervisor
from ..faults import report
from ..messages.client import Ack, Acks, Drop, Letter, Redrive
from ..open_tasks import OpenTasks
from ..ports.journal import DISMISSED, Change, Found, Journal, NewTask, Note
from ..ports.messaging import Incoming
from ..ports.world import Timing
from ..tasks.continuation import without_the_failure
from ..tasks.events import Dropped, Due, Emitted, Event, Redriven, Relayed, Restarted, Skewed, unpack_events
from ..tasks.fold import UNDO, apply
from ..tasks.state import TaskState
from ..versions import Versions
from .quarantine import Quarantine
from .takeover import Takeover


class DeadLetters:
    def __init__(
        self,
        world: Timing,
        journal: Journal,
        open_tasks: OpenTasks,
        versions: Versions,
        notes: Mapping[str, Value],
        quarantine: Quarantine,
        takeover: Takeover,
    ) -> None:
        self._world, self._journal, self._open_tasks, self._versions = world, journal, open_tasks, versions
        self._quarantine, self._takeover = quarantine, takeover
        self.dismissed: dict[str, str] = {
            name.removeprefix(DISMISSED): str(note) for name, note in notes.items() if name.startswith(DISMISSED)
        }

    def receive(self, ask: Incoming, decision: Redrive | Drop) -> None:
        self._world.background(self._answer(ask, decision), ask.kind)

    async def _answer(self, ask: Incoming, decision: Redrive | Drop) -> None:
        acks: list[Ack] = []
        for row in decision.letters:
            letter = Letter(*row)
            try:
                acks.append(Ack(await self._decide(decision, letter), None))
            except PodiumError as error:
                acks.append(Ack(None, error.to_wire()))
            except Exception as error:
                report(f"{ask.kind} {letter.id}", error)
                acks.append(Ack(None, PodiumError(fault_of(error).message).to_wire()))
        self._journal.write([], lambda: ask.reply(Acks(acks)))

    async def _decide(self, decision: Redrive | Drop, letter: Letter) -> str:
        """Carry out a decision, or pass it to the nested supervisor that has the run; returns the task id."""
        if tiers := await self._tiers_of(letter.id):
            return await _delivered(tiers, decision._replace(letters=[letter]))
        if self._is_done(letter):
            return letter.id
        return await (self._redrive(letter) if isinstance(decision, Redrive) else self._drop(letter))

    async def _redrive(self, letter: Letter) -> str:
        id, successor = letter
        if id in self._quarantine.aside:
            self._takeover.redrive(id)
            self._open_tasks.tasks[id].requests |= {successor}
            return id
        task = self._parked(id)
        if task is not None:
            newest = self._versions.newest(self._open_tasks.plans[task.hash]).hash
            self._open_tasks.take(
                task, Redriven(None, successor, self._world.now(), newest if newest != task.hash else "")
            )
            return id
        events = await self._events(id)
        if _was_asked(events, successor):
            return id
        record = await self._failed(id)
        if not self.dismissed.get(id):
            again = self._again(record, successor, events)
            self.dismissed[id] = successor
            self._continue(record, successor, again)
        return self.dismissed[id]

    def _again(self, failed: TaskRecord, id: str, events: list[Event]) -> list[Event]:
        """Return the events with which the task that continues a failed task begins.

        These are the events without the failure. If undo steps have run, only the time limit of the task is kept.
        """
        now = self._world.now()
        if any(UNDO in getattr(event, "path", "") for event in events):
            return [replace(event, at=now) for event in events if isinstance(event, Due)]
        root, prefix = self._open_tasks.plans[failed.hash].root, failed.task_id.partition("/")[2]
        kept: list[Event] = [event for event in events if not isinstance(event, Emitted | Relayed | Restarted | Skewed)]
        return [*without_the_failure(failed, root, prefix, kept), Redriven(failed.task_id, id, now)]

    def _continue(self, failed: TaskRecord, id: str, again: list[Event]) -> None:
        self._open_tasks.clock.check()
        now, plan = self._world.now(), self._versions.newest(self._open_tasks.plans[failed.hash])
        begins = {"task_id": id, "key": None, "status": "running", "accepted_at": now, "hash": plan.hash}
        record = replace(failed, finished_at=None, result=None, failure=None, **begins)  # type: ignore[arg-type]
        task, effects = plan.begin(record)
        for event in again:
            followed = apply(task, event)  # the time limit of the task is beside all else, and ends nothing of it
            effects = [*effects, *followed] if isinstance(event, Due) else followed
        self._open_tasks.keep(task)
        changes: list[Change] = [NewTask(record, ""), self._open_tasks.entry(task, again)]
        stands = self._open_tasks.standing(task)
        if stands is not None:
            changes.append(stands)
        changes.append(Note(DISMISSED + failed.task_id, id))
        self._journal.write(changes, lambda: self._open_tasks.carry_out(task, effects))

    async def _drop(self, letter: Letter) -> str:
        id, request = letter
        if id in self._quarantine.aside:
            self._quarantine.drop(id, request)
            self._dismiss(id)
            return id
        task = self._parked(id)
        if task is not None:
            self._open_tasks.take(task, Dropped(request, self._world.now()))
            if task.outcome is None or task.outcome.failure is None:
                return id
        elif _was_asked(await self._events(id), request):
            return id
        else:
            await self._failed(id)
        self._dismiss(id)
        return id

    def _dismiss(self, id: str) -> None:
        """Note that a failed task is no dead letter any more."""
        if id not in self.dismissed:
            self.dismissed[id] = ""
            self._journal.write([Note(DISMISSED + id, "")])

    async def _tiers_of(self, id: str) -> list[NestedSupervisor]:
        """Return the nested supervisors that may have a run; none if the id is that of a task of this shard."""
        if "/" not in id or id in self._open_tasks.tasks or await self._find(id):
            return []
        return self._versions.dispatcher.tiers_of(id)

    async def _find(self, id: str) -> list[Found]:
        found: list[Found] = await _called_back(lambda then: self._journal.find([id], [], then))
        return found

    def _is_done(self, letter: Letter) -> bool:
        task = self._open_tasks.tasks.get(letter.id)
        return task is not None and letter.request in task.requests

    async def _events(self, id: str) -> list[Event]:
        bodies: list[bytes] = await _called_back(lambda then: self._journal.entries(id, then))
        return [event for body in bodies for event in unpack_events(body)]

    def _parked(self, id: str) -> TaskState | None:
        """Return the open task with this id if steps of it are parked; None if no such task is open.

        Raises FixTheCall if the task is open and nothing of it is parked.
        """
        task = self._open_tasks.tasks.get(id)
        if task is not None and not task.parked and task.outcome is None:
            raise FixTheCall(f"task {id} is {task.record.status}, and nothing of it is parked", still_open=True)
        return task if task is not None and task.parked else None

    async def _failed(self, id: str) -> TaskRecord:
        found = await self._find(id)
        if not found:
            raise NotFound(what="task", name=id)
        record = found[0].record
        below_of_ended = "/" in id and record.status in ("cancelled", "completed")
        if record.status != "failed" and not below_of_ended:
            raise FixTheCall(f"task {id} is {record.status}; only what failed or is parked is driven again or dropped")
        return record

    def forgotten(self, ids: list[str]) -> list[Change]:
        """Return the changes that delete the notes of tasks that are being deleted."""
        tasks = set(ids)
        gone = [id for id in self.dismissed if id.partition("/")[0] in tasks]
        for id in gone:
            del self.dismissed[id]
        return [Note(DISMISSED + id, None) for id in gone]


async def _delivered(tiers: list[NestedSupervisor], decision: Redrive | Drop) -> str:
    """Pass a decision to the first nested supervisor that has the run. Raises its error, or NotFound."""
    for tier in tiers:
        with contextlib.suppress(NotFound):
            return await tier.deliver(decision)
    (letter,) = decision.letters
    raise NotFound(what="task", name=Letter(*letter).id)


def _was_asked(events: list[Event], request: str) -> bool:
    return any(isinstance(event, Redriven | Dropped) and event.by == request for event in events)


async def _called_back(start: Callable[[Callable[[object], None]], None]) -> Any:
    """Await the value with which `start` calls back."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    start(lambda value: None if done.done() else done.set_result(value))
    return await done
