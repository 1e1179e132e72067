"""A drawing as SVG: one file that shows the same everywhere, without scripts, fonts or styles from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from ....protocols.printable import printable
from .blocks import State
from .colours import COLOURS, GROUND
from .drawing import MARGIN, Drawing, Frame, Label, Path
from .sizes import CHAR, LINE, PAD, SMALL, Spot, mark_width, text_width
from .states import WORDS

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 cannot hold, not even as an escape."""
_INK, _SOFT, _WHITE = "#1f2328", "#57606a", "#ffffff"
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def svg(drawing: Drawing, states: bool = False) -> str:
    """Return the text of the file.

    Args:
        states: whether blocks have some, so that it says below what the marks mean.
    """
    height = drawing.height + (LINE + PAD if states else 0)
    legend = _legend(drawing.height) if states else ([], 0.0)
    width = max(drawing.width, legend[1])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{_FONT}" font-size="12" fill="{_INK}">',
        f"<title>{text(drawing.title)}</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="{_SOFT}"/></marker></defs>',
        f'<rect width="100%" height="100%" fill="{_WHITE}"/>',
        f'<text x="{MARGIN:.0f}" y="{MARGIN + 6:.0f}" font-weight="bold">{text(drawing.title)}</text>',
        *(line for frame in drawing.frames for line in _frame(frame)),
        *map(_path, drawing.paths),
        *map(_dot, drawing.dots),
        *(line for pill in drawing.pills for line in _pill(pill.x, pill.y, pill.width, pill.height, pill.text)),
        *(line for label in drawing.labels if label.text for line in _label(label)),
        *legend[0],
        "</svg>",
    ]
    return "\n".join(lines)


def text(words: str) -> str:
    """Escape words for an element or an attribute: they are shown, and never taken for markup."""
    return escape(_NO_XML.sub("\ufffd", printable(words)))


def _frame(frame: Frame) -> Iterator[str]:
    surface, edge = COLOURS[frame.block.state]
    leaf = frame.block.is_leaf
    style = f'rx="{6 if leaf else 10}" fill="{surface if leaf else GROUND}" stroke="{edge}"'
    if frame.block.kind == "constant":
        style += ' stroke-dasharray="2 3"'
    yield f'<g id="{frame.block.id}">'
    if frame.block.kind == "each":
        yield _rect(frame.x + 5, frame.y - 5, frame.width, frame.height, style)
    yield _rect(frame.x, frame.y, frame.width, frame.height, style)
    if frame.block.kind == "lead":
        yield _rect(frame.x + 3, frame.y + 3, frame.width - 6, frame.height - 6, f'rx="4" fill="none" stroke="{edge}"')
    for number, line in enumerate(frame.block.lines):
        colour = _INK if number == 0 else _SOFT
        weight = ' font-weight="bold"' if number == 0 and frame.block.kind != "constant" else ""
        x = frame.x + PAD + (mark_width(frame.block) if number == 0 else 0)
        y = frame.y + LINE * (number + 1) + 1
        yield f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{weight}>{text(line)}</text>'
    if frame.block.state:
        yield _mark(frame.x + PAD, frame.y + LINE + 1, frame.block.state)
    yield "</g>"


def _mark(x: float, y: float, state: State) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{COLOURS[state][1]}" font-weight="bold">{WORDS[state][0]}</text>'


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def _path(path: Path) -> str:
    spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in path.spots)
    style = f'fill="none" stroke="{_SOFT}" stroke-width="1.3"'
    style += ' stroke-dasharray="5 4"' if path.dashed else ""
    style += ' marker-end="url(#tip)"' if path.arrow else ""
    return f'<polyline points="{spots}" {style}/>'


def _dot(spot: Spot) -> str:
    return f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="4" fill="{_SOFT}"/>'


def _pill(x: float, y: float, width: float, height: float, words: str) -> Iterator[str]:
    yield _rect(x, y, width, height, f'rx="12" fill="{_WHITE}" stroke="{_SOFT}"')
    middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}" text-anchor="middle"'
    yield f'<text {middle} font-size="11" fill="{_SOFT}">{text(words)}</text>'


def _label(label: Label) -> Iterator[str]:
    """Yield the elements of a label, on a ground of its own in case it lies over a line."""
    width = text_width([label.text], SMALL)
    x = label.x - width if label.ends else label.x
    yield _rect(x - 1, label.y - 9, width + 2, 12, f'fill="{GROUND}" fill-opacity="0.85"')
    yield f'<text x="{x:.1f}" y="{label.y:.1f}" font-size="10" fill="{_SOFT}">{text(label.text)}</text>'


def _legend(y: float) -> tuple[list[str], float]:
    """Return the lines of the legend of the marks, and its width."""
    x, found = MARGIN, []
    for state, (_, word) in WORDS.items():
        found += [_mark(x, y, state), f'<text x="{x + 2 * CHAR:.1f}" y="{y:.1f}" fill="{_SOFT}">{word}</text>']
        x += CHAR * (len(word) + 5)
    return found, x + MARGIN
