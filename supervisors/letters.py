"""Dead letters: what is parked, and tasks that failed; driven again, or given up.

A parked step runs again in its own task. A failed task stays as it is, for ends never change: another continues it,
with all that was recorded but the failure, and with the same idempotency keys. Each failed task has one successor at
most. What is parked in a nested Hierarchy, under the id "<task>/<path>", is passed on to its tier.

Messages, both answered when it is durable with [[id, null] or [null, error], …]:
    redrive [[id, new id], …]: the new id is that of the successor, if there has to be one, and of the request in any
        case; those that come back are of the tasks that run now
    drop [id, …]: parked steps fail for good; failed tasks are no dead letters any more
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..protocols.errors import FixTheCall, NotFound, PodiumError
from ..protocols.outcomes import TaskRecord
from ..protocols.values import Value
from .events import Dropped, Event, Redriven, unpack_events
from .fold import apply
from .plan import Plan
from .ports import DISMISSED, Ask, Change, Entry, Found, Journal, NewTask, Note, World
from .resuming import without_the_failure
from .state import Effect, TaskState
from .tier import Tier


@dataclass(frozen=True, slots=True)
class Engine:
    """What the supervisor does for it."""

    tasks: Mapping[str, TaskState]
    plans: Mapping[str, Plan]
    take: Callable[[TaskState, Event], None]
    keep: Callable[[TaskState], None]
    entry: Callable[[TaskState, list[Event]], Entry]
    carry_out: Callable[[TaskState, list[Effect]], None]
    tier_of: Callable[[str], Tier | None]
    """The tier that a run below an open task was delegated to."""


class Letters:
    def __init__(self, world: World, journal: Journal, engine: Engine, notes: Mapping[str, Value]) -> None:
        self._world, self._journal, self._engine = world, journal, engine
        self.dismissed: dict[str, str] = {
            name.removeprefix(DISMISSED): str(note) for name, note in notes.items() if name.startswith(DISMISSED)
        }

    def receive(self, ask: Ask) -> None:
        work = self._redrive if ask.kind == "redrive" else self._drop
        self._world.background(self._answer(ask, work), ask.kind)

    async def _answer(self, ask: Ask, work: Callable[[Any], Any]) -> None:
        answers: list[list[Value]] = []
        for letter in ask.payload:
            try:
                answers.append([await work(letter), None])
            except PodiumError as error:
                answers.append([None, error.to_wire()])
        self._journal.write([], lambda: ask.reply(answers))

    async def _redrive(self, letter: list[str]) -> str:
        id, successor = letter
        if (tier := self._engine.tier_of(id)) is not None:
            return await tier.deliver("redrive", letter)
        if (open_task := self._engine.tasks.get(id)) is not None and open_task.redriven_by == successor:
            return id
        task = self._parked(id)
        if task is not None:
            self._engine.take(task, Redriven(None, successor, self._world.now()))
            return id
        bodies: list[bytes] = await _called_back(lambda then: self._journal.entries(id, then))
        events = [event for body in bodies for event in unpack_events(body)]
        if any(isinstance(event, Redriven) and event.by == successor for event in events):
            return id
        record = await self._failed(id)
        if not self.dismissed.get(id):
            self.dismissed[id] = successor
            self._continue(record, successor, events)
        return self.dismissed[id]

    def _continue(self, failed: TaskRecord, id: str, events: list[Event]) -> None:
        """Start a task with all that is recorded of a failed one but its failure."""
        now, plan = self._world.now(), self._engine.plans[failed.hash]
        record = replace(
            failed, task_id=id, key=None, status="running", accepted_at=now, finished_at=None, result=None, failure=None
        )
        again: list[Event] = []
        if not any("/undo" in getattr(event, "path", "") for event in events):
            again = [
                *without_the_failure(record, plan.root, id.partition("/")[2], events),
                Redriven(failed.task_id, id, now),
            ]
        task, effects = plan.begin(record)
        for event in again:
            effects = apply(task, event)
        self._engine.keep(task)
        changes: list[Change] = [NewTask(record, ""), self._engine.entry(task, again)]
        changes.append(Note(DISMISSED + failed.task_id, id))
        self._journal.write(changes, lambda: self._engine.carry_out(task, effects))

    async def _drop(self, id: str) -> str:
        if (tier := self._engine.tier_of(id)) is not None:
            return await tier.deliver("drop", id)
        task = self._parked(id)
        if task is not None:
            self._engine.take(task, Dropped(self._world.now()))
            if task.outcome is None or task.outcome.failure is None:
                return id
        else:
            await self._failed(id)
        if id not in self.dismissed:
            self.dismissed[id] = ""
            self._journal.write([Note(DISMISSED + id, "")])
        return id

    def _parked(self, id: str) -> TaskState | None:
        """The open task of that id; None if there is none. Raises FixTheCall if nothing of it is parked."""
        task = self._engine.tasks.get(id)
        if task is not None and not task.parked and task.outcome is None:
            raise FixTheCall(f"task {id} is {task.record.status}, and nothing of it is parked")
        return task if task is not None and task.parked else None

    async def _failed(self, id: str) -> TaskRecord:
        found: list[Found] = await _called_back(lambda then: self._journal.find([id], [], then))
        if not found:
            raise NotFound(what="task", name=id)
        record = found[0].record
        below_of_ended = "/" in id and record.status == "cancelled"
        if record.status != "failed" and not below_of_ended:
            raise FixTheCall(f"task {id} is {record.status}; only what failed or is parked is driven again or dropped")
        return record

    def forgotten(self, ids: list[str]) -> list[Change]:
        """Notes that go with tasks that are forgotten."""
        gone = [id for id in ids if self.dismissed.pop(id, None) is not None]
        return [Note(DISMISSED + id, None) for id in gone]


async def _called_back(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """What a call that calls back gives."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    start(lambda value: None if done.done() else done.set_result(value))
    return await done
