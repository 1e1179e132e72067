"""Formats tasks and their events for a terminal, as tables and lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from ....protocols.outcomes import TaskEvent, TaskRecord
from ....protocols.printable import one_line
from ....protocols.values import Value
from .terminal import Terminal, styled

MARKS = {
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "yellow"),
    "running": ("▶", "cyan"),
    "open": ("▶", "cyan"),
    "retrying": ("↻", "yellow"),
    "waiting": ("…", "magenta"),
    "parked": ("‖", "yellow"),
    "pending": ("·", "dim"),
    "stalled": ("!", "red"),
}
SQUEEZED = {"workflow": 8, "user": 8}
"""Least widths of the columns of `podium ps` that a narrow terminal squeezes, in characters."""


def print_tasks(records: list[TaskRecord], states: Mapping[str, str]) -> None:
    """Print a table of tasks. It takes 80 columns unless names are long. An id is never cut: in a terminal that is too
    narrow, lines are wider than the terminal.

    Args:
        states: of those that are requests, by task id.
    """
    console = Terminal()
    table = task_table(records, states, console.width)
    least = sum((column.min_width or 0) + 2 for column in table.columns) - 2
    Terminal(width=max(console.width, least)).print(table)


def task_table(records: list[TaskRecord], states: Mapping[str, str], width: int = 1_000) -> Table:
    """Return a table with one line per task. If `width` is too little, only names are cut."""
    prioritised = any(record.priority for record in records)
    titles = ("task", "workflow", "status", "user", *(["prio"] if prioritised else []), "accepted", "took")
    rows = [_cells(record, states.get(record.task_id, record.status), prioritised) for record in records]
    widths = {title: max([len(title), *(len(row[at]) for row in rows)]) for at, title in enumerate(titles)}
    over = sum(widths.values()) + 2 * (len(widths) - 1) - width
    for title, least in SQUEEZED.items():
        cut = max(0, min(over, widths[title] - least))
        widths[title], over = widths[title] - cut, over - cut
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=widths[title], max_width=widths[title])
    for row in rows:
        table.add_row(*row)
    return table


def _cells(record: TaskRecord, state: str, prioritised: bool) -> list[str | Text]:
    mark = styled(MARKS[record.status], f" {state if record.status == 'running' else record.status}")
    took = seconds((record.finished_at or time.time()) - record.accepted_at) + ("" if record.finished_at else " so far")
    priority: list[str | Text] = [str(record.priority)] if prioritised else []
    who: list[str | Text] = [record.task_id, one_line(record.workflow), mark, one_line(record.user)]
    return [*who, *priority, local_time(record.accepted_at), took]


def local_time(at: float) -> str:
    """Return the time of day, with the date before it unless that is today."""
    moment, today = datetime.fromtimestamp(at).astimezone(), datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%m-%d %H:%M:%S")


def clock_time(at: float) -> str:
    """Return the time of day."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def seconds(duration_s: float) -> str:
    if duration_s < 1:
        return f"{duration_s * 1000:.0f} ms"
    return f"{duration_s:.1f} s" if duration_s < 120 else f"{duration_s / 60:.1f} min"


def decide(event: TaskEvent) -> str:
    return f"parked: podium dead redrive {event.task_id}, or drop"


def said(event: TaskEvent) -> str:
    value: Value = event.value
    return str(value[1]) if event.kind == "log" else str(value)[:200]


def short(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= 100 else first[:99] + "…"


def event_line(event: TaskEvent) -> str:
    """Return an event as one plain line, for when standard error is not a terminal."""
    at = clock_time(event.at)
    place = f" {event.step}" if event.step else ""
    attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    more = f": {said(event)}" if event.kind in ("chunk", "log") else ""
    if event.kind == "parked":
        more = f": podium dead redrive {event.task_id}, or drop"
    if event.kind == "waiting":
        name = event.value.get("name") if isinstance(event.value, dict) else None
        more = f": podium answer {event.task_id} {name}" if name else ""
    if event.kind == "answered":
        more = f": '{event.value['name']}' by {event.value['by']}"
    if event.kind in ("failed", "retrying"):
        failure = event.value.get("failure", event.value)
        more = f": {failure['kind'] or failure['code']}: {short(failure['message'])}"
    return one_line(f"{at} {event.kind}{place}{attempt}{more}")


def why_wrong(event: TaskEvent) -> str:
    """Say why an attempt of a step failed, and when the next one came."""
    value: Any = event.value if isinstance(event.value, dict) else {}
    failure = value.get("failure", value)
    said = f": {failure['kind'] or failure['code']}: {short(failure['message'])}" if failure else ""
    again = f"; again {local_time(value['retry_at'])}" if value.get("retry_at") is not None else ""
    note = f" ({failure['note']})" if failure and failure.get("note") else ""
    ended = {"timed_out": "timed out", "lost": "was lost with its host"}.get(event.kind, "failed")
    return f"{event.step}: attempt {event.attempt} {ended} {local_time(event.at)}{said}{again}{note}"


def lack(why: dict[str, Any]) -> str:
    """Say why a part of a result is missing."""
    error = why["error"]
    others = f" (and {why['times'] - 1} more)" if why.get("times", 1) > 1 else ""
    return one_line(f"{why['step']}: {error['kind'] or error['code']}: {short(error['message'])}{others}")
