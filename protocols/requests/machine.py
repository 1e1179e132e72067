"""The states of a request, and the transitions that are allowed.

A request has no state of its own. A task answers it, and the state is read off the names of the task's steps that run
or have ended (`stage_of`). So the state survives all that the task survives. A pipeline is a workflow whose nodes have
the names in STAGES. `check_pipeline` walks every way through a pipeline, and refuses a way that this table forbids. So
no illegal transition can come up later.

The table is that of the project's first design document, with further edges that the shipped pipelines need: a plan may
lead straight to processing or to tools, tools may come before the model and again after it, and a failure may lead back
to a stable state, from which work goes on in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product, starmap
from typing import Literal, TypeAlias, assert_never, get_args

from ..check import walk
from ..errors import InvalidDefinition
from ..tree import Adaptive, Hierarchy, Node, Parallel, Sequence, Sleep, Step, Wait, default_name
from ..tree_parts import END

State: TypeAlias = Literal[
    "received",
    "validated",
    "planned",
    "context_gathering",
    "processing",
    "tool_execution",
    "response_formatting",
    "completed",
    "failed",
    "cancelled",
]
STATES: tuple[State, ...] = get_args(State)
TERMINAL: frozenset[State] = frozenset({"completed", "failed", "cancelled"})
STABLE: frozenset[State] = frozenset({"validated", "planned"})
"""States to which a failure may lead back: everything that these states build on is on record."""
STAGES: Mapping[str, State] = {
    "validate": "validated",
    "plan": "planned",
    "context": "context_gathering",
    "model": "processing",
    "tools": "tool_execution",
    "format": "response_formatting",
}
"""The state of a request from when the node of this name is due; `model_2` counts as `model`."""
NEXT: Mapping[State, frozenset[State]] = {
    "received": frozenset({"validated"}),
    "validated": frozenset({"planned"}),
    "planned": frozenset({"context_gathering", "processing", "tool_execution"}),
    "context_gathering": frozenset({"processing", "tool_execution"}),
    "processing": frozenset({"tool_execution", "response_formatting"}),
    "tool_execution": frozenset({"processing", "response_formatting"}),
    "response_formatting": frozenset({"completed"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


HOOK = "before_"
"""Prefix of the names of hooks."""
_LABEL = re.compile(r"[#\[:]")
"""Matches the end of the name in a label: `draft#2`, `do[17]`, `fallback:1`."""
_TAKE_BACK = (":undo", ":on_cancel")
"""Ends of the labels of steps that take a node back."""
_UNNAMED = ""
"""The name of a node that has none in the paths below it: a fallback is `fallback:1`, the run of an item `[17]`."""


def may_follow(before: State, after: State) -> bool:
    """Whether a request may go from one state to another: on, back to a stable one, or to a bad end."""
    if before in TERMINAL:
        return False
    if after in ("failed", "cancelled"):
        return True
    return after in NEXT[before] or is_rollback(before, after)


def is_rollback(before: State, after: State) -> bool:
    """Whether a transition leads back to a stable state."""
    return after in STABLE and before not in TERMINAL and STATES.index(after) < STATES.index(before)


def stage_named(name: str) -> State | None:
    """Return the state that a node of this name brings; None if it is not a stage of a pipeline."""
    stem, _, number = name.partition("_")
    return STAGES.get(stem) if not number or number.isdigit() else None


def stage_of(path: str) -> State | None:
    """Return the state of a place in the tree: that of the outermost stage around it. A hook has none, and a step under
    `undo` or `on_cancel` has none."""
    parts = path.split("/")
    if any(part.endswith(_TAKE_BACK) for part in parts):
        return None
    for part, below in zip(parts, [*parts[1:], ""], strict=True):
        state = stage_named(_LABEL.split(part, maxsplit=1)[0])
        if state is not None:
            return None if below.startswith(HOOK) else state
    return None


def has_stages(root: Node) -> bool:
    """Whether a tree has the stages of every request: it is checked, planned and formatted."""
    states = {stage_named(node.name or str(loc[-1])) for loc, node in walk(root, ("",))}
    return {"validated", "planned", "response_formatting"} <= states


def state_among(paths: Iterable[str]) -> State | None:
    """Return the state of a request whose steps at `paths` are due, running or parked: the farthest one. None if they
    belong to no state: then the state of the request does not change."""
    states = [state for path in paths if (state := stage_of(path)) is not None]
    return max(states, key=STATES.index, default=None)


@dataclass(frozen=True, slots=True)
class _Ways:
    """The ways through a node: the states that they may begin and end with, and the transitions inside."""

    firsts: frozenset[State]
    lasts: frozenset[State]
    steps: frozenset[tuple[State, State]]
    may_be_silent: bool
    """Whether there is a way through without any state."""


_NOTHING = _Ways(frozenset(), frozenset(), frozenset(), True)


def check_pipeline(root: Node, name: str) -> None:
    """Raise InvalidDefinition if a request could make a transition in this tree that the table forbids."""
    ways = _through(root, root.name or default_name(root))
    for state in ways.firsts - {"validated"}:
        raise InvalidDefinition(problem=f"may begin with '{state}'; a pipeline begins with 'validate'", path=name)
    if ways.may_be_silent or not ways.firsts:
        raise InvalidDefinition(problem="may be passed without the node 'validate'", path=name)
    for state in ways.lasts - {"response_formatting"}:
        raise InvalidDefinition(problem=f"may end after '{state}'; a pipeline ends with 'format'", path=name)
    for before, after in sorted(ways.steps):
        if before != after and not may_follow(before, after):
            allowed = ", ".join(sorted(NEXT[before]))
            problem = f"may go from '{before}' to '{after}'; after '{before}' may come {allowed}"
            raise InvalidDefinition(problem=problem, path=name)


def entered_from(root: Sequence | Adaptive) -> Mapping[str, frozenset[State]]:
    """Return, by the name of each node in a pipeline's root, the states in which a request may enter the node; and by
    `name>` those in which it may leave the node."""
    if isinstance(root, Sequence):
        return _in_turn(root)
    ways = {label: _through(child, label) for label, child in root.adaptive.items()}
    entries: dict[str, frozenset[State]] = {label: frozenset() for label in ways}
    entries[root.start] = frozenset({"received"})
    left: dict[str, frozenset[State]] = {}
    while True:
        left = {label: _left(way, entries[label]) for label, way in ways.items()}
        after = {label: _entries(root, label, left) | entries[label] for label in ways}
        if after == entries:
            return {**entries, **{f"{label}>": states for label, states in left.items()}}
        entries = after


def _entries(root: Adaptive, label: str, left: Mapping[str, frozenset[State]]) -> frozenset[State]:
    return frozenset(
        state for before in root.adaptive if label in set(_targets(root, before)) for state in left[before]
    )


def _left(ways: _Ways, entered: frozenset[State]) -> frozenset[State]:
    return ways.lasts | (entered if ways.may_be_silent else frozenset())


def _in_turn(root: Sequence) -> Mapping[str, frozenset[State]]:
    found, states = {}, frozenset[State]({"received"})
    for child in root.sequence:
        name = child.name or default_name(child)
        ways = _through(child, name)
        found[name] = states
        found[f"{name}>"] = states = _left(ways, states)
    return found


def _through(node: Node, name: str) -> _Ways:
    state = stage_named(name)
    if state is not None:
        own = frozenset({state})
        return _Ways(own, own, frozenset(), False)
    ways = _inside(node)
    for other in node.fallback:
        ways = _either(ways, _then(_broken_off(ways), _through(other, _UNNAMED)))
    return ways if node.otherwise is None else _either(ways, _broken_off(ways))


def _broken_off(ways: _Ways) -> _Ways:
    """Return the ways through a node that fails: it may fail after any of its states."""
    return _Ways(ways.firsts, _states(ways), ways.steps, True)


def _inside(node: Node) -> _Ways:
    match node:
        case Step():
            return _NOTHING
        case Sequence():
            ways = _NOTHING
            for child in node.sequence:
                ways = _then(ways, _through(child, child.name or default_name(child)))
            return ways
        case Parallel():
            return _beside(node)
        case Hierarchy():
            return _at_any_time([_through(node.hierarchy, _UNNAMED), *starmap(_through, _by_label(node.team))], True)
        case Adaptive():
            return _by_rules(node)
        case Wait():
            late = [_through(child, _UNNAMED) for _, child in node.own_children()]
            return _either(_NOTHING, late[0]) if late else _NOTHING
        case Sleep():
            return _NOTHING
        case _:
            assert_never(node)


def _beside(node: Parallel) -> _Ways:
    """Return the ways through branches at once. None may run for an empty list, nor branches that nobody waits for."""
    if node.do is not None:
        return _at_any_time([_through(node.do, _UNNAMED)] * 2, True)
    branches = list(starmap(_through, _by_label(node.parallel or {})))
    waits_for_all = node.join == "all" and node.on_timeout == "fail"
    return _at_any_time(branches, not waits_for_all or all(way.may_be_silent for way in branches))


def _by_label(nodes: Mapping[str, Node]) -> Iterator[tuple[Node, str]]:
    return ((node, label) for label, node in nodes.items())


def _at_any_time(branches: list[_Ways], may_be_silent: bool) -> _Ways:
    """Return the ways through branches whose stages may come in any order."""
    states = frozenset(state for way in branches for state in _states(way))
    steps = frozenset(product(states, states)) if len(states) > 1 else frozenset()
    return _Ways(states, states, steps, may_be_silent)


def _states(way: _Ways) -> frozenset[State]:
    return way.firsts | way.lasts | {state for step in way.steps for state in step}


def _by_rules(node: Adaptive) -> _Ways:
    """Return the ways along the rules: a closure over pairs of nodes with no state between them."""
    ways = {label: _through(child, label) for label, child in node.adaptive.items()}
    if any("error" in rule.when for rule in node.rules):
        ways = {label: way if stage_named(label) else _either(way, _broken_off(way)) for label, way in ways.items()}
    follow = {label: set(_targets(node, label)) for label in ways}
    beyond = {label: frozenset(_beyond(label, ways, follow)) for label in ways}
    reached = _reached({node.start, *node.jumps}, follow)
    starts = _at_once({node.start}, ways, follow)
    steps: set[tuple[State, State]] = set()
    lasts: set[State] = set()
    for label in reached:
        steps |= ways[label].steps
        for after in beyond[label]:
            if after == END:
                lasts |= ways[label].lasts
            else:
                steps |= set(product(ways[label].lasts, ways[after].firsts))
    firsts = frozenset(state for label in starts - {END} for state in ways[label].firsts)
    return _Ways(firsts, frozenset(lasts), frozenset(steps), END in starts)


def _targets(node: Adaptive, label: str) -> Iterator[str]:
    """Yield the nodes that may follow a node, whatever the conditions say. A goto may lead to any."""
    for rule in node.rules:
        if rule.after in (None, label):
            yield rule.to
    yield from node.jumps


def _at_once(labels: set[str], ways: Mapping[str, _Ways], follow: Mapping[str, set[str]]) -> set[str]:
    """Return these nodes, and those reached from them through nodes without a state."""
    found, waiting = set(labels), list(labels)
    while waiting:
        label = waiting.pop()
        if label != END and ways[label].may_be_silent:
            new = follow[label] - found
            found |= new
            waiting += new
    return found


def _beyond(label: str, ways: Mapping[str, _Ways], follow: Mapping[str, set[str]]) -> set[str]:
    return _at_once(follow[label], ways, follow)


def _reached(starts: set[str], follow: Mapping[str, set[str]]) -> set[str]:
    found, waiting = set(starts), list(starts)
    while waiting:
        new = follow[waiting.pop()] - found - {END}
        found |= new
        waiting += new
    return found


def _then(one: _Ways, two: _Ways) -> _Ways:
    firsts = one.firsts | (two.firsts if one.may_be_silent else frozenset())
    lasts = two.lasts | (one.lasts if two.may_be_silent else frozenset())
    steps = one.steps | two.steps | frozenset(product(one.lasts, two.firsts))
    return _Ways(firsts, lasts, steps, one.may_be_silent and two.may_be_silent)


def _either(one: _Ways, two: _Ways) -> _Ways:
    return _Ways(
        one.firsts | two.firsts, one.lasts | two.lasts, one.steps | two.steps, one.may_be_silent or two.may_be_silent
    )
