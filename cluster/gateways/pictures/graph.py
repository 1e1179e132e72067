"""The blocks of a workflow as a graph: points and boxes with lines between them, for languages that lay out themselves.

A node with others in it is a box. Lines in and out of a box end at points inside, because not every renderer has lines
that end at a box. Only the line to a stand-in, for when the node has failed, begins at the box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ....protocols.printable import one_line
from .blocks import Block, Kind, State

Shape: TypeAlias = Literal["step", "lead", "constant", "wait", "dot"]
ENDS = ("s", "t")
"""Ids of the points at which a task begins and ends."""


@dataclass(frozen=True, slots=True)
class Point:
    id: str
    lines: list[str]
    shape: Shape
    box: str | None
    """Id of the innermost box around it."""
    state: State = ""


@dataclass(frozen=True, slots=True)
class Box:
    id: str
    lines: list[str]
    kind: Kind
    box: str | None
    """Id of the box around it."""
    within: str
    """Id of a point in the box."""
    state: State = ""


@dataclass(frozen=True, slots=True)
class Line:
    source: str
    """Id of a point or a box."""
    target: str
    """Id of a point."""
    label: str = ""
    dashed: bool = False
    """Whether the line is taken only after a failure."""


@dataclass(slots=True)
class Graph:
    title: str
    points: list[Point] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    """The boxes, each after the one around it."""
    lines: list[Line] = field(default_factory=list)

    def by_box(self) -> dict[str | None, tuple[list[Point], list[Box]]]:
        """Return the points and boxes directly in each box; under None, those in no box."""
        found: dict[str | None, tuple[list[Point], list[Box]]] = {box.id: ([], []) for box in self.boxes}
        found[None] = ([], [])
        for point in self.points:
            found[point.box][0].append(point)
        for box in self.boxes:
            found[box.box][1].append(box)
        return found


_SHAPES: dict[Kind, Shape] = {"step": "step", "lead": "lead", "wait": "wait", "sleep": "wait"}
Contents: TypeAlias = dict[str | None, tuple[list[Point], list[Box]]]
Exit: TypeAlias = tuple[str, bool]
"""The point of an exit, and whether it is taken after a failure."""


def graph_of(root: Block, title: str) -> Graph:
    graph = Graph(one_line(title))
    builder = _Builder(graph)
    begin, end = ENDS
    graph.points += [Point(begin, ["start"], "dot", None), Point(end, ["end"], "dot", None)]
    entry, exits = builder.add(root, None)
    builder.join([(begin, False)], entry)
    builder.join(exits, end)
    return graph


class _Builder:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def add(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        """Put a block into a box. Return the point at which it begins, and its exits."""
        if block.is_bare:
            return self._chain(block, box)
        entry, exits = self._leaf(block, box) if block.is_leaf else self._box(block, box)
        failed = block.id
        for stand_in in block.instead:
            first, ends = self.add(stand_in, box)
            self._graph.lines.append(Line(failed, first, "fails", True))
            exits = [*exits, *((point, True) for point, _ in ends)]
            failed = stand_in.id
        return entry, exits

    def join(self, exits: Iterable[Exit], target: str, label: str = "") -> None:
        self._graph.lines += [Line(source, target, label, dashed) for source, dashed in exits]

    def _leaf(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        shape = _SHAPES.get(block.kind, "constant")
        self._graph.points.append(Point(block.id, block.lines, shape, box, block.state))
        return block.id, [(block.id, False)]

    def _box(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        place = len(self._graph.boxes)
        add = {"sequence": self._chain, "hierarchy": self._team, "adaptive": self._rules}.get(
            block.kind, self._branches
        )
        self._graph.boxes.append(Box(block.id, block.lines, block.kind, box, "", block.state))
        entry, exits = add(block, block.id)
        self._graph.boxes[place] = Box(block.id, block.lines, block.kind, box, entry, block.state)
        return entry, exits

    def _chain(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        (entry, exits), *others = [self.add(child, box) for child in block.children]
        for first, ends in others:
            self.join(exits, first)
            exits = ends
        return entry, exits

    def _branches(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        fork = self._dot(f"{block.id}f", "each" if block.kind == "each" else "fork", block)
        join = self._dot(f"{block.id}j", "join", block)
        for child in block.children:
            entry, exits = self.add(child, box)
            self.join([(fork, False)], entry, "each item" if block.kind == "each" else "")
            self.join(exits, join)
        return fork, [(join, False)]

    def _team(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        lead, *team = block.children
        first, decides = self.add(lead, box)
        for member in team:
            entry, exits = self.add(member, box)
            self.join(decides, entry, "assigns")
            self.join(exits, first, "outcome")
        return first, decides

    def _rules(self, block: Block, box: str | None) -> tuple[str, list[Exit]]:
        end = self._dot(f"{block.id}e", "end", block)
        added = [self.add(child, box) for child in block.children]
        for way in block.ways:
            target = end if way.target is None else added[way.target][0]
            self.join(added[way.source][1], target, way.label)
        return added[block.start][0], [(end, False)]

    def _dot(self, id: str, name: str, block: Block) -> str:
        self._graph.points.append(Point(id, [name], "dot", block.id))
        return id
