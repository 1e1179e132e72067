"""`podium workflows` lists deployed workflows, with definitions; `podium undeploy` takes one back."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.table import Table

from ....protocols.printable import one_line, printable
from ...client.deployed import DeployedWorkflow, deployed_workflow, deployed_workflows
from ...client.engine import connect
from ...config import load_settings
from ...store.stores import store_of
from .options import Data
from .terminal import Terminal, error_console, to_json

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one, to see its definition.")]
Form = Annotated[Literal["table", "yaml", "json"], typer.Option("-o", "--output", help="Form of the output.")]


def workflows(name: Name = None, data: Data = None, output: Form = "table") -> None:
    """List what is deployed; with a name, show its definition as YAML. No cluster is needed."""
    reader = store_of(load_settings(data=data, source="cli").store).reader
    found = deployed_workflows(reader) if name is None else [deployed_workflow(reader, name)]
    if output == "json":
        facts = [each.to_json() for each in found]
        print(to_json(facts if name is None else facts[0]))
    elif output == "yaml" or name is not None:
        print("---\n".join(printable(each.workflow.to_yaml()) for each in found), end="")
    elif found:
        Terminal().print(_table(found))
    else:
        error_console().print("No workflows.")


def undeploy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `podium workflows` shows it.")],
    data: Data = None,
    leave_open: Annotated[
        bool, typer.Option("--leave-open", help="Although tasks are open: they wait until it is deployed again.")
    ] = False,
) -> None:
    """Remove a workflow: its actors end, and it is neither listed nor published, until it is deployed again."""
    with connect(data=data, source="cli") as engine:
        engine.undeploy(name, leave_open=leave_open)
    error_console().print(one_line(f"Undeployed {name}."))


def _table(found: list[DeployedWorkflow]) -> Table:
    table = Table("workflow", "version", "hash", "open", "about", box=None, pad_edge=False, header_style="bold")
    for each in found:
        row = (each.name, each.version, each.hash[:12], str(each.open), each.description)
        table.add_row(*map(one_line, row))
    return table
