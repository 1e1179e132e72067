"""Selects the events of a failed task from which a task that continues it starts. Pure.

The failure of the task names the step or node that failed. Only the events that made it fail are left out. Recorded
outputs are kept, and so are failures that a fallback or a constant replaced. If all fallbacks of a node failed, too,
their events are left out, and the node itself begins again. A missed quorum is the failure of all branches that failed.

A task may also fail by a decision: a verdict, or an output that no rule matches. Then the output that decided is left
out, so that its step runs again.
"""

from __future__ import annotations

from typing import NamedTuple

from ...protocols.errors import FixTheCall
from ...protocols.outcomes import Failure, TaskRecord
from ...protocols.tree import Hierarchy, Node, Parallel
from .events import OF_THE_TASK, Abandoned, Cancelled, Event, Overdue, StepBegan, StepFailed, StepFinished, TimedOut
from .fold import apply, begin
from .modes.hierarchical import LEAD
from .state import NodeRun, TaskState

DECISIONS = frozenset({"rejected", "bad_verdict", "escalated", "no_rule", "bad_goto"})
"""Failure codes that come from one output: a verdict of a supervising protocol, or an output that no rule matches."""


def without_the_failure(record: TaskRecord, root: Node, prefix: str, events: list[Event]) -> list[Event]:
    """Return the events that a continuing task starts from. `record` is the record of the failed task.

    Raises:
        FixTheCall: a task with these events would fail again at once, without running anything.
    """
    failure = record.failure
    if failure is None:
        return events
    kept: list[Event] = [event for event in events if not isinstance(event, Overdue | Abandoned | Cancelled)]
    causes = _Causes(record, root, prefix, kept)
    kept = causes.left_out(failure)
    if not _is_open(record, root, prefix, kept) and failure.code in DECISIONS:
        kept = causes.without_decision(failure, kept)
    if not _is_open(record, root, prefix, kept):
        problem = f"it would fail again at once with what is recorded ({failure.code}: {failure.message})"
        raise FixTheCall(f"task {record.task_id} cannot go on from where it failed: {problem}")
    return kept


def _is_open(record: TaskRecord, root: Node, prefix: str, events: list[Event]) -> bool:
    task, _ = begin(record, root, prefix)
    for event in events:
        apply(task, event)
    return task.outcome is None and task.ending is None


class _Causes:
    def __init__(self, record: TaskRecord, root: Node, prefix: str, events: list[Event]) -> None:
        self._events = events
        self._places: dict[str, NodeRun] = {}
        task, _ = begin(record, root, prefix)
        self._root = task.root
        self._note(task)
        for event in events:
            apply(task, event)
            self._note(task)

    def _note(self, task: TaskState) -> None:
        """Remember every node run that is running, has a time limit or is parked, and all node runs around it."""
        for start in [*task.running.values(), *task.timed.values(), *task.parked.values(), *task.waiting.values()]:
            place: NodeRun | None = start
            while place is not None and self._places.get(place.path) is not place:
                self._places[place.path] = place
                place = place.parent

    def left_out(self, failure: Failure) -> list[Event]:
        """Return the events without those that made this failure."""
        gone = _Gone(set(), set(), set())
        self._look(failure, gone)
        return [event for event in self._events if not gone.has(event)]

    def without_decision(self, failure: Failure, events: list[Event]) -> list[Event]:
        """Return the events without the output that decided, so that only the deciding step runs again."""
        place = self._place(failure)
        if place is None:
            return events
        beside = f"{place.path}/" if place.path else ""
        if isinstance(place.node, Hierarchy) and failure.code in ("rejected", "escalated"):
            beside += f"{LEAD}#"
        for at in range(len(events) - 1, -1, -1):
            event = events[at]
            if isinstance(event, StepFinished) and (event.path == place.path or event.path.startswith(beside)):
                return events[:at] + events[at + 1 :]
        return events

    def _place(self, failure: Failure) -> NodeRun | None:
        place = self._places.get(failure.step)
        return self._root if place is None and failure.step in ("", self._root.name) else place

    def _look(self, failure: Failure, gone: _Gone) -> None:
        place = self._place(failure)
        if place is None or place.path in gone.steps:
            return
        gone.steps.add(place.path)
        if failure.code == "too_few" and isinstance(place.node, Parallel):
            for branch in place.children.values():
                if branch.outcome is not None and branch.outcome.failure is not None:
                    self._look(branch.outcome.failure, gone)
        node: NodeRun | None = place
        while node is not None:
            gone.nodes.add(node.path)
            if node.stands_in_for is not None and node.parent is not None:
                fallbacks = [child for child in node.parent.children.values() if child.stands_in_for is not None]
                gone.trees.update(child.path for child in fallbacks)
                self._look(fallbacks[0].stands_in_for, gone)  # type: ignore[arg-type]
            node = node.parent


class _Gone(NamedTuple):
    """Paths of the node runs that made the failure."""

    steps: set[str]
    """Paths of node runs whose failures are left out."""
    nodes: set[str]
    """Paths in `steps` and of all node runs around them; their timeouts are left out."""
    trees: set[str]
    """Paths of node runs of which all events are left out, those below them included."""

    def has(self, event: Event) -> bool:
        if isinstance(event, OF_THE_TASK):
            return False
        if isinstance(event, StepFailed | StepBegan) and event.path in self.steps:
            return True
        if isinstance(event, TimedOut) and event.path in self.nodes:
            return True
        return any(event.path == tree or event.path.startswith((f"{tree}/", f"{tree}[")) for tree in self.trees)
