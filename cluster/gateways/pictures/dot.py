"""A graph in the language of Graphviz (graphviz.org, the DOT language)."""

from __future__ import annotations

from collections.abc import Iterator

from .colours import COLOURS, GROUND
from .graph import Box, Contents, Graph, Point
from .states import WORDS

_SHAPES = {"step": "box", "lead": "box", "constant": "note", "wait": "hexagon", "dot": "oval"}


def dot(graph: Graph) -> str:
    """Return the text of the digraph."""
    lines = [
        "digraph workflow {",
        f"    graph [label={quoted(graph.title)}, labelloc=t, compound=true, fontname=sans]",
        '    node [fontname=sans, style="rounded,filled", fillcolor=white]',
        "    edge [fontname=sans, fontsize=10]",
        *_inside(graph.by_box(), None, "    "),
    ]
    within = {box.id: box.within for box in graph.boxes}
    for line in graph.lines:
        says = [f"label={quoted(line.label)}"] if line.label else []
        says += ["style=dashed"] if line.dashed else []
        says += [f"ltail=cluster_{line.source}"] if line.source in within else []
        more = f" [{', '.join(says)}]" if says else ""
        lines.append(f"    {within.get(line.source, line.source)} -> {line.target}{more}")
    return "\n".join([*lines, "}"])


def quoted(text: str) -> str:
    """Return a string of DOT, whose only escapes are the ends of lines."""
    return '"{}"'.format(text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))


def _inside(contents: Contents, box: str | None, indent: str) -> Iterator[str]:
    points, boxes = contents[box]
    for point in points:
        style = ", peripheries=2" if point.shape == "lead" else ""
        yield f"{indent}{point.id} [shape={_SHAPES[point.shape]}, {_says(point)}{style}]"
    for inner in boxes:
        yield f"{indent}subgraph cluster_{inner.id} {{"
        yield f'{indent}    graph [style="rounded,filled", labeljust=l, {_says(inner)}]'
        yield from _inside(contents, inner.id, f"{indent}    ")
        yield f"{indent}}}"


def _says(what: Point | Box) -> str:
    surface, edge = COLOURS[what.state]
    surface = GROUND if isinstance(what, Box) else surface
    mark = f"{WORDS[what.state][0]} " if what.state else ""
    return f'label={quoted(mark + chr(10).join(what.lines))}, fillcolor="{surface}", color="{edge}"'
