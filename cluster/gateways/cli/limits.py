"""`podium limits`: shows the limits and their use, and changes them while everything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer
from rich.table import Table

from ....protocols.limits import Amount
from ....protocols.printable import one_line
from ....supervisors.figures.status import LimitUse
from ...client.engine import connect
from ...config import load_settings, parse_limits
from .options import Data, Output, is_running, need_running
from .terminal import Terminal, to_json

limits = typer.Typer(help="Show the limits and their use; `podium limits set llm=3` changes them.")

Changes = Annotated[
    list[str],
    typer.Argument(metavar="NAME=AMOUNT", help="llm=3, 'llm per user=1', 'tokens=90000/min burst 20000'."),
]


@limits.callback(invoke_without_command=True)
def show(context: typer.Context, data: Data = None, output: Output = "table") -> None:
    """Show the limits and their use; without a running cluster, what the next one starts with."""
    if context.invoked_subcommand is not None:
        return
    if is_running(data):
        with connect(data=data, source="cli") as engine:
            _print(engine.status().quotas, output)
        return
    written = load_settings(data=data, source="cli").limits
    if output == "json":
        print(to_json({name: {"limit": amount, "held": None, "waiting": None} for name, amount in written.items()}))
    else:
        Terminal().print(_table((name, str(amount), "", "") for name, amount in written.items()))


@limits.command("set")
def change(changes: Changes, data: Data = None, output: Output = "table") -> None:
    """Change limits of the running cluster, until it ends; running steps keep what they hold."""
    wanted: dict[str, Amount] = {}
    for text in changes:
        wanted |= parse_limits(text, f"argument {text!r}")
    need_running(data, "`podium up` starts one, or set limits in podium.toml")
    with connect(data=data, source="cli") as engine:
        uses = engine.set_limits(**wanted)
    _print(uses, output)


def _print(uses: Mapping[str, LimitUse], output: str) -> None:
    if output == "json":
        print(to_json({name: use.to_json() for name, use in uses.items()}))
    else:
        Terminal().print(use_table(uses))


def use_table(uses: Mapping[str, LimitUse]) -> Table:
    return _table((name, _amount(use), str(use.held), str(use.waiting)) for name, use in uses.items())


def _amount(use: LimitUse) -> str:
    if use.limit is None:
        return "not set"
    if use.now is not None:
        return f"{use.limit} (now {use.now})"
    return f"{use.limit}" if use.left is None else f"{use.limit} ({use.left} left)"


def _table(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    table = Table("limit", "amount", "held", "waiting", box=None, pad_edge=False, header_style="bold")
    for name, *cells in rows:
        table.add_row(one_line(name), *cells)
    return table
