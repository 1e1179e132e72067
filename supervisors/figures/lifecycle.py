"""Derives the states of requests from their tasks: live, for the counters, and from the journal, for people.

Only workflows that have the stages of a pipeline have states. For the others this costs one dict look-up per event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...protocols.outcomes import TaskRecord
from ...protocols.requests.machine import State, has_stages, state_among
from ...protocols.workflow import Workflow
from ..tasks.events import readable_events
from ..tasks.fold import apply, begin
from ..tasks.state import NodeRun, TaskState
from .counters import Counters


class Transition(NamedTuple):
    before: State
    after: State
    at: float
    """UTC seconds."""


def state_of(task: TaskState, before: State | None = None) -> State:
    """Return the state of a request.

    Args:
        before: the state so far, which lasts while only steps run that belong to no state. Without it, the farthest
            state counts that the ended steps belong to.
    """
    if task.outcome is not None:
        return task.status  # type: ignore[return-value]
    now = state_among([*task.running, *task.parked, *task.waiting])
    return now or before or state_among(_ended(task.root)) or "received"


def _ended(place: NodeRun) -> Iterator[str]:
    for child in place.children.values():
        if child.outcome is not None:
            yield child.path
        yield from _ended(child)


class Lifecycle:
    """Counts the transitions of the open requests of one supervisor."""

    def __init__(self, tally: Counters) -> None:
        self._tally = tally
        self._states: dict[str, tuple[State, float]] = {}
        """By task id: the state, and the UTC seconds since when."""

    def opened(self, task: TaskState, has_stages: bool, now: float) -> None:
        if has_stages:
            self._states[task.record.task_id] = (state_of(task), now)

    def let_go(self, task: TaskState) -> None:
        """Forget a task that is left on disk."""
        self._states.pop(task.record.task_id, None)

    def happened(self, task: TaskState, now: float) -> None:
        """Count the transition, if the event that was just folded in has changed the state."""
        id = task.record.task_id
        if id not in self._states:
            return
        before, since = self._states[id]
        after = state_of(task, before)
        if after != before:
            self._tally.moved(before, after, now - since)
            self._states[id] = (after, now)
        if task.outcome is not None:
            del self._states[id]


def transitions(record: TaskRecord, definition: Mapping[str, object], bodies: Iterable[bytes]) -> Iterator[Transition]:
    """Yield the transitions of a request, from its recorded events; none for a task that is no request."""
    root = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    if not has_stages(root):
        return
    task, _ = begin(record, root, record.task_id.partition("/")[2])
    state = state_of(task)
    for event in readable_events(bodies):
        apply(task, event)
        after = state_of(task, state)
        if after != state:
            yield Transition(state, after, event.at)
            state = after
