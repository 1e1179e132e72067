"""Works off the consequences of one event until none is left: the part of the fold that all kinds of events share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from ...protocols.blame import fault_of
from ...protocols.conditions import ExpressionFailed, evaluate
from ...protocols.outcomes import Failure, Outcome, error_for_rules
from ...protocols.questions import wait_of
from ...protocols.recovery import actions_for
from ...protocols.tree import Adaptive, Hierarchy, Parallel, Sequence, Sleep, Step, Wait, takers_back, time_limit_s
from ...protocols.values import Value
from .events import Answered, TimedOut
from .mail import settled
from .modes import adaptive, asking, hierarchical, parallel, sequential, waiting
from .modes.mode import Mode
from .state import (
    Again,
    Alarm,
    Await,
    Awaited,
    Awaits,
    Decided,
    Effect,
    Finish,
    Halt,
    Move,
    NodeRun,
    Run,
    Start,
    Stop,
    TaskState,
    Tell,
    Time,
    Told,
    is_below,
    missing,
    with_more,
)

MODES: Mapping[type, Mode] = {
    Step: asking.MODE,
    Sequence: sequential.MODE,
    Parallel: parallel.MODE,
    Hierarchy: hierarchical.MODE,
    Adaptive: adaptive.MODE,
    Wait: waiting.WAIT,
    Sleep: waiting.SLEEP,
}
"""The mode of every kind of node; a test checks that none is left out."""

ASK = "ask"
"""Label of the wait for the answer to a question of a step."""
START = ":start"
"""Path of the sleep of a task that starts later."""
UNDO = ":undo"
"""Suffix of the path of an undo run."""
_GATE: Sleep = Sleep(for_s=1.0)
"""Stands for the time until a task starts that starts later. Its runs have their own time."""
CANCELLED = Outcome(failure=Failure("cancelled", "no longer needed"))
"""The outcome of a node run that was stopped."""


class Folding:
    """The consequences of one event: the effects so far, and the ended node runs that are still to be handled."""

    def __init__(self, task: TaskState, at: float) -> None:
        self.task, self.at = task, at
        self.effects: list[Effect] = []
        self.ended: list[tuple[NodeRun, Outcome]] = []

    def settle(self) -> None:
        while self.ended:
            place, outcome = self.ended.pop()
            if self.task.outcome is not None or place.is_over():
                continue
            try:
                if self.task.timed:
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
                    self.perform(parent, MODES[type(parent.node)].following(parent, place))
            except Exception as error:
                self.broke(place, error)

    def broke(self, place: NodeRun, error: Exception) -> None:
        """Handle an internal fault after the end of a node run: the parent node fails, or the task without a parent."""
        parent = place.parent
        if parent is None or self.task.ending is not None:
            self.fall(error)
            return
        self.task.faults.append(error)
        self.stop_below(parent)
        self.ended.append((parent, Outcome(failure=fault_of(error).at(parent.path or parent.name, 1))))

    def fall(self, error: Exception) -> None:
        """Handle an internal fault that belongs to no single node: everything stops and the task fails."""
        task = self.task
        task.faults.append(error)
        self.effects = [effect for effect in self.effects if not isinstance(effect, Run)]
        self.effects += [Halt(place) for place in task.running.values()]
        for places in (task.running, task.timed, task.parked, task.waiting):
            places.clear()
        self.ended.clear()
        task.outcome = Outcome(failure=fault_of(error))

    def succeeded(self, place: NodeRun) -> None:
        if (place.degraded or place.stands_in_for is not None) and place.parent is not None:
            place.parent.degraded = with_more(place.parent.degraded, place.lacking())
        node = place.node
        if (node.undo is not None or node.on_cancel is not None) and not place.failed:
            if not place.is_leaf():
                self.task.done = [other for other in self.task.done if not other.is_within(place)]
            self.task.done.append(place)

    def end(self, outcome: Outcome) -> None:
        """End the task. A failed task runs the undo steps of its finished nodes first, the last finished node first."""
        self.task.ending = outcome
        if outcome.failure is None:
            self.task.done.clear()
        self.undo_next()

    def undo_next(self) -> None:
        while self.task.done:
            place = self.task.done.pop()
            for name in self.task.takes_back:
                step = takers_back(place.node).get(name)
                if step is not None:
                    assert place.outcome is not None
                    taker = NodeRun(f"{place.path}:{name}", name, step, None, undoes=place)
                    self.open(taker, {"input": place.input, "output": place.outcome.output})
                    return
        self.task.outcome = self.task.ending

    def stand_in(self, place: NodeRun, failure: Failure) -> bool:
        """Try the actions for a failed node: a fallback, a constant, parking. Returns False if the failure stands."""
        place.failed, place.degraded = True, {}
        if "fallback" in place.actions and place.fallbacks < len(place.node.fallback):
            node = place.node.fallback[place.fallbacks]
            place.fallbacks += 1
            label = f"fallback:{place.fallbacks}"
            child = NodeRun(_join(place.path, label), place.name, node, place, stands_in_for=failure)
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

    def time_out(self, place: NodeRun, event: TimedOut) -> None:
        """Handle the end of a node's time limit: its mode decides, or everything below stops and the node fails."""
        if is_below(place):
            self.decided(place, None)
            return
        place.actions = event.actions
        self.task.timed.pop(place.path, None)
        if self.task.waiting.pop(place.path, None) is not None:
            self.effects.append(Awaited(place))
        mode = MODES.get(type(place.node))
        if mode is not None and mode.timed_out is not None:
            self.perform(place, mode.timed_out(place))
            return
        self.stop_below(place)
        if self.task.running.pop(place.path, None) is not None:
            self.effects.append(Halt(place))
        assert place.time is not None
        what = place.path or place.name
        failure = Failure(event.code, f"{what} had not ended after {place.time.limit_s:g} s")
        self.ended.append((place, Outcome(failure=failure.at(what, place.attempt))))

    def stop_below(self, place: NodeRun) -> None:
        for child in place.children.values():
            if child.outcome is None:
                self.halt(child)

    def perform(self, place: NodeRun, moves: list[Move]) -> None:
        for move in moves:
            match move:
                case Start():
                    child = NodeRun(_join(place.path, move.label), move.name, move.node, place)
                    place.children[move.label] = child
                    self.open(child, move.input)
                case Stop():
                    self.halt(place.children[move.label])
                case Finish():
                    self.ended.append((place, move.outcome))
                case Await():
                    self.wait(place)
                case Again():
                    self.told(place, move.outcome)
                case _:
                    assert_never(move)

    def open(self, place: NodeRun, input: Value) -> None:
        place.opened_at, place.input, place.given = self.at, input, input
        if place.node.with_ is not None and not self.map_input(place, place.node.with_):
            return
        place.is_mapped = True
        if place.is_leaf():
            self.run(place)
        else:
            self.give_time(place)
            self.perform(place, MODES[type(place.node)].opening(place))

    def map_input(self, place: NodeRun, with_: str | Mapping[str, str]) -> bool:
        """Evaluate `with` as the input of the node run. Returns False if the expression failed; then the node fails."""
        try:
            place.input = _mapped_input(self.task, place, with_)
        except ExpressionFailed as error:
            failure = Failure("expression", str(error)).at(place.path or place.name, 1)
            place.actions = actions_for(failure, place.node.on_error if isinstance(place.node, Step) else {})
            self.ended.append((place, Outcome(failure=failure)))
            return False
        return True

    def run(self, place: NodeRun) -> None:
        place.opened_at = self.at
        self.give_time(place)
        self.task.running[place.path] = place
        self.effects.append(Run(place))

    def give_time(self, place: NodeRun) -> None:
        """Start the time limit of a node run now, if its node has one."""
        limit_s = time_limit_s(place.node)
        if limit_s is not None:
            place.time = Time(self.at, limit_s)
            self.task.timed[place.path] = place
            self.effects.append(Alarm(place))

    def wait(self, place: NodeRun) -> None:
        """Let a node run wait. A wait whose answers are there already is over at once."""
        if not self.task.waiting:
            self.task.waiting = {}
        self.task.waiting[place.path] = place
        if not is_below(place):
            self.effects.append(Awaits(place))
        if place.time is not None and place.path not in self.task.timed:
            self.task.timed[place.path] = place
            self.effects.append(Alarm(place))
        if isinstance(place.node, Wait):
            self.hand_out(place.node.wait)

    def ask(self, place: NodeRun, asked: Mapping[str, Value]) -> None:
        """Let a step wait for the answer to a question, by a run of a Wait below it."""
        asks = place.memory.asks + 1 if place.memory is not None else 1
        place.memory, place.began, place.emitted = Told(asks, asked["resume"]), False, False
        label = ASK if asks == 1 else f"{ASK}#{asks}"
        child = NodeRun(_join(place.path, label), ASK, wait_of(asked), place)
        child.opened_at, child.is_mapped = self.at, True
        child.memory = waiting.asked(child, asked["show"])
        place.children[label] = child
        self.give_time(child)
        self.wait(child)

    def told(self, place: NodeRun, outcome: Outcome) -> None:
        """Run a step again that has its answer, or fail it without one."""
        assert isinstance(place.node, Step)
        if outcome.failure is not None:
            place.actions = actions_for(outcome.failure, place.node.on_error)
            self.ended.append((place, outcome))
            return
        place.memory.answers = outcome.output
        place.attempt, place.losses, place.not_before, place.wait_s = place.attempt + 1, 0, 0.0, 0.0
        self.task.running[place.path] = place
        self.effects.append(Run(place))

    def hold(self, until: float) -> None:
        """Take back that the task has begun: it starts when a sleep is over that stands before its tree."""
        task, root = self.task, self.task.root
        for places in (task.running, task.timed, task.parked, task.waiting):
            places.clear()
        task.outcome, task.ending, task.faults = None, None, []
        task.root = NodeRun(root.path, root.name, root.node, None)
        gate = NodeRun(START, START, _GATE, None)
        gate.opened_at, gate.is_mapped = self.at, True
        gate.time, gate.memory, task.time = Time(self.at, max(0.0, until - self.at), True), task.time, None
        self.wait(gate)

    def start(self, gate: NodeRun) -> None:
        """Begin a task that was held. Its time limit counts from here."""
        task = self.task
        task.started_at, gate.outcome = self.at, Outcome(None)
        if gate.memory is not None:
            task.time = gate.memory._replace(since=self.at)
            self.effects.append(Alarm(None))
        self.open(task.root, task.record.input)

    def hand_out(self, name: str) -> None:
        """Hand the answers of a mailbox out, and end the waits that need no more."""
        for place, outcome in settled(self.task, name):
            self.woken(place, outcome)

    def woken(self, place: NodeRun, outcome: Outcome) -> None:
        """Handle that a node does not wait any more, because its answers are there or its time is over."""
        if is_below(place):
            self.decided(place, place.memory.answers)
            return
        del self.task.waiting[place.path]
        self.effects.append(Awaited(place))
        if place.path == START:
            self.task.timed.pop(START, None)
            self.start(place)
        else:
            self.ended.append((place, outcome))

    def wait_below(self, nested: NodeRun, path: str, ask: Mapping[str, Value]) -> None:
        """Take note of a node of a nested run that waits. It is decided about here."""
        if path in self.task.waiting or (nested.memory is not None and path in nested.memory.by_path):
            return
        node = wait_of(ask)
        place = NodeRun(path, node.name or node.wait, node, nested)
        place.opened_at, place.is_mapped = ask["since"], True
        place.memory = waiting.asked(place, ask["show"])
        place.memory.is_below = True
        if node.timeout_s is not None:
            place.time = Time(ask["since"], node.timeout_s)
        self.wait(place)

    def decided(self, place: NodeRun, answers: list[Answered] | None) -> None:
        """Tell a nested run what was decided about one of its waits: the answers, or None for a time-out."""
        nested = place.parent
        assert nested is not None
        self.forget_below(place.path)
        nested.memory = nested.memory or Decided()
        nested.memory.by_path[place.path] = answers
        self.effects.append(Tell(nested, place.path))

    def forget_below(self, path: str) -> None:
        for places in (self.task.waiting, self.task.timed):
            places.pop(path, None)

    def wait_below_over(self, nested: NodeRun | None, path: str) -> None:
        self.forget_below(path)
        if nested is not None and nested.memory is not None:
            nested.memory.by_path.pop(path, None)

    def halt(self, place: NodeRun) -> None:
        for leaf in list(place.open_leaves()):
            if self.task.running.pop(leaf.path, None) is not None:
                self.effects.append(Halt(leaf))
        stopped = [other for other in self.task.waiting.values() if other.is_within(place)]
        self.effects += [Awaited(other) for other in stopped if not is_below(other)]
        for places in (self.task.timed, self.task.parked, self.task.waiting):
            for path in [path for path, other in places.items() if other.is_within(place)]:
                del places[path]
        place.outcome = CANCELLED


def _join(path: str, label: str) -> str:
    return f"{path}/{label}" if path and not label.startswith("[") else f"{path}{label}"


def _mapped_input(task: TaskState, place: NodeRun, with_: str | Mapping[str, str]) -> Value:
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
