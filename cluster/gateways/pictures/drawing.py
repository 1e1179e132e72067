"""Places the frames, lines, dots and labels of a picture, by the sizes of the blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....protocols.printable import one_line
from .blocks import Block
from .sizes import (
    BUS,
    DOT,
    END_HEIGHT,
    END_WIDTH,
    GAP_Y,
    LANE,
    LINE,
    MERGE,
    PAD,
    PORT,
    SLOT,
    Lanes,
    Sized,
    Spot,
    sized,
    text_width,
)

MARGIN = 24.0


@dataclass(frozen=True, slots=True)
class Frame:
    """The outline of a block, with its text."""

    x: float
    y: float
    width: float
    height: float
    block: Block


@dataclass(frozen=True, slots=True)
class Path:
    """A line with corners."""

    spots: list[Spot]
    dashed: bool = False
    arrow: bool = True
    """Whether the line ends in an arrow."""


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    text: str
    ends: bool = False
    """Whether the text ends at x instead of beginning there."""


@dataclass(frozen=True, slots=True)
class Pill:
    """The mark of a beginning or an end."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(slots=True)
class Drawing:
    width: float
    height: float
    title: str
    frames: list[Frame] = field(default_factory=list)
    """The frames, outer ones first."""
    paths: list[Path] = field(default_factory=list)
    dots: list[Spot] = field(default_factory=list)
    pills: list[Pill] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def drawing_of(root: Block, title: str) -> Drawing:
    title = one_line(title)
    top = sized(root)
    x, y = MARGIN + max(0.0, END_WIDTH / 2 - top.axis), MARGIN + 2 * LINE
    axis = x + top.axis
    below = y + END_HEIGHT + GAP_Y
    end = below + top.height + GAP_Y
    width = max(x + top.width, axis + END_WIDTH / 2, MARGIN + text_width([title])) + MARGIN
    drawing = Drawing(width, end + END_HEIGHT + MARGIN, title)
    for text, at in (("start", y), ("end", end)):
        drawing.pills.append(Pill(axis - END_WIDTH / 2, at, END_WIDTH, END_HEIGHT, text))
    drawing.paths.append(Path([(axis, y + END_HEIGHT), (axis, below)]))
    drawing.paths.append(Path([(axis, below + top.height), (axis, end)]))
    _draw(drawing, top, x, below)
    return drawing


def _draw(drawing: Drawing, block: Sized, x: float, y: float) -> None:
    """Draw a block with its top left at x and y."""
    if not block.block.is_bare:
        drawing.frames.append(Frame(x, y, block.main_width, block.main_height, block.block))
    for child in block.children:
        _draw(drawing, child, x + child.x, y + child.y)
    if block.lanes:
        _draw_rules(drawing, block, block.lanes[0], x, y)
    elif block.block.kind == "hierarchy":
        _draw_team(drawing, block, x, y)
    elif block.rows:
        _draw_branches(drawing, block, x, y)
    else:
        _draw_chain(drawing, block, x, y)
    if block.instead:
        _draw_instead(drawing, block, x, y)


def _draw_chain(drawing: Drawing, block: Sized, x: float, y: float) -> None:
    for above, below in zip(block.children, block.children[1:], strict=False):
        drawing.paths.append(Path([_out(above, x, y), _into(below, x, y)]))


def _draw_branches(drawing: Drawing, block: Sized, x: float, y: float) -> None:
    bottom = y + block.main_height - PAD - DOT
    fork, join = (x + block.axis, y + block.top + DOT), (x + block.axis, bottom)
    drawing.dots += [fork, join]
    _spread(drawing, block, fork, x, y)
    for row in block.rows:
        outs = [_out(child, x, y) for child in row]
        line = max(out[1] for out in outs) + BUS / 2
        drawing.paths += [Path([out, (out[0], line)], arrow=False) for out in outs]
        end = join[0] if len(block.rows) == 1 else x + block.main_width - PAD - LANE / 2
        spots = [(min(end, outs[0][0]), line), (max(end, outs[-1][0]), line)]
        drawing.paths.append(Path(spots, arrow=False))
        way = [(end, line), join] if len(block.rows) == 1 else [(end, line), (end, bottom), join]
        drawing.paths.append(Path(way, arrow=False))


def _spread(drawing: Drawing, block: Sized, start: Spot, x: float, y: float, back: bool = False) -> None:
    """Draw lines from a spot above the rows of a block to all blocks in them."""
    for row in block.rows:
        ins = [_into(child, x, y) for child in row]
        line = min(at[1] for at in ins) - BUS
        begin = start[0] if len(block.rows) == 1 else x + PAD + LANE / 2
        trunk = [start, (begin, line)] if len(block.rows) == 1 else [start, (begin, start[1]), (begin, line)]
        drawing.paths.append(Path(trunk[::-1], arrow=back))
        drawing.paths.append(Path([(min(begin, ins[0][0]), line), (max(begin, ins[-1][0]), line)], arrow=False))
        drawing.paths += [Path([(at[0], line), at]) for at in ins]


def _draw_team(drawing: Drawing, block: Sized, x: float, y: float) -> None:
    lead = block.children[0]
    start = _out(lead, x, y)
    if len(block.rows) > 1:
        start = (start[0], start[1] + BUS / 4)
        drawing.paths.append(Path([start, _out(lead, x, y)]))
    _spread(drawing, block, start, x, y, back=len(block.rows) == 1)
    drawing.labels.append(Label(start[0] + LANE / 2, _out(lead, x, y)[1] + BUS * 0.7, "assigns, gets outcomes"))


def _draw_rules(drawing: Drawing, block: Sized, lanes: Lanes, x: float, y: float) -> None:
    axis = x + block.axis
    first = block.children[lanes.order[0]]
    dot = (axis, y + block.top + DOT)
    drawing.dots.append(dot)
    drawing.paths.append(Path([dot, _into(first, x, y)]))
    end = (x + lanes.end[0], y + lanes.end[1])
    drawing.pills.append(Pill(*end, END_WIDTH, lanes.end_height, "end"))
    drawing.paths.append(Path([(axis, end[1] + lanes.end_height), (axis, y + block.main_height)], arrow=False))
    for way in lanes.straight:
        begin = _out(block.children[way.source], x, y)
        to = (axis, end[1]) if way.target is None else _into(block.children[way.target], x, y)
        drawing.paths.append(Path([begin, to]))
        drawing.labels.append(Label(axis + LANE / 2, (begin[1] + to[1]) / 2 + 3, way.label))
    _draw_lanes(drawing, block, lanes, x, y, end)


def _draw_lanes(drawing: Drawing, block: Sized, lanes: Lanes, x: float, y: float, end: Spot) -> None:
    """Draw the ways that do not lead straight down. They leave at the left, and run along one line for each target."""
    left = x + min([child.x for child in block.children], default=0.0)
    beside = {target: x + PAD + LANE * (n + 0.5) for n, target in enumerate(lanes.targets)}
    spots = {
        (index, way): (at[0], at[1] + PAD / 2 + SLOT * (n + 0.7))
        for index, at in [*((i, (x + child.x, y + child.y)) for i, child in enumerate(block.children)), (None, end)]
        for n, way in enumerate(lanes.slots(index))
    }
    for target, lane in beside.items():
        to = spots[target, None]
        drawing.paths.append(Path([(lane, to[1]), to]))
    for way in lanes.beside:
        begin, lane, to = spots[way.source, way], beside[way.target], spots[way.target, None]
        drawing.paths.append(Path([begin, (lane, begin[1]), (lane, to[1])], arrow=False))
        drawing.labels.append(Label(min(begin[0], left) - LANE / 2, begin[1] - 4, way.label, ends=True))


def _draw_instead(drawing: Drawing, block: Sized, x: float, y: float) -> None:
    axis, merge = x + block.axis, y + block.height - MERGE / 2
    drawing.paths.append(Path([(axis, y + block.main_height), (axis, y + block.height)], arrow=False))
    begin = (x + block.main_width, y + PORT)
    for other in block.instead:
        _draw(drawing, other, x + other.x, y + other.y)
        drawing.paths.append(Path([begin, (x + other.x, begin[1])], dashed=True))
        drawing.labels.append(Label(begin[0] + LANE / 2, begin[1] - 4, "fails"))
        out = _out(other, x, y)
        drawing.paths.append(Path([out, (out[0], merge), (axis, merge)], dashed=True))
        begin = (x + other.x + other.width, begin[1])


def _out(block: Sized, x: float, y: float) -> Spot:
    return x + block.x + block.axis, y + block.y + block.height


def _into(block: Sized, x: float, y: float) -> Spot:
    return x + block.x + block.axis, y + block.y
