"""The pure core: a task's state is the fold of its events.

`begin` opens a task, `apply` takes in one event; both return the effects that follow. Live running and
recovery use the same two functions: recovery applies the journalled events, drops the effects, and has what
is left in `TaskState.running` run. User code is never replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..protocols.conditions import ExpressionFailed, evaluate
from ..protocols.outcomes import Failure, Outcome, TaskRecord, error_for_rules
from ..protocols.recovery import USUAL, actions_for
from ..protocols.tree import Adaptive, Hierarchy, Node, Parallel, Sequence, Step, default_name, time_limit_s
from ..protocols.values import Value
from ..protocols.verdicts import as_goto
from .events import (
    Abandoned,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Event,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
    cost_of,
)
from .modes import adaptive, hierarchical, parallel, sequential
from .state import Alarm, Effect, Finish, Halt, Move, Place, Run, Start, Stop, TaskState, Time, missing

_OPENING: dict[type, Callable[[Place], list[Move]]] = {
    Sequence: sequential.opening,
    Parallel: parallel.opening,
    Hierarchy: hierarchical.opening,
    Adaptive: adaptive.opening,
}
"""What starts when a node is opened."""

_FOLLOWING: dict[type, Callable[[Place, Place], list[Move]]] = {
    Sequence: sequential.following,
    Parallel: parallel.following,
    Hierarchy: hierarchical.following,
    Adaptive: adaptive.following,
}
"""What follows when a run below a node has its outcome."""

UNDO = ":undo"
"""Ends the path of what takes a node back."""
_STOPPED = Outcome(failure=Failure("cancelled", "no longer needed"))


def begin(
    record: TaskRecord, root: Node, prefix: str = "", timeout_s: float | None = None
) -> tuple[TaskState, list[Effect]]:
    """The state of a task that was just accepted, and its first effects.

    Args:
        prefix: path of the root within the whole task, for the tree of a nested Hierarchy.
        timeout_s: what the workflow gives its tasks. It matters to who sets alarms; being late is an event.
    """
    name = root.name or default_name(root)
    place = Place(prefix, name, root, None)
    if place.is_leaf():
        place.path = prefix or name
    task = TaskState(record, place)
    folding = _Folding(task, record.accepted_at)
    if timeout_s is not None:
        task.time = Time(record.accepted_at, timeout_s)
        folding.effects.append(Alarm(None))
    folding.open(place, record.input)
    folding.settle()
    return task, folding.effects


def apply(task: TaskState, event: Event) -> list[Effect]:
    """Take `event` in. One about a step that is not running any more changes nothing."""
    folding = _Folding(task, event.at)
    match event:
        case StepFinished():
            place = task.running.pop(event.path, None)
            if place is not None:
                if event.degraded:
                    place.degraded = place.degraded | event.degraded
                folding.ended.append((place, _checked(place, event.output)))
        case StepFailed():
            _fail(folding, event)
        case StepLost():
            if event.path in task.running:
                task.running[event.path].losses += 1
                task.running[event.path].emitted = False
        case Emitted():
            task.emitted_bytes += cost_of(event.chunks)
            task.is_cut = task.is_cut or event.is_cut
            if event.path in task.running:
                task.running[event.path].emitted = True
        case Relayed():
            task.emitted_bytes += cost_of([value for kind, _, _, _, value in event.events if kind == "chunk"])
            task.is_cut = task.is_cut or any(each[0] == "cut" for each in event.events)
            if event.path in task.running:
                task.running[event.path].heard = event.next
        case Restarted():
            if event.path in task.running:
                task.running[event.path].emitted = False
        case Cancelled():
            if _stop(folding, Failure("cancelled", "the task was cancelled"), event.undo):
                task.cancelled = True
        case TimedOut():
            place = task.timed.get(event.path)
            if place is not None:
                folding.time_out(place, event)
        case Due():
            task.time = Time(event.at, event.timeout_s)
            folding.effects.append(Alarm(None))
        case Overdue():
            _stop(folding, Failure("timeout", f"the task had not ended after {event.limit_s:g} s"), undo=True)
        case StepBegan():
            if event.path in task.running:
                task.running[event.path].began = True
        case Redriven():
            _redrive(folding, event)
        case Dropped():
            _drop(folding, event)
        case Abandoned():
            task.ending = None
            _stop(folding, Failure("workflow_down", event.reason), undo=False)
    folding.settle()
    return folding.effects


def _stop(folding: _Folding, why: Failure, undo: bool) -> bool:
    """End the task as it is, unless it has ended, or is about to and takes back what it did."""
    task = folding.task
    if task.outcome is not None or task.ending is not None:
        return False
    folding.effects += [Halt(place) for place in task.running.values()]
    task.running.clear()
    task.timed.clear()
    task.parked.clear()
    folding.ended.clear()
    if undo:
        folding.end(Outcome(failure=why))
    else:
        task.outcome = Outcome(failure=why)
    return True


def _fail(folding: _Folding, event: StepFailed) -> None:
    task = folding.task
    place = task.running.get(event.path)
    if place is None:
        return
    if event.retry_at is None:
        del task.running[event.path]
        place.actions = event.actions
        folding.ended.append((place, Outcome(failure=event.failure.at(place.path, place.attempt))))
    else:
        place.attempt += 1
        place.losses, place.began, place.emitted = 0, False, False
        place.not_before, place.wait_s = event.retry_at, event.retry_at - event.at
        folding.effects.append(Run(place))


def _redrive(folding: _Folding, event: Redriven) -> None:
    """What is parked begins again; in a task that continues another, everything that runs or has a time."""
    task = folding.task
    task.requests |= {event.by}
    again = _unparked(task)
    if event.of is not None:
        task.origin, task.continues = task.origin or event.of, event.of
        _begin_times_anew(folding, event.at)
        again += _those_to_run(task)
    for place in again:
        is_new = place.parked is not None and place.parked.code == "expression"
        place.attempt, place.losses, place.began, place.emitted, place.not_before = 1, 0, False, False, 0.0
        place.fallbacks, place.failed, place.actions, place.parked = 0, False, USUAL, None
        place.children.clear()
        if is_new:
            folding.open(place, place.input)
        else:
            folding.run(place)


def _those_to_run(task: TaskState) -> list[Place]:
    """Of a task that continues another, what ran when that failed; but at-most-once steps that had begun are parked."""
    for path, place in [(path, place) for path, place in task.running.items() if place.began]:
        del task.running[path]
        place.parked = Failure("uncertain", "it was stopped while it ran, and it is to run at most once").at(path, 1)
        task.parked[path] = place
    return list(task.running.values())


def _drop(folding: _Folding, event: Dropped) -> None:
    folding.task.requests |= {event.by}
    for place in _unparked(folding.task):
        assert place.parked is not None
        folding.ended.append((place, Outcome(failure=place.parked)))
        place.actions = ()


def _begin_times_anew(folding: _Folding, now: float) -> None:
    task = folding.task
    if task.time is not None:
        task.time = task.time._replace(since=now)
        folding.effects.append(Alarm(None))
    for place in task.timed.values():
        folding.give_time(place)


def _unparked(task: TaskState) -> list[Place]:
    places = list(task.parked.values())
    task.parked.clear()
    return places


def _checked(place: Place, output: Value) -> Outcome:
    """A goto counts only from a node of an Adaptive; anywhere else it is a mistake worth hearing of."""
    node = place
    while node.stands_in_for is not None and node.parent is not None:
        node = node.parent
    if as_goto(output) and not (node.parent and isinstance(node.parent.node, Adaptive)):
        failure = Failure("bad_goto", "returned a goto, but is not directly a node of an Adaptive")
        return Outcome(failure=failure.at(place.path, place.attempt))
    return Outcome(output)


class _Folding:
    """One event's consequences, worked off until none is left."""

    def __init__(self, task: TaskState, at: float) -> None:
        self.task, self.at = task, at
        self.effects: list[Effect] = []
        self.ended: list[tuple[Place, Outcome]] = []

    def settle(self) -> None:
        while self.ended:
            place, outcome = self.ended.pop()
            if self.task.outcome is not None or place.is_over():
                continue
            self.task.timed.pop(place.path, None)
            if outcome.failure is not None and self.stand_in(place, outcome.failure):
                continue
            place.outcome = outcome
            parent = place.parent
            if outcome.failure is None:
                self.succeeded(place)
            if place.undoes is not None:
                self.undo_next()
            elif parent is None:
                self.end(outcome)
            elif parent.outcome is None and place.stands_in_for is not None:
                self.ended.append((parent, outcome))
            elif parent.outcome is None:
                self.perform(parent, _FOLLOWING[type(parent.node)](parent, place))

    def succeeded(self, place: Place) -> None:
        if place.parent is not None and (lacking := place.lacking()):
            place.parent.degraded = place.parent.degraded | lacking
        if place.node.undo is not None and not place.failed:
            if not place.is_leaf():
                self.task.done = [other for other in self.task.done if not other.is_within(place)]
            self.task.done.append(place)

    def end(self, outcome: Outcome) -> None:
        """The task ends; if it failed, when everything that can be is taken back, the last first."""
        self.task.ending = outcome
        if outcome.failure is None:
            self.task.done.clear()
        self.undo_next()

    def undo_next(self) -> None:
        if not self.task.done:
            self.task.outcome = self.task.ending
            return
        place = self.task.done.pop()
        assert place.node.undo is not None and place.outcome is not None
        undo = Place(f"{place.path}{UNDO}", "undo", place.node.undo, None, undoes=place)
        self.open(undo, {"input": place.input, "output": place.outcome.output})

    def stand_in(self, place: Place, failure: Failure) -> bool:
        """What follows the failure of a node by its actions; False if it stands."""
        place.failed, place.degraded = True, {}
        if "fallback" in place.actions and place.fallbacks < len(place.node.fallback):
            node = place.node.fallback[place.fallbacks]
            place.fallbacks += 1
            label = f"fallback:{place.fallbacks}"
            child = Place(_join(place.path, label), place.name, node, place, stands_in_for=failure)
            place.children[label] = child
            self.open(child, place.input)
            return True
        if "degrade" in place.actions and place.node.otherwise is not None:
            constant = place.node.otherwise
            place.degraded = missing(constant.missing or place.name, place, failure)
            self.ended.append((place, Outcome(constant.value)))
            return True
        if "park" in place.actions or (place.undoes is not None and place.actions):
            place.parked = failure
            self.task.parked[place.path] = place
            return True
        return False

    def time_out(self, place: Place, event: TimedOut) -> None:
        """The node has had its time."""
        place.actions = event.actions
        if isinstance(place.node, Parallel):
            self.perform(place, parallel.timed_out(place))
            return
        for child in place.children.values():
            if child.outcome is None:
                self.halt(child)
        if self.task.running.pop(place.path, None) is not None:
            self.effects.append(Halt(place))
        assert place.time is not None
        what = place.path or place.name
        failure = Failure(event.code, f"{what} had not ended after {place.time.limit_s:g} s")
        self.ended.append((place, Outcome(failure=failure.at(what, place.attempt))))

    def perform(self, place: Place, moves: list[Move]) -> None:
        for move in moves:
            match move:
                case Start():
                    child = Place(_join(place.path, move.label), move.name, move.node, place)
                    place.children[move.label] = child
                    self.open(child, move.input)
                case Stop():
                    self.halt(place.children[move.label])
                case Finish():
                    self.ended.append((place, move.outcome))

    def open(self, place: Place, input: Value) -> None:
        place.opened_at, place.input = self.at, input
        if place.node.with_ is not None and not self.map_input(place, place.node.with_):
            return
        if place.is_leaf():
            self.run(place)
        else:
            self.give_time(place)
            self.perform(place, _OPENING[type(place.node)](place))

    def map_input(self, place: Place, with_: str | Mapping[str, str]) -> bool:
        """Its input is what `with` says; if that cannot be evaluated, it has failed, and the answer is False."""
        try:
            place.input = _mapped_input(self.task, place, with_)
        except ExpressionFailed as error:
            failure = Failure("expression", str(error)).at(place.path or place.name, 1)
            place.actions = actions_for(failure, place.node.on_error if isinstance(place.node, Step) else {})
            self.ended.append((place, Outcome(failure=failure)))
            return False
        return True

    def run(self, place: Place) -> None:
        place.opened_at = self.at
        self.give_time(place)
        self.task.running[place.path] = place
        self.effects.append(Run(place))

    def give_time(self, place: Place) -> None:
        """Its time begins now, if it has any."""
        limit_s = time_limit_s(place.node)
        if limit_s is not None:
            place.time = Time(self.at, limit_s)
            self.task.timed[place.path] = place
            self.effects.append(Alarm(place))

    def halt(self, place: Place) -> None:
        for leaf in list(place.open_leaves()):
            if self.task.running.pop(leaf.path, None) is not None:
                self.effects.append(Halt(leaf))
        for waiting in (self.task.timed, self.task.parked):
            for path in [path for path, other in waiting.items() if other.is_within(place)]:
                del waiting[path]
        place.outcome = _STOPPED


def _join(path: str, label: str) -> str:
    return f"{path}/{label}" if path and not label.startswith("[") else f"{path}{label}"


def _mapped_input(task: TaskState, place: Place, with_: str | Mapping[str, str]) -> Value:
    names = {
        "input": place.input,
        "task": task.record.input,
        "outputs": place.parent.scope() if place.parent else {},
    }
    where = "with"
    if place.stands_in_for is not None:
        where, names["error"] = "fallback", error_for_rules(place.stands_in_for)
    if isinstance(with_, str):
        return evaluate(with_, where, names)
    return {key: evaluate(source, where, names) for key, source in with_.items()}
