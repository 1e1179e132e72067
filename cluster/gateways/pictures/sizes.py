"""Computes the size of each block of a picture, and the places of the blocks in it. Units are pixels, y goes down.

A block has an *axis*: the x at which lines enter its top and leave its bottom. Its stand-ins (the fallbacks of its
node) are to the right of it. Its own left edge is always at x = 0, so that lines may begin and end there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from rich.cells import cell_len

from .blocks import Block, Way

CHAR, SMALL = 7.3, 6.1
"""Widths of a character of a block's text, and of a label's."""
LINE, PAD = 16.0, 12.0
GAP_X, GAP_Y = 22.0, 26.0
BUS = 20.0
"""Distance from a line along a row of blocks to the row."""
LANE = 12.0
"""Distance between lines beside each other."""
SLOT = 20.0
"""Distance between the ends of lines at the left edge of a block."""
SIDE = 60.0
"""Distance from a block to its stand-in."""
MERGE = 16.0
PORT = 16.0
"""Distance from the top of a block to the line that leads to its stand-in."""
DOT = 5.0
"""Radius of a dot."""
END_WIDTH, END_HEIGHT = 44.0, 24.0
ROW_WIDTH = 1_300.0
"""Largest width of a row of blocks. The blocks that do not fit go into further rows below."""

Spot: TypeAlias = tuple[float, float]


@dataclass(slots=True)
class Sized:
    """A block with its place in the block around it. `main` is the block without its stand-ins."""

    block: Block
    main_width: float
    main_height: float
    axis: float
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    children: list[Sized] = field(default_factory=list)
    instead: list[Sized] = field(default_factory=list)
    top: float = 0.0
    """The y at which the content begins, below the text."""
    rows: list[list[Sized]] = field(default_factory=list)
    """The rows of branches or of a team."""
    lanes: list[Lanes] = field(default_factory=list)
    """The lanes of an Adaptive: one. Empty for other blocks."""


@dataclass(slots=True)
class Lanes:
    """The lines of an Adaptive. Straight ones lead from a child to the one below, others run beside the children."""

    order: list[int]
    """Indexes of the children from top to bottom."""
    straight: list[Way]
    beside: list[Way]
    end: Spot = (0.0, 0.0)
    """Top left of the end of the Adaptive."""
    end_height: float = END_HEIGHT

    def slots(self, index: int | None) -> list[Way | None]:
        """Return the ways that need a place at the left edge of a child, or of the end (None). An item None stands for
        all ways that lead there."""
        comes = [None] if any(way.target == index for way in self.beside) else []
        return [*comes, *(way for way in self.beside if way.source == index)]

    @property
    def targets(self) -> list[int | None]:
        return list(dict.fromkeys(way.target for way in self.beside))


def text_width(lines: Iterable[str], char: float = CHAR) -> float:
    return max((cell_len(line) for line in lines), default=0) * char


def mark_width(block: Block) -> float:
    """Return the width of the state's mark before the name."""
    return 2 * CHAR if block.state else 0.0


def block_width(block: Block) -> float:
    """Return the width of the block's text."""
    first, *others = block.lines
    return max(mark_width(block) + text_width([first]), text_width(others))


def sized(block: Block, least: float = 0.0) -> Sized:
    """Return a block with sizes, its content and its stand-ins. The block is at least `least` high."""
    if block.is_leaf:
        height = max(len(block.lines) * LINE + PAD, least)
        found = Sized(block, block_width(block) + 2 * PAD, height, 0.0)
        found.axis = found.main_width / 2
    else:
        found = _group(block, least)
    return _with_instead(found)


def _group(block: Block, least: float) -> Sized:
    found = Sized(block, 0.0, 0.0, 0.0)
    pad = 0.0 if block.is_bare else PAD
    found.top = 0.0 if block.is_bare else len(block.lines) * LINE + pad
    size = {"sequence": _chain, "hierarchy": _team, "adaptive": _rules}.get(block.kind, _branches)
    width, height, axis = size(found)
    found.main_width = max(width, 0.0 if block.is_bare else block_width(block)) + 2 * pad
    shift = (found.main_width - width) / 2
    for child in found.children:
        child.x, child.y = child.x + shift, child.y + found.top
    for lanes in found.lanes:
        lanes.end = lanes.end[0] + shift, lanes.end[1] + found.top
    found.axis = axis + shift
    found.main_height = max(found.top + height + pad, least)
    return found


def _with_instead(found: Sized) -> Sized:
    found.width, found.height = found.main_width, found.main_height
    for block in found.block.instead:
        other = sized(block)
        other.x, found.width = found.width + SIDE, found.width + SIDE + other.width
        found.height = max(found.height, other.height)
        found.instead.append(other)
    if found.instead:
        found.height += MERGE
    return found


def _chain(found: Sized) -> tuple[float, float, float]:
    found.children = [sized(child) for child in found.block.children]
    return _stacked(found.children, GAP_Y, 0.0)


def _stacked(blocks: list[Sized], gap: float, y: float) -> tuple[float, float, float]:
    """Put blocks below each other with their axes in one line. Return width, height and the axis."""
    axis = max(block.axis for block in blocks)
    for block in blocks:
        block.x, block.y = axis - block.axis, y
        y += block.height + gap
    return max(block.x + block.width for block in blocks), y - gap, axis


def _branches(found: Sized) -> tuple[float, float, float]:
    found.children = [sized(child) for child in found.block.children]
    width, height = _in_rows(found, found.children, 2 * DOT + BUS / 2, 2 * BUS)
    return width, height + DOT, width / 2


def _team(found: Sized) -> tuple[float, float, float]:
    found.children = [sized(child) for child in found.block.children]
    lead, *team = found.children
    width, height = _in_rows(found, team, lead.height + BUS, BUS)
    axis = max(width / 2, lead.axis)
    lead.x = axis - lead.axis
    for member in team:
        member.x += axis - width / 2
    return max(axis + width / 2, lead.x + lead.width), height, axis


def _in_rows(found: Sized, blocks: list[Sized], y: float, below: float) -> tuple[float, float]:
    """Put blocks beside each other in rows, with room for a line above, and room of `below` for one below. Return the
    width and height of all rows."""
    rows: list[list[Sized]] = [[]]
    wide = 0.0
    for block in blocks:
        if rows[-1] and wide + block.width > ROW_WIDTH:
            rows.append([])
            wide = 0.0
        rows[-1].append(block)
        wide += block.width + GAP_X
    found.rows = rows
    side = 2 * LANE if len(rows) > 1 else 0.0
    widths = [sum(block.width for block in row) + GAP_X * (len(row) - 1) for row in rows]
    for row, width in zip(rows, widths, strict=True):
        x = side + (max(widths) - width) / 2
        for block in row:
            block.x, block.y = x, y + BUS
            x += block.width + GAP_X
        y += max(block.height for block in row) + below + BUS / 2
    return max(widths) + 2 * side, y


def _rules(found: Sized) -> tuple[float, float, float]:
    lanes = _lanes(found.block)
    found.lanes = [lanes]
    found.children = [
        sized(child, PAD + SLOT * len(lanes.slots(index))) for index, child in enumerate(found.block.children)
    ]
    ordered = [found.children[index] for index in lanes.order]
    width, height, axis = _stacked(ordered, GAP_Y + LINE, 2 * DOT + BUS)
    left = LANE * len(lanes.targets) + text_width((way.label for way in lanes.beside), SMALL) + 2 * LANE
    if not lanes.beside:
        left = 0.0
    for child in found.children:
        child.x += left
    axis += left
    lanes.end = axis - END_WIDTH / 2, height + GAP_Y + LINE
    lanes.end_height = max(END_HEIGHT, PAD + SLOT * len(lanes.slots(None)))
    beside = axis + LANE + text_width((way.label for way in lanes.straight), SMALL)
    return max(width + left, beside), lanes.end[1] + lanes.end_height, axis


def _lanes(block: Block) -> Lanes:
    order = _order(block)
    below: dict[int, int | None] = dict(zip(order, [*order[1:], None], strict=True))
    straight: list[Way] = []
    beside: list[Way] = []
    for way in block.ways:
        is_first = all(other.source != way.source for other in straight)
        (straight if is_first and below[way.source] == way.target else beside).append(way)
    return Lanes(order, straight, beside)


def _order(block: Block) -> list[int]:
    """Return the order of children: the start, then as rules lead to them, then the rest."""
    order = [block.start]
    for index in order:  # which grows meanwhile
        for way in block.ways:
            if way.source == index and way.target is not None and way.target not in order:
                order.append(way.target)
    return [*order, *(index for index in range(len(block.children)) if index not in order)]
