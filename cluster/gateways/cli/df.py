"""`podium df`: shows what takes the space, by workflow."""

from __future__ import annotations

from typing import NamedTuple

from rich.table import Table

from ....protocols.printable import one_line
from ...config import load_settings
from ...sizes import size_text
from ...space import Space, Unnamed, WorkflowSpace, space_of
from .options import Data, Output
from .terminal import Terminal, error_console, to_json

_TITLES = ("tasks", "journal", "blobs", "blob size", "total")
_SHORTEST_NAME = 12
"""Least width of the first column, in characters. In a terminal that is too narrow, lines are wider than it."""
_FOLDERS = {
    "drafts": "blobs that are being written",
    "logs": "logs",
    "protocols": "folders of protocols",
    "cache": "cache of blobs",
    "copies": "copies to remove at will",
}
"""The other parts of the folder, as they are called here."""


class _Row(NamedTuple):
    name: str
    tasks: str = ""
    journal: str = ""
    blobs: str = ""
    blob_size: str = ""
    total: str = ""
    style: str = ""


def df(data: Data = None, output: Output = "table") -> None:
    """Show what takes the space: journals and blobs by workflow, logs and other files. No cluster is needed.

    A blob that several workflows name counts in each, and once in totals.
    Of a database all rows are read, which may take long, and the files are
    those of this machine.
    """
    space = space_of(load_settings(data=data, source="cli").store)
    if output == "json":
        print(to_json(_facts(space)))
    else:
        _print(space)
        if sum(len(each.blobs) for each in space.workflows) > len(space.all.blobs):
            error_console().print("A blob that several workflows name counts in each, and once in totals.")
    if space.away:
        error_console().print(f"Blobs that no task names are not counted: {space.away}")


def _facts(space: Space) -> dict[str, object]:
    every = {name: fact for name, fact in space.all.to_json().items() if name != "workflow"}
    return {
        "workflows": [each.to_json() for each in space.workflows],
        "all": every,
        "unnamed": None if space.away else space.unnamed.to_json(),
        "doomed": None if space.away else space.doomed.to_json(),
        "notes_bytes": space.notes_bytes,
        **{f"{name}_bytes": size for name, size in space.folders.items()},
        "total_bytes": space.total_bytes,
        "free_bytes": space.free_bytes,
    }


def _print(space: Space) -> None:
    rows = [_of_workflow(each, one_line(each.workflow)) for each in space.workflows]
    if len(rows) > 1:
        rows.append(_of_workflow(space.all, "all workflows")._replace(style="bold"))
    rows += [_Row("")] if rows else []
    rows += _others(space)
    rows.append(_Row("total", total=size_text(space.total_bytes), style="bold"))
    rows.append(_Row("free on the disk", total=size_text(space.free_bytes)))
    _print_table(rows)


def _of_workflow(space: WorkflowSpace, name: str) -> _Row:
    blobs = (f"{len(space.blobs):,}", size_text(space.blob_bytes)) if space.blobs else ("", "")
    return _Row(name, f"{space.tasks:,}", size_text(space.journal_bytes), *blobs, size_text(space.total_bytes))


def _others(space: Space) -> list[_Row]:
    """Return the rows of what belongs to no workflow, the largest first. What takes nothing is left out."""
    found = [(size, _Row(_FOLDERS[name], total=size_text(size))) for name, size in space.folders.items()]
    notes = size_text(space.notes_bytes)
    found.append((space.notes_bytes, _Row("notes of the cluster", journal=notes, total=notes)))
    found.append(_of_unnamed("blobs that no task names", space.unnamed))
    found.append(_of_unnamed("blobs to be deleted soon", space.doomed))
    return [row for size, row in sorted(found, key=lambda each: -each[0]) if size]


def _of_unnamed(name: str, unnamed: Unnamed) -> tuple[int, _Row]:
    size = size_text(unnamed.blob_bytes)
    return unnamed.blob_bytes, _Row(name, blobs=f"{unnamed.blobs:,}", blob_size=size, total=size)


def _print_table(rows: list[_Row]) -> None:
    """Print one line for each row. If the terminal is narrow, only names are cut."""
    console, numbers = Terminal(), range(1, 1 + len(_TITLES))
    widths = [max(len(title), *(len(row[at]) for row in rows)) for at, title in zip(numbers, _TITLES, strict=True)]
    rest = sum(widths) + 2 * len(widths)
    longest = max(len(row.name) for row in rows)
    name_width = min(longest, max(_SHORTEST_NAME, console.width - rest))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workflow", no_wrap=True, overflow="ellipsis", min_width=name_width, max_width=name_width)
    for title, width in zip(_TITLES, widths, strict=True):
        table.add_column(title, no_wrap=True, justify="right", min_width=width)
    for row in rows:
        table.add_row(*row[:-1], style=row.style)
    Terminal(width=max(console.width, name_width + rest)).print(table)
