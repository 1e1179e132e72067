"""Passes the dispatcher's news about steps to the parts that need them: begun, started, emitted, lost, ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never

from ...protocols.tree import Step
from ...protocols.values import Value
from ..messages.client import ClientEvent
from ..messages.host import StepChunk, StepLog, StepResult, StepSaid
from ..messages.supervisor import RunEnded
from ..open_tasks import OpenTasks
from ..ports.journal import Journal
from ..ports.world import Clocks
from ..running.dispatch import Dispatcher
from ..tasks.client_events import started_value
from ..tasks.entries import began
from ..tasks.events import StepLost, WaitBelow, WaitBelowOver
from ..tasks.state import NodeRun, TaskState
from .stream_buffer import StreamBuffer
from .task_requests import TaskRequests


class Live:
    def __init__(self, world: Clocks, journal: Journal, open_tasks: OpenTasks) -> None:
        self._world, self._journal, self._open_tasks = world, journal, open_tasks
        self._watchers = open_tasks.watchers
        self.dispatcher: Dispatcher
        self.desk: TaskRequests
        self.emissions: StreamBuffer

    def started(self, task: TaskState, place: NodeRun) -> None:
        """Handle that a step was sent to a host or to its nested supervisor: set the status, tell watchers."""
        if task.record.status == "pending":
            self._journal.write([began(task)])
        if self._watchers.is_watched(task.record.task_id):
            self._watchers.live(task, place, "started", self._world.now(), started_value(place))
            if not isinstance(place.node, Step):
                self.dispatcher.watch(task, partial(self.desk.relay, task))

    def said(self, task: TaskState, place: NodeRun, said: StepSaid) -> None:
        match said:
            case StepChunk():
                self.emissions.add(task, place, said.value)
            case StepLog():
                self._watchers.live(task, place, "log", self._world.now(), [said.level, said.text])
            case _:
                assert_never(said)

    def ended(self, task: TaskState, place: NodeRun, result: StepResult | RunEnded) -> None:
        self._open_tasks.step_ended(task, place, result)

    def begins(self, task: TaskState, place: NodeRun, go: Callable[[], None]) -> None:
        self._open_tasks.step_begins(task, place, go)

    def lost(self, task: TaskState, place: NodeRun) -> None:
        self._open_tasks.take(task, StepLost(place.path, self._world.now()))

    def waits_below(self, task: TaskState, place: NodeRun, rows: list[Value]) -> None:
        """Record which nodes of a nested run wait now, and tell it again what it has not heard of."""
        now, asks = self._world.now(), dict(map(tuple, rows))
        known = [path for path, wait in task.waiting.items() if wait.parent is place]
        told = [] if place.memory is None else list(place.memory.by_path)
        for path in [*known, *told]:
            if path not in asks:
                self._open_tasks.take(task, WaitBelowOver(place.path, path, now))
        for path, ask in asks.items():
            if path in told:
                self.dispatcher.tell(task, place, path)
            elif path not in known and task.running.get(place.path) is place:
                self._open_tasks.take(task, WaitBelow(place.path, path, ask, now))
        if "/" in task.record.task_id:  # the task above decides, so it has to hear of them, too
            self._journal.write([], lambda: self._watchers.tell_waits(task, now))

    def said_below(self, task: TaskState, place: NodeRun, event: ClientEvent) -> None:
        self.emissions.relay(task, place, event)
