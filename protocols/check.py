"""Checks what pydantic cannot check in a tree: expressions, reachability, ways to the end, existence of protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from .check_waits import disagreements, sleep_flaws, wait_flaws
from .errors import InvalidDefinition
from .flaws import Flaw, expression_flaws, mapping_flaws
from .protocol import resolve
from .references import reference_flaws
from .tree import Adaptive, Hierarchy, Node, Parallel, Sequence, Sleep, Step, Wait, takers_back
from .tree_parts import END
from .wording import Loc, place

MAX_NODES = 10_000
MAX_TREE_DEPTH = 50


class Flawed(InvalidDefinition):
    """An InvalidDefinition that keeps the location of each flaw, for the reader of files."""

    code = "invalid_tree"

    def __init__(self, *, flaws: list[Flaw]) -> None:
        first, *others = flaws
        lines = [first.problem, *(f"{place('', flaw.loc)[1:]}: {flaw.problem}" for flaw in others)]
        super().__init__(problem="\n".join(lines), path=place("", first.loc)[1:])
        self._flaws = flaws

    @property
    def flaws(self) -> list[Flaw]:
        return self._flaws


def check_tree(root: Node, resolve_protocols: bool) -> None:
    """Raise Flawed, with every flaw found, unless the tree is sound."""
    flaws: list[Flaw] = []
    waits: list[tuple[Loc, Wait]] = []
    for count, (loc, node) in enumerate(walk(root, ("root",))):
        if count >= MAX_NODES:
            flaws.append(Flaw(("root",), f"more than {MAX_NODES} nodes"))
            break
        flaws += _flaws_of(loc, node, resolve_protocols)
        waits += [(loc, node)] if isinstance(node, Wait) else []
    flaws += disagreements(waits)
    if resolve_protocols and not flaws:
        flaws += [Flaw(loc, problem) for loc, problem in reference_flaws(root)]
    if flaws:
        raise Flawed(flaws=flaws)


def walk(node: Node, loc: Loc, depth: int = 1) -> Iterator[tuple[Loc, Node]]:
    """Yield every node with its location, parents first. Raises Flawed below MAX_TREE_DEPTH levels."""
    if depth > MAX_TREE_DEPTH:
        raise Flawed(flaws=[Flaw(loc, f"nested deeper than {MAX_TREE_DEPTH} levels")])
    yield loc, node
    for part, child in children(node):
        yield from walk(child, loc + part, depth + 1)


def children(node: Node) -> list[tuple[Loc, Node]]:
    """Return the nodes directly below, each with its location relative to `node`."""
    return node.own_children() + fallbacks(node) + [((name,), step) for name, step in takers_back(node).items()]


def fallbacks(node: Node) -> list[tuple[Loc, Node]]:
    return [(("fallback", index), child) for index, child in enumerate(node.fallback)]


def _flaws_of(loc: Loc, node: Node, resolve_protocols: bool) -> Iterator[Flaw]:
    yield from _input_flaws(loc, node)
    if node.missing is not None and loc[-2:-1] != ("fallback",):
        yield Flaw((*loc, "missing"), "only what stands in for another node (in a `fallback`) can lack something")
    for name in takers_back(node):
        if "undo" in loc or "on_cancel" in loc:
            yield Flaw((*loc, name), "what takes something back cannot be taken back")
    if isinstance(node, Hierarchy) and len(loc) > 1:
        inside = (
            place + below for place, own in node.own_children() for below, step in walk(own, ()) if step.on_cancel
        )
        for place in inside:
            problem = "a nested Hierarchy is stopped for many reasons, and is not told: put this before it, or after"
            yield Flaw((*loc, *place, "on_cancel"), problem)
    if (
        isinstance(node, Hierarchy)
        and len(loc) > 1
        and node.undo is None
        and any(below.undo is not None for _, own in node.own_children() for _, below in walk(own, ()))
    ):
        yield Flaw(loc, "something in this nested Hierarchy has an `undo`, so it needs one itself, for when it is done")
    match node:
        case Step():
            yield from _protocol_flaws(loc, node) if resolve_protocols else ()
        case Parallel():
            yield from expression_flaws((*loc, "each"), node.each, "with") if node.each is not None else ()
        case Adaptive():
            yield from _rule_flaws(loc, node)
            yield from _route_flaws(loc, node)
        case Wait():
            yield from wait_flaws(loc, node)
        case Sleep():
            yield from sleep_flaws(loc, node)
        case Sequence() | Hierarchy():
            pass
        case _:
            assert_never(node)


def _input_flaws(loc: Loc, node: Node) -> Iterator[Flaw]:
    where = "fallback" if loc[-2:-1] == ("fallback",) else "with"
    yield from mapping_flaws((*loc, "with"), node.with_, where)


def _protocol_flaws(loc: Loc, step: Step) -> Iterator[Flaw]:
    try:
        resolve(step.step)
    except LookupError as error:
        yield Flaw((*loc, "step"), f"unknown protocol: {error.args[0]}")


def _rule_flaws(loc: Loc, node: Adaptive) -> Iterator[Flaw]:
    for index, rule in enumerate(node.rules):
        here = (*loc, "rules", index)
        yield from expression_flaws((*here, "when"), rule.when, "when")
        if rule.to != END and rule.to not in node.adaptive:
            yield Flaw((*here, "to"), f"no node '{rule.to}'; there are {', '.join(node.adaptive)} and {END}")
        if rule.after is not None and rule.after not in node.adaptive:
            yield Flaw((*here, "after"), f"no node '{rule.after}'; there are {', '.join(node.adaptive)}")
        for earlier in node.rules[:index]:
            if earlier.when.strip() == "true" and earlier.after in (None, rule.after):
                yield Flaw(here, f"can never match: the earlier rule to '{earlier.to}' always does")
                break


def _route_flaws(loc: Loc, node: Adaptive) -> Iterator[Flaw]:
    for name in (node.start, *node.jumps):
        if name not in node.adaptive:
            key = "start" if name == node.start else "jumps"
            yield Flaw((*loc, key), f"no node '{name}'; there are {', '.join(node.adaptive)}")
            return
    if all(rule.to != END for rule in node.rules):
        yield Flaw((*loc, "rules"), f"missing end: no rule leads to '{END}'")
        return
    reached = _reachable(node, [node.start, *node.jumps])
    for name in node.adaptive:
        if name not in reached:
            yield Flaw(
                (*loc, "adaptive", name),
                f"unreachable: no rule leads to '{name}' (a node reached only by goto belongs in `jumps`)",
            )
        elif END not in _reachable(node, [name]):
            circle = " → ".join([name, *_circle(node, name)])
            yield Flaw((*loc, "adaptive", name), f"cycle without an end: {circle}")


def _follow(node: Adaptive, name: str) -> list[str]:
    """Return the targets to which the rules may lead after `name`, in the order of the rules."""
    targets: list[str] = []
    for rule in node.rules:
        if rule.after in (None, name):
            targets.append(rule.to)
            if rule.when.strip() == "true":
                break
    return targets


def _reachable(node: Adaptive, starts: list[str]) -> set[str]:
    reached: set[str] = set()
    ahead = list(starts)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            if name in node.adaptive:
                ahead += _follow(node, name)
    return reached


def _circle(node: Adaptive, start: str) -> list[str]:
    """Return the nodes that follow `start` by the first rule of each, until one repeats."""
    seen, name = [start], start
    while targets := _follow(node, name):
        name = targets[0]
        seen.append(name)
        if name in seen[:-1]:
            break
    return seen[1:]
