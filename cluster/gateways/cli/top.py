"""`podium top` shows live what runs and waits; `podium metrics` gives the same figures to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ....protocols.printable import one_line
from ....supervisors.admission.admission import SHOW_USERS
from ....supervisors.figures.counters import quantile_s
from ...client.engine import connect
from .breakers import breaker_table
from .keys import waiting_for_quit
from .limits import use_table
from .metrics import exposition
from .options import Data, Output, need_running
from .terminal import Terminal, styled, to_json

Every = Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")]
_COLUMNS = (
    "workflow",
    "state",
    "open",
    "running",
    "queued",
    "hosts up",
    "ended/s",
    "p50 s",
    "p99 s",
    "lag ms",
    "restarts",
)
_DROPPED = ("lag ms", "restarts", "p50 s", "ended/s", "p99 s", "hosts up")
"""Columns that a narrow screen leaves out, in this order."""
_STATE_CHARS = 12
Times = Annotated[int | None, typer.Option("-n", "--times", min=1, help="Looks before it ends; without, for ever.")]


def top(data: Data = None, every: Every = 2.0, times: Times = None, output: Output = "table") -> None:
    """Watch workflows, queues and limits live, until `q` or Ctrl-C. With -o json a line per look."""
    try:
        if output == "json":
            for status in _looks(data, every, times):
                print(to_json(status, indent=None), flush=True)
        else:
            _show(_looks(data, every, times))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def metrics(data: Data = None) -> None:
    """Print the figures of the running cluster once, in the text format of Prometheus."""
    (status,) = _looks(data, 0.2, 1)
    print("\n".join(exposition(status)))


def _looks(data: Path | None, every_s: float, times: int | None) -> Iterator[dict[str, Any]]:
    need_running(data)
    with connect(data=data, source="cli") as engine, waiting_for_quit() as quits_within:
        while True:
            yield {**engine.status(), "at": time.time()}
            times = None if times is None else times - 1
            if times == 0 or quits_within(every_s):
                return


def _show(looks: Iterator[dict[str, Any]]) -> None:
    console = Terminal()
    before: dict[str, Any] | None = None
    with Live(console=console, auto_refresh=False) as live:
        for status in looks:
            live.update(picture(status, before, console.width), refresh=True)
            before = status


def picture(status: dict[str, Any], before: dict[str, Any] | None, width: int = 120) -> Group:
    """Return one look of `podium top`. `width` is the width of the screen, in characters."""
    load = status["load"]
    head = Text(f"CPU {load['cpu']:.0%}   memory {load['memory']:.0%}", style="bold")
    moved = {name: facts for name, facts in status["breakers"].items() if facts["state"] != "closed"}
    shown = [breaker_table(moved)] if moved else []
    tables = [_workflows(status, before, width), use_table(status["quotas"]), *shown, *_users(status)]
    return Group(head, *warnings(status), *(part for table in tables for part in ("", table)))


def warnings(status: dict[str, Any]) -> list[Text]:
    """Return the warnings: alerts, and lowered limits."""
    lines = [styled((f"alert '{each['name']}': {each['rule']}", "bold red")) for each in status["alerts"]]
    throttle = status["throttle"]
    if throttle["factor"] < 1:
        reason = throttle["changes"][-1]["reason"]
        lines.append(styled((f"limits are at {throttle['factor']:.0%}: {reason}", "yellow")))
    return lines


def _users(status: dict[str, Any]) -> list[Table]:
    """Return a table of the users with the most open tasks, if there are several users."""
    open_tasks: Counter[str] = Counter()
    for facts in status["workflows"].values():
        open_tasks.update(facts.get("users", {}))
    if len(open_tasks) < 2:
        return []
    table = Table("user", "open", box=None, pad_edge=False, header_style="bold")
    for user, count in open_tasks.most_common(SHOW_USERS):
        table.add_row(one_line(user), str(count))
    return [table]


def _workflows(status: dict[str, Any], before: dict[str, Any] | None, width: int) -> Table:
    rows: list[list[str]] = []
    for name, facts in status["workflows"].items():
        pools = facts.get("pools", [])
        row = [str(facts.get("open", ""))]
        row += [str(sum(pool[key] for pool in pools)) if pools else "" for key in ("running", "queued")]
        row.append(f"{sum(p['up'] for p in pools)}/{sum(p['hosts'] for p in pools)}" if pools else "")
        row += [_per_s(name, status, before), *_quantiles(facts), _lag(facts), str(facts.get("restarts", ""))]
        reason = f": {facts['reason']}" if facts.get("reason") else ""
        rows.append([one_line(name), one_line(facts["state"] + reason), *row])
    return _table(rows, width)


def _table(rows: list[list[str]], width: int) -> Table:
    """Return a table of as many columns as there is room for; no header and no number is cut."""
    columns = [(head, [row[index] for row in rows]) for index, head in enumerate(_COLUMNS)]
    dropped = iter(_DROPPED)
    while sum(_width(*column) + 2 for column in columns) > width + 2 and (least := next(dropped, None)):
        columns = [column for column in columns if column[0] != least]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, _ in columns:
        table.add_column(head, no_wrap=head not in ("workflow", "state"), overflow="fold")
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*cells)
    return table


def _width(head: str, cells: list[str]) -> int:
    """Return the width of a column, in characters. States fold, as they may be long."""
    longest = max(map(len, [head, *cells]))
    return min(longest, _STATE_CHARS) if head == "state" else longest


def _ended(status: dict[str, Any], name: str) -> int:
    return sum(status["workflows"].get(name, {}).get("counts", {}).get("tasks", {}).values())


def _per_s(name: str, status: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None:
        return ""
    return f"{max(0, _ended(status, name) - _ended(before, name)) / (status['at'] - before['at']):.1f}"


def _lag(facts: dict[str, Any]) -> str:
    return f"{facts['load']['lag_s'] * 1000:.0f}" if "load" in facts else ""


def _quantiles(facts: dict[str, Any]) -> list[str]:
    histogram = facts.get("counts", {}).get("task_s")
    bounds = [quantile_s(histogram, share) if histogram else None for share in (0.5, 0.99)]
    return ["" if bound is None else f"≤ {bound:g}" for bound in bounds]
