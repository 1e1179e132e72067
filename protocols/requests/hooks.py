"""Hooks: steps of the user that run before a request enters a state. A failing hook keeps the request out of it.

A hook is put into the pipelines where the state is entered, so it is durable, retried and limited like any step. Where
it runs is in its path, and `transition_of(ctx.step)` reads from there what state the request comes from. Where that
depends on the way through an Adaptive, each way gets a node of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import InvalidDefinition
from ..tree import Adaptive, Node, Step
from ..tree import Sequence as InOrder
from ..tree_parts import END, Rule
from ..wording import flaws_of
from .machine import HOOK, STAGES, STATES, State, entered_from, stage_named

ENDS = ("completed", "failed", "cancelled")
HOOKED: tuple[str, ...] = (*STAGES.values(), *ENDS)
"""States that a hook can stand before: all but `received`, which is before all."""
_BAD_ENDS: dict[str, State] = {"undo": "failed", "on_cancel": "cancelled"}
"""The states before which steps under `undo` and `on_cancel` of the first step stand, by key."""
Hooks = Mapping[State, tuple[Step, ...]]
_PLACE = re.compile(rf"(?:^|/){HOOK}(?P<node>[a-z]+)(?:_\d+)?(?:_from_(?P<before>[a-z_]+?))?(?:_by_\w+)?(?:#\d+)?$")
_STEP: TypeAdapter[Step] = TypeAdapter(Step)


def read_hooks(*given: Mapping[Any, Any] | None) -> Hooks:
    """Hooks by state, each a protocol, its `module:name`, a step, or a list of these; those given first run first.

    Raises:
        InvalidDefinition: no such state, or no step; names the state.
    """
    found: dict[Any, tuple[Step, ...]] = {}
    for state, steps in (item for hooks in given for item in (hooks or {}).items()):
        if state not in HOOKED:
            raise InvalidDefinition(
                problem=f"no hook can stand before '{state}', only {', '.join(HOOKED)}", path="hooks"
            )
        for step in steps if isinstance(steps, list | tuple) else [steps]:
            found[state] = (*found.get(state, ()), _step(step, state))
    return found


def transition_of(path: str) -> tuple[State | None, State]:
    """Return the transition that a hook stands before, by `ctx.step`: the state before, and the state after.

    The first is None where the way does not say: before `failed` and `cancelled`, and behind a goto.

    Raises:
        ValueError: it is not the path of a hook.
    """
    first, _, key = path.rpartition("/")[2].partition("#")[0].partition(":")
    if first == "route" and key in _BAD_ENDS:
        return None, _BAD_ENDS[key]
    found = _PLACE.search(path)
    after = None if found is None else "completed" if found["node"] == "completed" else stage_named(found["node"])
    if found is None or after is None:
        raise ValueError(f"'{path}' is not the path of a hook")
    before = next((state for state in STATES if state == found["before"]), None)
    return before, after


def hooked(root: Node, hooks: Hooks) -> Node:
    """Return the tree of a pipeline with the hooks in it."""
    if not any(state in hooks for state in (*STAGES.values(), "completed")):
        return root
    match root:
        case InOrder():
            return _in_order(root, hooks)
        case Adaptive():
            return _by_rules(root, hooks)
        case _:
            raise InvalidDefinition(
                problem="hooks need a sequence or an adaptive at the root of a pipeline", path="hooks"
            )


def with_end(route: Step, hooks: Hooks) -> Step:
    """Return the first step of every request with hooks as its `undo` (before `failed`) and `on_cancel`."""
    found = {}
    for key, state in _BAD_ENDS.items():
        steps = hooks.get(state, ())
        if len(steps) > 1:
            raise InvalidDefinition(problem=f"only one hook can stand before '{state}'", path="hooks")
        for step in steps:
            found[key] = step.model_copy(update={"with_": "input.output"})
    return route.model_copy(update=found)


def _step(given: Any, state: str) -> Step:
    try:
        return _STEP.validate_python(given)
    except ValidationError as error:
        (_, problem), *_ = flaws_of(error, Step)
        raise InvalidDefinition(problem=f"hook before '{state}': {problem}", path="hooks") from error


def _in_order(root: InOrder, hooks: Hooks) -> Node:
    befores = entered_from(root)
    nodes = [_behind(str(node.name), node, hooks, befores[str(node.name)]) for node in root.sequence]
    if "completed" in hooks:
        nodes.append(_hook("completed", hooks["completed"], {"response_formatting"}))
    return root.model_copy(update={"sequence": tuple(nodes)})


def _by_rules(root: Adaptive, hooks: Hooks) -> Node:
    """Put the hooks into an Adaptive: into a node entered from one state or by a goto, else on each way to the node."""
    befores = entered_from(root)
    nodes, rules, start = dict(root.adaptive), _spelt_out(root), root.start
    for label, node in root.adaptive.items():
        state = stage_named(label)
        if state is None or state not in hooks:
            continue
        if len(befores[label]) == 1 or label in root.jumps:
            nodes[label] = _behind(label, node, hooks, befores[label])
            continue
        nodes[label] = node.model_copy(update={"with_": None})
        if start == label:
            start = _add_way(nodes, node, _hook(label, hooks[state], {"received"}, "_by_0"))
            rules.append(Rule(after=start, to=label))
        afters = sorted({str(rule.after) for rule in rules if rule.to == label and rule.after in root.adaptive})
        afters = [after for after in afters if befores[f"{after}>"] != {state}]
        for number, after in enumerate(afters, 1):
            way = _add_way(nodes, node, _hook(label, hooks[state], befores[f"{after}>"], f"_by_{number}"))
            rules = [_led(rule, way) if (rule.to, rule.after) == (label, after) else rule for rule in rules]
            rules.append(Rule(after=way, to=label))
    if "completed" in hooks:
        last = _add_way(nodes, None, _hook("completed", hooks["completed"], {"response_formatting"}))
        rules = [_led(rule, last) if rule.to == END else rule for rule in rules]
        rules.append(Rule(after=last, to=END))
    return root.model_copy(update={"adaptive": nodes, "rules": tuple(rules), "start": start})


def _add_way(nodes: dict[str, Node], node: Node | None, hook: Node) -> str:
    """Put a hook among the nodes of an Adaptive, with the input of the node it stands before; returns its label."""
    label = str(hook.name)
    nodes[label] = hook.model_copy(update={"with_": node and node.with_, "name": None})
    return label


def _spelt_out(root: Adaptive) -> list[Rule]:
    """Return the rules, each with its `after`, so that none of them holds after a hook."""
    found: list[Rule] = []
    for rule in root.rules:
        labels = list(root.adaptive) if rule.after is None else [rule.after]
        found += [rule.model_copy(update={"after": label}) for label in labels]
    return found


def _led(rule: Rule, to: str) -> Rule:
    return rule.model_copy(update={"to": to})


def _behind(name: str, node: Node, hooks: Hooks, befores: Iterable[State]) -> Node:
    """Return a sequence in place of the node: the hooks of its state, then the node."""
    state = stage_named(name)
    if state is None or state not in hooks or set(befores) == {state}:
        return node  # nothing is entered where a request stays in its state
    inside = node.model_copy(update={"name": "entered", "with_": None})
    return InOrder(_hook(name, hooks[state], set(befores)), inside, with_=node.with_, name=node.name)


def _hook(name: str, steps: tuple[Step, ...], befores: set[State] | frozenset[State], way: str = "") -> Node:
    """Return the hooks of a state as a node. Its name says the state after, and the state before if only one can be."""
    after = f"_from_{next(iter(befores))}" if len(befores) == 1 else ""
    stem = name.partition("_")[0]
    named = [
        step.model_copy(update={"name": f"{HOOK}{stem}{f'_{at}' if at > 1 else ''}{after}{way}"})
        for at, step in enumerate(steps, 1)
    ]
    return named[0] if len(named) == 1 else InOrder(*named, name=named[0].name)
