"""A graph as a Mermaid flowchart, which GitHub and many editors draw (mermaid.js.org, flowchart syntax)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .colours import COLOURS, GROUND
from .graph import Box, Contents, Graph, Point
from .states import WORDS

_SHAPES = {
    "step": ("[", "]"),
    "lead": ("[[", "]]"),
    "constant": ("[/", "/]"),
    "wait": ("{{", "}}"),
    "dot": ("([", "])"),
}
_PLAIN = frozenset(" _.:,=()+!?'…")
"""Characters that stand for themselves in a label, beside letters and digits."""


def mermaid(graph: Graph) -> str:
    """Return the text of the flowchart. Texts are shown, and never taken for syntax or markup."""
    lines = ["---", f'title: "{_title(graph.title)}"', "---", "flowchart TD"]
    lines += _inside(graph.by_box(), None, "    ")
    for line in graph.lines:
        arrow = "-.->" if line.dashed else "-->"
        label = f'|"{escaped(line.label)}"|' if line.label else ""
        lines.append(f"    {line.source} {arrow}{label} {line.target}")
    lines += _colours(graph.points, "") + _colours(graph.boxes, "_box")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a text with Mermaid's codes for each character that may be syntax to Mermaid or to the page around it."""
    coded = "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in text)
    return coded.replace(". ", "#46; ")  # "1. " would be a list


def _title(text: str) -> str:
    """Return a text of YAML. Names of workflows and ids of tasks have no quotes; versions may have some."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("<", "‹").replace(">", "›")


def _inside(contents: Contents, box: str | None, indent: str) -> Iterator[str]:
    points, boxes = contents[box]
    for point in points:
        left, right = _SHAPES[point.shape]
        yield f'{indent}{point.id}{left}"{_label(point)}"{right}'
    for inner in boxes:
        yield f'{indent}subgraph {inner.id}["{_label(inner)}"]'
        yield from _inside(contents, inner.id, f"{indent}    ")
        yield f"{indent}end"


def _label(what: Point | Box) -> str:
    mark = f"{WORDS[what.state][0]} " if what.state else ""
    return mark + "<br/>".join(map(escaped, what.lines))


def _colours(all_of_it: Sequence[Point | Box], suffix: str) -> list[str]:
    found = []
    for state, (surface, edge) in COLOURS.items():
        ids = [what.id for what in all_of_it if what.state == state]
        if ids and state:
            fill = GROUND if suffix else surface
            found.append(f"    classDef {state}{suffix} fill:{fill},stroke:{edge},color:#1f2328")
            found.append(f"    class {','.join(ids)} {state}{suffix}")
    return found
