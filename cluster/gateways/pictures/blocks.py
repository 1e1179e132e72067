"""The tree of a workflow as blocks: the content of a picture, in whatever format it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from ....protocols.json_forms import to_json
from ....protocols.printable import printable
from ....protocols.tree import (
    Adaptive,
    Hierarchy,
    Node,
    Parallel,
    Sequence,
    Sleep,
    Step,
    Wait,
    default_name,
    takers_back,
    time_limit_s,
)
from ....protocols.tree_parts import Constant
from ....protocols.values import Value
from ....supervisors.tasks.modes.hierarchical import LEAD
from ....supervisors.tasks.modes.waiting import AT_TIMEOUT

Kind: TypeAlias = Literal[
    "step", "lead", "constant", "sequence", "parallel", "each", "hierarchy", "adaptive", "wait", "sleep"
]
State: TypeAlias = Literal["", "open", "waiting", "retrying", "parked", "completed", "failed", "cancelled"]
"""The state of the runs of a node; "" if it has none."""
TEXT_CHARS = 48
"""Most characters of an expression, a reference or a constant in a picture. An ellipsis stands for the rest."""
LEAVES = frozenset({"step", "lead", "constant", "wait", "sleep"})


@dataclass(frozen=True, slots=True)
class Way:
    """A rule of an Adaptive, seen from the node after which it is tried."""

    source: int
    """The index among the children of the node after which the rule is tried."""
    target: int | None
    """The index of the node to which the rule leads; None is the end."""
    label: str


@dataclass(slots=True)
class Block:
    """One node of the tree."""

    id: str
    """An id of letters and digits, unique in the picture."""
    kind: Kind
    name: str
    path: str
    """The path of its runs, without the numbers of items, rounds and visits: `files[]/judge`."""
    about: list[str]
    """More lines about the node."""
    children: list[Block] = field(default_factory=list)
    """The blocks of the nodes inside. In a Hierarchy the supervising protocol comes first, then the team."""
    instead: list[Block] = field(default_factory=list)
    """The blocks that stand in for a failed one, one after another."""
    ways: list[Way] = field(default_factory=list)
    """The ways between the children of an Adaptive."""
    start: int = 0
    """The index of the first child of an Adaptive."""
    undoes: dict[str, str] = field(default_factory=dict)
    """The protocols that take the node back, by `undo` and `on_cancel`."""
    is_bare: bool = False
    """Whether this is the root and a Sequence with nothing to say about it, so that it needs no frame."""
    state: State = ""

    def walk(self) -> Iterator[Block]:
        yield self
        for block in (*self.children, *self.instead):
            yield from block.walk()

    @property
    def is_leaf(self) -> bool:
        return self.kind in LEAVES

    @property
    def lines(self) -> list[str]:
        """Return the lines of the block: first its name, with its kind if it has others in it."""
        kind = "" if self.is_leaf or self.name == self.kind else f" ({self.kind})"
        return [f"{self.name}{kind}", *self.about, *(f"{name}: {what}" for name, what in self.undoes.items())]


def blocks_of(root: Node, prefix: str = "") -> Block:
    """Return the blocks of a tree.

    Args:
        prefix: path of the root within the whole task, for the tree of a nested Hierarchy.
    """
    name = root.name or default_name(root)
    path = prefix or (name if isinstance(root, Step | Wait | Sleep) else "")
    block = _Blocks().of(root, name, path)
    block.is_bare = block.kind == "sequence" and not (root.name or block.about or block.instead or block.undoes)
    return block


class _Blocks:
    def __init__(self) -> None:
        self._count = 0

    def of(self, node: Node, name: str, path: str) -> Block:
        block = Block(self._id(), _kind(node), name, path, _about(node))
        block.undoes = {name: short(step.step) for name, step in takers_back(node).items()}
        block.children = list(self._children(node, path))
        if isinstance(node, Adaptive):
            block.ways, block.start = _ways(node), list(node.adaptive).index(node.start)
        if isinstance(node, Wait):
            block.instead += self._at_timeout(node, name, path)
        for number, fallback in enumerate(node.fallback, 1):
            label = f"fallback:{number}"
            stand_in = self.of(fallback, fallback.name or default_name(fallback), _join(path, label))
            if fallback.missing is not None:
                stand_in.about.append(f"without {short(fallback.missing)}")
            block.instead.append(stand_in)
        if node.otherwise is not None:
            block.instead.append(self._constant(node.otherwise, name, path))
        return block

    def _at_timeout(self, node: Wait, name: str, path: str) -> Iterator[Block]:
        if isinstance(node.on_timeout, Constant):
            yield Block(self._id(), "constant", _value(node.on_timeout.value), f"{path}:otherwise", [])
        for _, child in node.own_children():
            yield self.of(child, child.name or default_name(child), _join(path, AT_TIMEOUT))

    def _children(self, node: Node, path: str) -> Iterator[Block]:
        match node:
            case Step() | Wait() | Sleep():
                pass
            case Sequence():
                for child in node.sequence:
                    yield self.of(child, str(child.name), _join(path, str(child.name)))
            case Parallel():
                if node.do is not None:
                    yield self.of(node.do, node.do.name or default_name(node.do), f"{path}[]")
                for name, child in (node.parallel or {}).items():
                    yield self.of(child, name, _join(path, name))
            case Hierarchy():
                lead = self.of(node.hierarchy, LEAD, _join(path, LEAD))
                lead.kind = "lead"
                yield lead
                for name, child in node.team.items():
                    yield self.of(child, name, _join(path, name))
            case Adaptive():
                for name, child in node.adaptive.items():
                    yield self.of(child, name, _join(path, name))
            case _:
                assert_never(node)

    def _constant(self, constant: Constant, name: str, path: str) -> Block:
        lines = [f"without {short(constant.missing or name)}"]
        return Block(self._id(), "constant", _value(constant.value), f"{path}:otherwise", lines)

    def _id(self) -> str:
        self._count += 1
        return f"n{self._count}"


def short(text: str) -> str:
    """Return a text on one line, cut to TEXT_CHARS."""
    line = " ".join(printable(text).split())
    return line if len(line) <= TEXT_CHARS else f"{line[: TEXT_CHARS - 1]}…"


def _value(value: Value) -> str:
    return short(to_json(value))


def _kind(node: Node) -> Kind:
    match node:
        case Step():
            return "step"
        case Sequence():
            return "sequence"
        case Parallel():
            return "parallel" if node.do is None else "each"
        case Hierarchy():
            return "hierarchy"
        case Adaptive():
            return "adaptive"
        case Wait():
            return "wait"
        case Sleep():
            return "sleep"
        case _:
            assert_never(node)


def _about(node: Node) -> list[str]:
    lines = list(_settings(node))
    if (limit_s := time_limit_s(node)) is not None:
        lines.append(f"at most {limit_s:g} s")
    return lines


def _settings(node: Node) -> Iterator[str]:
    match node:
        case Step():
            yield short(node.step)
            if node.at_most_once:
                yield "at most once"
        case Sequence():
            pass
        case Parallel():
            if node.each is not None:
                yield f"for each of {short(node.each)}"
            if node.limit is not None:
                yield f"{node.limit} at a time"
            if node.join != "all":
                yield f"join: {node.join}"
        case Hierarchy():
            yield f"at most {node.max_rounds} rounds"
        case Wait():
            yield from _of_wait(node)
        case Sleep():
            span = node.sleep
            yield short(f"until {span.until}") if span.until is not None else f"for {short(_seconds(span.for_s))}"
        case Adaptive():
            if node.jumps:
                yield short(f"by goto: {', '.join(node.jumps)}")
        case _:
            assert_never(node)


def _of_wait(node: Wait) -> Iterator[str]:
    yield f"waits for {short(node.wait)}" if node.need == 1 else f"waits for {node.need} of {short(node.wait)}"
    if node.who:
        yield short(f"from {', '.join(node.who)}")


def _seconds(given: float | str | None) -> str:
    return given if isinstance(given, str) else f"{given:g} s"


def _ways(node: Adaptive) -> list[Way]:
    """Return the rules that may fit after each node, in the order in which they are tried."""
    places = {name: index for index, name in enumerate(node.adaptive)}
    ways = []
    for name, index in places.items():
        found: list[Way] = []
        for rule in node.rules:
            if rule.after not in (None, name):
                continue
            always = rule.when.strip() == "true"
            label = ("else" if found else "") if always else short(rule.when)
            found.append(Way(index, places.get(rule.to), label))
            if always:
                break
        ways += found
    return ways


def _join(path: str, label: str) -> str:
    return f"{path}/{label}" if path else label
