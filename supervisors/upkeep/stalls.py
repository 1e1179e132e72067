"""Finds open tasks that nothing will ever move. That is an internal fault, which has to be seen.

Each step that counts as running is at a host or a nested supervisor, waits until it is due, for permits, for a breaker,
or in the backlog. A task is suspicious if one of its steps is nowhere, or if it has no steps and is not parked. It is
checked again when everything written before is durable, and once more `SURE_S` later. If it has no new entry by then,
and is still suspicious, it stalls: it is noted and reported as a fault.

The search costs little: every `LOOK_S` it checks at most `AT_ONCE` tasks, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

from ...protocols.tree import Step
from ...protocols.values import Value
from ..open_tasks import OpenTasks
from ..ports.journal import STUCK, Change, Journal, Note
from ..ports.world import World
from ..tasks.state import NodeRun, TaskState

LOOK_S = 5.0
SURE_S = 10.0
AT_ONCE = 5_000
"""Most tasks that are checked at a time."""


class HasSteps(Protocol):
    def has(self, task: TaskState, place: NodeRun) -> bool:
        """Whether a step is under way somewhere, or waits for something known."""


class Stalls:
    def __init__(self, world: World, journal: Journal, open_tasks: OpenTasks, admission: HasSteps) -> None:
        self._world, self._journal, self._admission = world, journal, admission
        self._tasks, self._faults = open_tasks.tasks, open_tasks.faults
        self._turn: Iterator[str] = iter(())
        self.found: dict[str, str] = {}
        """The problems of the stalled tasks, by task id."""

    def forget(self, notes: Mapping[str, Value]) -> None:
        """Delete the notes of the predecessor: the tasks that stalled there run again."""
        self._unnote([name for name in notes if name.startswith(STUCK)])

    def _unnote(self, names: list[str]) -> None:
        changes: list[Change] = [Note(name, None) for name in names]
        if changes:
            self._journal.write(changes)

    def look(self) -> None:
        over = [id for id in self.found if id not in self._tasks or self._wrong(self._tasks[id]) is None]
        for id in over:
            del self.found[id]
        self._unnote([STUCK + id for id in over])
        for id in self._next():
            task = self._tasks.get(id)
            if task is not None and id not in self.found and self._wrong(task) is not None:
                self._journal.write([], partial(self._look_again, task, task.entries))

    def _next(self) -> list[str]:
        ids: list[str] = []
        for id in self._turn:
            ids.append(id)
            if len(ids) == AT_ONCE:
                return ids
        self._turn = iter(list(self._tasks))
        return ids

    def _look_again(self, task: TaskState, entries: int) -> None:
        """Check a task again, now that everything written before is durable and its effects are carried out."""
        if task.entries == entries and self._wrong(task) is not None:
            self._world.call_later(SURE_S, partial(self._decide, task, entries))

    def _decide(self, task: TaskState, entries: int) -> None:
        id, wrong = task.record.task_id, self._wrong(task)
        if wrong is None or task.entries != entries or self._tasks.get(id) is not task or id in self.found:
            return
        self.found[id] = wrong
        self._journal.write([Note(STUCK + id, wrong)])
        self._world.log("error", "task stalls", task=id, reason=wrong)
        problem = f"task {id} stalls: {wrong}"
        self._faults.note(problem, RuntimeError(problem))

    def _wrong(self, task: TaskState) -> str | None:
        """Return the problem that keeps the task from ever going on, or None."""
        if task.outcome is not None:
            return None
        for place in task.running.values():
            if not self._admission.has(task, place):
                kind = "step" if isinstance(place.node, Step) else "node"
                return f"{kind} '{place.path}' counts as running, and is nowhere"
        return None if task.running or task.parked or task.waiting else "it is open, and nothing of it runs"

    def to_wire(self) -> dict[str, Value]:
        return dict(self.found)
