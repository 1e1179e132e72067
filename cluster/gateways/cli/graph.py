"""`podium graph`: prints the tree of a workflow, or of a task with its state, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ....protocols.errors import NotFound
from ....protocols.workflow import Workflow
from ...loading import load_workflow
from ...store.stores import store_of
from ..pictures.blocks import Block, blocks_of
from ..pictures.dot import dot
from ..pictures.drawing import drawing_of
from ..pictures.graph import graph_of
from ..pictures.mermaid import mermaid
from ..pictures.states import place_of, put_states
from ..pictures.svg import svg
from .one_task import found_task, rows_of, settings_of
from .options import Data
from .terminal import say

Drawn = Annotated[
    str,
    typer.Argument(metavar="FILE|module:workflow|ID", help="A workflow, as `run` takes it, or the id of a task."),
]
Form = Annotated[
    Literal["mermaid", "svg", "dot"],
    typer.Option("-o", "--output", help="Text for Mermaid, a picture for a browser, or text for Graphviz."),
]


def graph(source: Drawn, data: Data = None, output: Form = "mermaid") -> None:
    """Print a workflow as a picture; a task with the state of each of its nodes."""
    is_task = _is_task(source)
    root, title = _of_task(source, data) if is_task else _of_workflow(source)
    match output:
        case "svg":
            say(svg(drawing_of(root, title), is_task))
        case "dot":
            say(dot(graph_of(root, title)))
        case "mermaid":
            say(mermaid(graph_of(root, title)))


def _is_task(source: str) -> bool:
    """Whether `source` is the id of a task: it begins with `t-`, and is neither a file nor `module:name`."""
    return source.startswith("t-") and ":" not in source and not Path(source).exists()


def _of_workflow(source: str) -> tuple[Block, str]:
    workflow = load_workflow(source)
    return blocks_of(workflow.root), f"{workflow.name}, version {workflow.version}"


def _of_task(typed: str, data: str | None) -> tuple[Block, str]:
    settings = settings_of(data)
    reader = store_of(settings.store).reader
    stored = found_task(reader, settings, typed)
    record, definition = stored.record, stored.definition
    if "root" not in definition:
        raise NotFound(what="definition of task", name=record.task_id)
    tree = Workflow.from_trusted({"name": definition["name"], "root": definition["root"]}).root
    root = blocks_of(tree, place_of(record.task_id.partition("/")[2]))
    parts = [stored, *reader.subtasks(record.task_id)]
    put_states(root, (row for part in parts for row in rows_of(part)), record)
    return root, f"{record.workflow} {record.task_id} {record.status}"
