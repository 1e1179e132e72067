"""Prints the journalled events of a task as a table: entry, time, kind, place, and a short form of the content."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ....protocols.printable import one_line
from ....protocols.values import Value
from ....supervisors.tasks.journalled import UNREADABLE, Journalled
from .terminal import Terminal, styled
from .value_text import json_with_parts, value_text
from .view import local_time, short

SHORTEST_CHARS = 40
"""Least width of an event's text, in characters. In a narrower terminal, lines are wider than the terminal."""
_STYLES = {
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "retrying": "yellow",
    "finished": "green",
    UNREADABLE: "red",
}


def print_events(rows: list[Journalled]) -> None:
    """Print one line for each event. A line that does not fit ends in an ellipsis; `-o json` has all of it."""
    console = Terminal()
    cells = [_cells(row) for row in rows]
    titles = ("entry", "time", "kind", "step", "attempt")
    widths = [max(len(title), *(len(row[at]) for row in cells)) for at, title in enumerate(titles)]
    room = max(SHORTEST_CHARS, console.width - sum(widths) - 2 * len(widths))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, width in zip(titles, widths, strict=True):
        right = "right" if title in ("entry", "attempt") else "left"
        table.add_column(title, no_wrap=True, min_width=width, justify=right)  # type: ignore[arg-type]
    table.add_column("says", no_wrap=True, overflow="ellipsis", max_width=room)
    for row, event in zip(cells, rows, strict=True):
        table.add_row(*row[:2], styled((row[2], _STYLES.get(event.kind, ""))), *row[3:])
    Terminal(width=max(console.width, sum(widths) + 2 * len(widths) + room)).print(table)


def _cells(row: Journalled) -> list[str]:
    at = "" if row.at is None else local_time(row.at)
    attempt = "" if row.attempt is None else str(row.attempt)
    return [str(row.entry), at, row.kind, one_line(row.step), attempt, one_line(_said(row))]


def _said(row: Journalled) -> str:
    says: dict[str, Any] = dict(row.says)
    match row.kind:
        case "accepted":
            return f"input {_value(says['input'])}"
        case "finished":
            lacks = f" (degraded: {', '.join(says['degraded'])})" if "degraded" in says else ""
            return f"{_value(says['output'])}{lacks}"
        case "failed" | "retrying":
            failure = says["failure"]
            again = f"; again {local_time(says['retry_at'])}" if row.kind == "retrying" else ""
            return f"{failure['kind'] or failure['code']}: {short(failure['message'])}{again}"
        case "emitted":
            cut = ", the last that is kept" if says["is_cut"] else ""
            return f"{_many(len(says['chunks']), 'chunk')}{cut}: {', '.join(map(_within, says['chunks']))}"
        case "relayed":
            return f"{_many(len(says['events']), 'event')} of a nested Hierarchy"
        case "answered":
            return f"'{says['name']}' by {says['by']} ({says['via']}): {_value(says['value'])}"
        case "asked" | "wait_below":
            about = f": {_value(says['show'])}" if says["show"] is not None else ""
            return f"'{says['name']}'{about}"
        case "held":
            return f"until {local_time(says['until'])}"
        case "unreadable":
            return f"{_many(says['bytes'], 'byte')}: {short(says['problem'])}"
        case _:
            return ", ".join(f"{name} {_plain(value)}" for name, value in says.items() if value not in (None, False))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else ", ".join(value) if isinstance(value, list) else f"{value:g}"


def _value(value: Value) -> str:
    """Return a value as text, cut to the length that may be shown."""
    return _cut(value_text(value))


def _within(value: Value) -> str:
    return _cut(json_with_parts(value))


def _cut(text: str) -> str:
    return text if len(text) <= 1_000 else f"{text[:1_000]}…"
