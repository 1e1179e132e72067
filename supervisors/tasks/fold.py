"""The pure core: a task's state is the fold of its events.

`begin` opens a task, and `apply` takes in one event. Both return the effects that follow. Live running and recovery use
the same two functions. Recovery applies the recorded events, drops the effects, and then runs the steps that are left
in `TaskState.running`. User code is never replayed.
"""

from __future__ import annotations

from typing import assert_never

from ...protocols.outcomes import Failure, Outcome, TaskRecord
from ...protocols.recovery import USUAL
from ...protocols.tree import Adaptive, Node, Sleep, Wait, default_name
from ...protocols.values import Value
from ...protocols.verdicts import as_goto
from .events import (
    Abandoned,
    Answered,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Event,
    Held,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    Skewed,
    StepAsked,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
    WaitBelow,
    WaitBelowOver,
    Woke,
    cost_of,
)
from .folding import UNDO, Folding
from .mail import put
from .state import Alarm, Awaited, Effect, Halt, NodeRun, Run, TaskState, Time, is_below, with_more


def begin(
    record: TaskRecord, root: Node, prefix: str = "", timeout_s: float | None = None
) -> tuple[TaskState, list[Effect]]:
    """Return the state of a task that was just accepted, and its first effects.

    Args:
        prefix: path of the root within the whole task, for the tree of a nested Hierarchy.
        timeout_s: time limit that the workflow sets for its tasks, in seconds. It only sets an alarm here; the task
            fails by the event Overdue.
    """
    name = root.name or default_name(root)
    place = NodeRun(prefix, name, root, None)
    if place.is_leaf() or isinstance(root, Wait | Sleep):
        place.path = prefix or name
    task = TaskState(record, place, record.hash, record.accepted_at)
    folding = Folding(task, record.accepted_at)
    if timeout_s is not None:
        task.time = Time(record.accepted_at, timeout_s)
        folding.effects.append(Alarm(None))
    try:
        folding.open(place, record.input)
        folding.settle()
    except Exception as error:
        folding.fall(error)
    return task, folding.effects


def apply(task: TaskState, event: Event) -> list[Effect]:
    """Take an event in and return its effects. An event of a step that is not running any more changes nothing.

    Never raises: an internal fault fails the node or the task that it hit, and is added to `task.faults`.
    """
    folding = Folding(task, event.at)
    try:
        _take_in(folding, event)
        folding.settle()
    except Exception as error:
        folding.fall(error)
    return folding.effects


def _take_in(folding: Folding, event: Event) -> None:
    task = folding.task
    match event:
        case StepFinished():
            place = task.running.pop(event.path, None)
            if place is not None:
                if event.degraded:
                    place.degraded = with_more(place.degraded, event.degraded)
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
            if task.outcome is None and task.ending is None:
                task.cancelled, task.takes_back = True, ("on_cancel", "undo") if event.undo else ("on_cancel",)
                _stop(folding, Failure("cancelled", "the task was cancelled"), undo=True)
        case TimedOut():
            place = task.timed.get(event.path)
            if place is not None:
                folding.time_out(place, event)
        case Due():
            task.time = Time(event.at, event.timeout_s)
            folding.effects.append(Alarm(None))
        case Held():
            folding.hold(event.until)
        case Overdue():
            _stop(folding, Failure("timeout", f"the task had not ended after {event.limit_s:g} s"), undo=True)
        case StepBegan():
            if event.path in task.running:
                task.running[event.path].began = True
        case StepAsked() | WaitBelow() | WaitBelowOver() | Answered() | Woke():
            _of_waits(folding, event)
        case Skewed():
            _skew(folding, event.by_s)
        case Redriven():
            _redrive(folding, event)
        case Dropped():
            _drop(folding, event)
        case Abandoned():
            task.ending = None
            _stop(folding, Failure("workflow_down", event.reason), undo=False)
        case _:
            assert_never(event)


def _stop(folding: Folding, why: Failure, undo: bool) -> None:
    """Stop everything in the task and end it with the failure `why`.

    Does nothing if the task has ended, or is ending and still runs its undo steps. With `undo`, undo steps run first.
    """
    task = folding.task
    if task.outcome is not None or task.ending is not None:
        return
    folding.effects += [Halt(place) for place in task.running.values()]
    folding.effects += [Awaited(place) for place in task.waiting.values() if not is_below(place)]
    task.running.clear()
    task.timed.clear()
    task.parked.clear()
    task.waiting.clear()
    folding.ended.clear()
    if undo:
        folding.end(Outcome(failure=why))
    else:
        task.outcome = Outcome(failure=why)


def _of_waits(folding: Folding, event: StepAsked | WaitBelow | WaitBelowOver | Answered | Woke) -> None:
    task = folding.task
    match event:
        case StepAsked():
            if (place := task.running.pop(event.path, None)) is not None:
                folding.ask(place, event.ask)
        case WaitBelow():
            if event.path in task.running:
                folding.wait_below(task.running[event.path], event.wait, event.ask)
        case WaitBelowOver():
            folding.wait_below_over(task.running.get(event.path), event.wait)
        case Woke():
            if (place := task.waiting.get(event.path)) is not None:
                folding.woken(place, Outcome(place.input))
        case Answered():
            if task.outcome is None and task.ending is None:
                put(task, event)
                folding.hand_out(event.name)
        case _:
            assert_never(event)


def _fail(folding: Folding, event: StepFailed) -> None:
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


def _redrive(folding: Folding, event: Redriven) -> None:
    """Begin the parked steps again; in a task that continues another, also all running steps and time limits."""
    task = folding.task
    task.requests |= {event.by}
    task.hash = event.hash or task.hash
    again = _unparked(task)
    if event.of is not None:
        task.origin, task.continues, task.started_at = task.origin or event.of, event.of, event.at
        _begin_times_anew(folding, event.at)
        again += _those_to_run(task)
    for place in again:
        place.attempt, place.losses, place.began, place.emitted, place.not_before = 1, 0, False, False, 0.0
        place.fallbacks, place.failed, place.actions, place.parked = 0, False, USUAL, None
        place.children.clear()
        if place.is_mapped:
            folding.run(place)
        else:
            folding.open(place, place.given)


def _those_to_run(task: TaskState) -> list[NodeRun]:
    """Return the steps that ran when the continued task failed. At-most-once steps that had begun are parked."""
    for path, place in [(path, place) for path, place in task.running.items() if place.began]:
        del task.running[path]
        place.parked = Failure("uncertain", "it was stopped while it ran, and it is to run at most once").at(path, 1)
        task.parked[path] = place
    return list(task.running.values())


def _drop(folding: Folding, event: Dropped) -> None:
    folding.task.requests |= {event.by}
    for place in _unparked(folding.task):
        assert place.parked is not None
        folding.ended.append((place, Outcome(failure=place.parked)))
        place.actions = ()


def _skew(folding: Folding, by_s: float) -> None:
    task = folding.task
    if task.time is not None:
        task.time = task.time.moved(by_s)
        folding.effects.append(Alarm(None))
    for place in task.timed.values():
        assert place.time is not None
        place.time = place.time.moved(by_s)
        folding.effects.append(Alarm(place))
    for place in task.running.values():
        place.not_before += by_s


def _begin_times_anew(folding: Folding, now: float) -> None:
    task = folding.task
    if task.time is not None:
        task.time = task.time._replace(since=now)
        folding.effects.append(Alarm(None))
    for place in task.timed.values():
        if isinstance(place.node, Sleep):
            folding.effects.append(Alarm(place))
        else:
            folding.give_time(place)


def _unparked(task: TaskState) -> list[NodeRun]:
    places = list(task.parked.values())
    task.parked.clear()
    return places


def _checked(place: NodeRun, output: Value) -> Outcome:
    """Return the outcome for an output. A goto is allowed only from a direct child of an Adaptive; else it fails."""
    node = place
    while node.stands_in_for is not None and node.parent is not None:
        node = node.parent
    if as_goto(output) and not (node.parent and isinstance(node.parent.node, Adaptive)):
        failure = Failure("bad_goto", "returned a goto, but is not directly a node of an Adaptive")
        return Outcome(failure=failure.at(place.path, place.attempt))
    return Outcome(output)


__all__ = ["UNDO", "apply", "begin"]
