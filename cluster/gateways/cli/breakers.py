"""`podium breakers`: shows which calls are refused, why and until when; opens and resets breakers by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import typer
from rich.table import Table

from ....protocols.printable import one_line
from ....supervisors.figures.status import BreakerStatus
from ...client.engine import connect
from .options import Data, Output, need_running
from .terminal import Terminal, styled, to_json

breakers = typer.Typer(help="Show the circuit breakers; `podium breakers open|reset NAME` moves one by hand.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The protocol's name, or with a key: 'model[large]'.")]

_STYLES = {"open": "red", "forced_open": "red", "half_open": "yellow"}


@breakers.callback(invoke_without_command=True)
def show(context: typer.Context, data: Data = None, output: Output = "table") -> None:
    """Show the breakers of the running cluster: those whose protocols were called, or that were moved by hand."""
    if context.invoked_subcommand is None:
        need_running(data)
        with connect(data=data, source="cli") as engine:
            found = engine.status().breakers
        _print(found, output)


@breakers.command("open")
def open_by_hand(name: Name, data: Data = None, output: Output = "table") -> None:
    """Refuse all calls until the breaker is reset, or the cluster ends."""
    _change(name, "open", data, output)


@breakers.command("reset")
def reset(name: Name, data: Data = None, output: Output = "table") -> None:
    """Let calls through again, with nothing counted."""
    _change(name, "reset", data, output)


def _change(name: str, action: Literal["open", "reset"], data: str | None, output: str) -> None:
    need_running(data)
    with connect(data=data, source="cli") as engine:
        found = engine.set_breaker(name, action)
    _print(found, output)


def _print(found: Mapping[str, BreakerStatus], output: str) -> None:
    if output == "json":
        print(to_json({name: breaker.to_json() for name, breaker in found.items()}))
    elif found:
        Terminal().print(breaker_table(found))
    else:
        print("No breakers yet: none of the protocols that were called has one.")


def breaker_table(found: Mapping[str, BreakerStatus]) -> Table:
    table = Table("breaker", "state", "calls", "failed", "slow", "why", box=None, pad_edge=False, header_style="bold")
    for name, breaker in found.items():
        left = "" if breaker.left_s is None else f", tries again in {breaker.left_s:.0f} s"
        counts = [str(count) for count in (breaker.calls, breaker.failed, breaker.slow)]
        shown = styled((breaker.state.replace("_", "-"), _STYLES.get(breaker.state, "")))
        table.add_row(one_line(name), shown, *counts, one_line(breaker.why + left))
    return table
