"""`podium dead`: what failed or waits for a decision; driven again, or dropped, singly and in bulk."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from ....protocols.printable import one_line
from ....protocols.recovery import Category
from ...client.dead_letters import DeadLetter, dead_letters
from ...client.engine import connect
from ...config import load_settings
from ...store.contract import Reader
from ...store.ids import whole_id
from ...store.stores import store_of
from .options import Data, Output
from .terminal import Terminal, error_console, styled, to_json
from .view import local_time

dead = typer.Typer(
    help="Failed tasks and parked steps: list them, drive them again, or drop them.", no_args_is_help=True
)

Flow = Annotated[str | None, typer.Option("--workflow", help="Only of this workflow.")]
User = Annotated[str | None, typer.Option("--user", help="Only of this user.")]
Kind = Annotated[
    str | None, typer.Option("--category", help=f"Only of this category: {', '.join(get_args(Category))}.")
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `podium dead ls` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All that `podium dead ls` would show with the same options.")]
Most = Annotated[int, typer.Option("-n", "--limit", min=1, help="Most to show.")]


@dead.command("ls")
def list_letters(
    data: Data = None, workflow: Flow = None, user: User = None, category: Kind = None, limit: Most = 50,
    output: Output = "table",
) -> None:  # fmt: skip
    """List what failed or is parked, the newest first. No cluster is needed."""
    letters = _letters(data, workflow, user, category, limit)
    if output == "json":
        print(to_json([letter.to_json() for letter in letters]))
    elif letters:
        _print(letters)
    else:
        error_console().print("No dead letters.")


@dead.command("redrive")
def redrive(
    ids: Ids = None, every: All = False, data: Data = None, workflow: Flow = None, user: User = None,
    category: Kind = None, output: Output = "table",
) -> None:  # fmt: skip
    """Go on from where they failed, with everything that was recorded. Prints the ids of the tasks that run now."""
    chosen = _chosen(ids, every, data, workflow, user, category)
    with connect(data=data, source="cli") as engine:
        tasks = engine.redrive(chosen)
        joined = engine.joined
    print(to_json([task.id for task in tasks]) if output == "json" else "\n".join(task.id for task in tasks))
    _warn_of_old_trees(store_of(load_settings(data=data, source="cli").store).reader, [task.id for task in tasks])
    if tasks and not joined:
        error_console().print("Saved. No cluster is running: `podium up` starts one, and the tasks with it.")


@dead.command("drop")
def drop(
    ids: Ids = None, every: All = False, data: Data = None, workflow: Flow = None, user: User = None,
    category: Kind = None,
) -> None:  # fmt: skip
    """Give them up: failed tasks are not listed any more, parked steps fail."""
    chosen = _chosen(ids, every, data, workflow, user, category)
    with connect(data=data, source="cli") as engine:
        engine.drop(chosen)
    print(f"dropped {len(chosen)}")


def _warn_of_old_trees(reader: Reader, ids: list[str]) -> None:
    """Warn of redriven tasks whose workflow has another tree by now: they keep their own tree, and its code."""
    newest = {each["name"]: each.get("tree") or each["hash"] for each in reader.definitions()}
    old = []
    for id in ids:
        stored = reader.find_task(id)
        if stored is not None and stored.definition:
            tree = stored.definition.get("tree") or stored.definition.get("hash")
            old += [id] if newest.get(stored.record.workflow, tree) != tree else []
    if old:
        error_console().print(
            f"{len(old)} of them keep the tree that they were accepted with, and its code; the workflow has another by "
            "now: submit anew what is to go by that"
        )


def _letters(
    data: str | None, workflow: str | None, user: str | None, category: str | None, limit: int | None
) -> list[DeadLetter]:
    if category not in (None, *get_args(Category)):
        raise typer.BadParameter(f"'{category}' is none of {', '.join(get_args(Category))}", param_hint="--category")
    reader = store_of(load_settings(data=data, source="cli").store).reader
    return dead_letters(reader, workflow, user, category, limit)  # type: ignore[arg-type]


def _chosen(
    ids: list[str] | None, every: bool, data: str | None, workflow: str | None, user: str | None, category: str | None
) -> list[str]:
    if bool(ids) == every:
        raise typer.BadParameter("give either ids or --all", param_hint="ID...")
    if ids:
        reader = store_of(load_settings(data=data, source="cli").store).reader
        return [whole_id(reader, typed) for typed in ids]
    return [letter.id for letter in _letters(data, workflow, user, category, None)]


def _print(letters: list[DeadLetter]) -> None:
    """Print a header, and two lines for each letter: which task, and why."""
    console = Terminal()
    width = max(len(letter.id) for letter in letters)
    flow = max(len("workflow"), *(len(letter.record.workflow) for letter in letters))
    titles = f"{'letter':<{width}}  {'workflow':<{flow}}  {'status':<6}  {'category':<10}  since"
    console.print(titles, soft_wrap=True, style="bold")
    for letter in letters:
        record, failure = letter.record, letter.failure
        since = local_time(record.finished_at or record.accepted_at)
        head = f"{letter.id:<{width}}  {record.workflow:<{flow}}  {record.status:<6}  {letter.category:<10}  {since}"
        why = f"{failure.step}: {failure.message}".partition("\n")[0]
        console.print(one_line(head), soft_wrap=True)
        console.print(styled((f"  {why}", "dim")), no_wrap=True, overflow="ellipsis")
