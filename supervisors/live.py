"""What happens to running steps and is not their end: they begin, say something, lose their host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..protocols.tree import Step
from ..protocols.values import Value
from .desk import Desk
from .dispatch import Dispatcher
from .emissions import Emissions
from .entries import standing
from .events import Event, StepLost
from .ports import Journal, World
from .state import Place, TaskState
from .watchers import Watchers, started_value


class Live:
    def __init__(
        self, world: World, journal: Journal, watchers: Watchers, take: Callable[[TaskState, Event], None]
    ) -> None:
        self._world, self._journal, self._watchers, self._take = world, journal, watchers, take
        self.dispatcher: Dispatcher
        self.desk: Desk
        self.emissions: Emissions

    def started(self, task: TaskState, place: Place) -> None:
        """A step was sent to a host, or to its tier."""
        if task.record.status == "pending":
            self._journal.write([standing(task, "running")])
        if self._watchers.is_watched(task.record.task_id):
            self._watchers.live(task, place, "started", self._world.now(), started_value(place))
            if not isinstance(place.node, Step):
                self.dispatcher.watch(task, partial(self.desk.relay, task))

    def said(self, task: TaskState, place: Place, told: list[Value]) -> None:
        """What a step, or what runs it, has to say before it ends."""
        match told:
            case ["lost"]:
                self._take(task, StepLost(place.path, self._world.now()))
            case ["chunk", value]:
                self.emissions.add(task, place, value)
            case ["below", event]:
                self.emissions.relay(task, place, event)
            case [kind, *value]:
                self._watchers.live(task, place, kind, self._world.now(), value)
