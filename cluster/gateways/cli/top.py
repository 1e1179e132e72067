"""`podium top` shows live what runs and waits; `podium metrics` gives the same figures to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ....protocols.printable import one_line
from ....supervisors.admission.admission import SHOW_USERS
from ....supervisors.figures.status import ClusterStatus, WorkflowStatus
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


@dataclass(frozen=True, slots=True)
class Look:
    """The state of the cluster when somebody looked."""

    status: ClusterStatus
    at: float
    """Time of the look, in seconds; only differences count."""


def top(data: Data = None, every: Every = 2.0, times: Times = None, output: Output = "table") -> None:
    """Watch workflows, queues and limits live, until `q` or Ctrl-C. With -o json a line per look."""
    try:
        if output == "json":
            for look in _looks(data, every, times):
                print(to_json({**look.status.to_json(), "at": look.at}, indent=None), flush=True)
        else:
            _show(_looks(data, every, times))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def metrics(data: Data = None) -> None:
    """Print the figures of the running cluster once, in the text format of Prometheus."""
    (look,) = _looks(data, 0.2, 1)
    print("\n".join(exposition(look.status)))


def _looks(data: str | None, every_s: float, times: int | None) -> Iterator[Look]:
    need_running(data)
    with connect(data=data, source="cli") as engine, waiting_for_quit() as quits_within:
        while True:
            yield Look(engine.status(), time.time())
            times = None if times is None else times - 1
            if times == 0 or quits_within(every_s):
                return


def _show(looks: Iterator[Look]) -> None:
    console = Terminal()
    before: Look | None = None
    with Live(console=console, auto_refresh=False) as live:
        for look in looks:
            live.update(picture(look, before, console.width), refresh=True)
            before = look


def picture(look: Look, before: Look | None, width: int = 120) -> Group:
    """Return one look of `podium top`. `width` is the width of the screen, in characters."""
    status = look.status
    head = Text(f"CPU {status.load.cpu:.0%}   memory {status.load.memory:.0%}", style="bold")
    moved = {name: breaker for name, breaker in status.breakers.items() if breaker.state != "closed"}
    shown = [breaker_table(moved)] if moved else []
    tables = [_workflows(look, before, width), use_table(status.quotas), *shown, *_users(status)]
    return Group(head, *warnings(status), *(part for table in tables for part in ("", table)))


def warnings(status: ClusterStatus) -> list[Text]:
    """Return the warnings: alerts, and lowered limits."""
    lines = [styled((f"alert '{alert.name}': {alert.rule}", "bold red")) for alert in status.alerts]
    throttle = status.throttle
    if throttle.factor < 1:
        lines.append(styled((f"limits are at {throttle.factor:.0%}: {throttle.changes[-1].reason}", "yellow")))
    return lines


def _users(status: ClusterStatus) -> list[Table]:
    """Return a table of the users with the most open tasks, if there are several users."""
    open_tasks: Counter[str] = Counter()
    for workflow in status.workflows.values():
        open_tasks.update(workflow.users)
    if len(open_tasks) < 2:
        return []
    table = Table("user", "open", box=None, pad_edge=False, header_style="bold")
    for user, count in open_tasks.most_common(SHOW_USERS):
        table.add_row(one_line(user), str(count))
    return [table]


def _workflows(look: Look, before: Look | None, width: int) -> Table:
    rows: list[list[str]] = []
    for name, workflow in look.status.workflows.items():
        pools = workflow.pools
        row = ["" if workflow.open is None else str(workflow.open)]
        row += [str(count) if pools else "" for count in (_running(workflow), _queued(workflow))]
        row.append(hosts_of(workflow))
        row += [_per_s(name, look, before), *_quantiles(workflow), _lag(workflow)]
        row.append("" if workflow.restarts is None else str(workflow.restarts))
        reason = f": {workflow.reason}" if workflow.reason else ""
        rows.append([one_line(name), one_line(workflow.state + reason), *row])
    return _table(rows, width)


def hosts_of(workflow: WorkflowStatus) -> str:
    """Return how many hosts run of those that there should be, with the bounds if they follow the work: `2/3 (1-8)`."""
    least, most = workflow.hosts_range
    bounds = "" if least == most else f" ({least}-{most})"
    return f"{workflow.hosts_up}/{workflow.hosts}{bounds}" if workflow.pools else ""


def _running(workflow: WorkflowStatus) -> int:
    return sum(pool.running for pool in workflow.pools)


def _queued(workflow: WorkflowStatus) -> int:
    return sum(pool.queued for pool in workflow.pools)


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


def _ended(look: Look, name: str) -> int:
    workflow = look.status.workflows.get(name)
    return sum(workflow.counts.tasks.values()) if workflow is not None and workflow.counts is not None else 0


def _per_s(name: str, look: Look, before: Look | None) -> str:
    if before is None:
        return ""
    return f"{max(0, _ended(look, name) - _ended(before, name)) / (look.at - before.at):.1f}"


def _lag(workflow: WorkflowStatus) -> str:
    return "" if workflow.load is None else f"{workflow.load.lag_s * 1000:.0f}"


def _quantiles(workflow: WorkflowStatus) -> list[str]:
    counts = workflow.counts
    bounds = [counts and counts.task_s.quantile_s(share) for share in (0.5, 0.99)]
    return ["" if bound is None else f"≤ {bound:g}" for bound in bounds]
