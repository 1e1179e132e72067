"""The adaptive mode: rules choose the next node from the state and the outputs so far. The first match wins."""

from __future__ import annotations

from dataclasses import dataclass

from ....protocols.conditions import ExpressionFailed, holds, mentions
from ....protocols.outcomes import Failure, Outcome, error_for_rules
from ....protocols.tree import Adaptive
from ....protocols.tree_parts import END, Rule
from ....protocols.values import Value
from ....protocols.verdicts import as_goto
from ..state import Finish, Move, NodeRun, Start
from .mode import Mode


@dataclass(slots=True)
class _Walk:
    visits: dict[str, int]
    last_output: Value = None


def opening(place: NodeRun) -> list[Move]:
    node = _node(place)
    place.memory = _Walk(dict.fromkeys(node.adaptive, 0))
    return [_visit(place, node.start, place.input)]


def following(place: NodeRun, child: NodeRun) -> list[Move]:
    outcome = child.outcome
    assert outcome is not None
    place.children.clear()
    if outcome.failure is None:
        jump = as_goto(outcome.output)
        if jump is not None:
            return [_jump(place, child, *jump)]
        place.outputs[child.name] = outcome.output
        place.memory.last_output = outcome.output
    elif outcome.failure.code == "escalated":
        return [Finish(outcome)]
    try:
        rule = _first_match(place, child, outcome)
    except ExpressionFailed as error:
        return [_fail(place, "expression", f"a rule after '{child.name}': {error}")]
    if rule is None:
        if outcome.failure is not None:
            return [Finish(outcome)]
        return [_fail(place, "no_rule", f"no rule matches after '{child.name}'")]
    carried = outcome.output if outcome.failure is None else place.memory.last_output
    return [Finish(Outcome(carried))] if rule.to == END else [_visit(place, rule.to, carried)]


def _node(place: NodeRun) -> Adaptive:
    assert isinstance(place.node, Adaptive)
    return place.node


def _first_match(place: NodeRun, child: NodeRun, outcome: Outcome) -> Rule | None:
    names: dict[str, Value] = {
        "input": place.input,
        "output": outcome.output,
        "task": place.task_input(),
        "outputs": place.scope(),
        "visits": place.memory.visits,
        "error": error_for_rules(outcome.failure) if outcome.failure else None,
    }
    for rule in _node(place).rules:
        if rule.after not in (None, child.name):
            continue
        if outcome.failure is not None and not mentions(rule.when, "error"):
            continue
        if holds(rule.when, names):
            return rule
    return None


def _jump(place: NodeRun, child: NodeRun, target: str, input: Value) -> Move:
    known = _node(place).adaptive
    if target not in known:
        message = f"goto '{target}': no such node; there are {', '.join(known)}"
        return Finish(Outcome(failure=Failure("bad_goto", message).at(child.path, child.attempt)))
    return _visit(place, target, input)


def _visit(place: NodeRun, name: str, input: Value) -> Move:
    node, visits = _node(place), place.memory.visits
    if visits[name] == node.max_visits:
        return _fail(place, "too_many_visits", f"max_visits={node.max_visits} of node '{name}' are used up")
    visits[name] += 1
    label = name if visits[name] == 1 else f"{name}#{visits[name]}"
    return Start(label, name, node.adaptive[name], input)


def _fail(place: NodeRun, code: str, message: str) -> Move:
    return Finish(Outcome(failure=Failure(code, message).at(place.path or place.name, 1)))


MODE = Mode(opening, following)
