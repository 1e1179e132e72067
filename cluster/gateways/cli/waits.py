"""`podium waits` and `podium answer`: who is asked what, and the answers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ....protocols.errors import InvalidInput
from ....protocols.json_forms import to_json as any_as_json
from ....protocols.printable import one_line
from ....protocols.values import Value
from ...client.waits import OpenWait, open_waits
from ...config import load_settings
from ...store.ids import whole_id
from ...store.stores import store_of
from .form import ask_for
from .inputs import read_input, standard_input
from .one_task import engine_of
from .options import Data, Output
from .terminal import Terminal, error_console, styled, to_json
from .value_text import value_text
from .view import local_time

Flow = Annotated[str | None, typer.Option("--workflow", help="Only of this workflow.")]
Named = Annotated[str | None, typer.Option("--name", help="Only for answers of this name.")]
Answerer = Annotated[str | None, typer.Option("--for", metavar="USER", help="Only what this user may answer.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", help="group:NAME or role:NAME that the user is in (repeatable).")
]
Most = Annotated[int, typer.Option("-n", "--limit", min=1, help="Most to show.")]
SHOWN_CHARS = 300
"""Most characters that are shown of what an answer is about."""


def waits(
    data: Data = None, workflow: Flow = None, name: Named = None, answerer: Answerer = None, groups: Groups = None,
    limit: Most = 50, output: Output = "table",
) -> None:  # fmt: skip
    """List the answers that tasks wait for, the newest first. No cluster is needed."""
    reader = store_of(load_settings(data=data, source="cli").store).reader
    found = open_waits(reader, workflow, name, None, answerer, groups or [], limit)
    if output == "json":
        print(to_json([wait.to_json() for wait in found]))
    elif found:
        _print(found)
    else:
        error_console().print("No task waits for an answer.")


def answer(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Of a task; its beginning, if no other begins so.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of the answer, if it waits for several.")] = None,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="The answer, as JSON or text. In a terminal you are asked.")
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option("-i", "--input", help="k=v (repeatable), @file.json, or - for standard input.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who answers (default: the login name).")] = None,
    groups: Groups = None,
    id: Annotated[str | None, typer.Option("--id", help="Of the answer: the same id counts once.")] = None,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Answer a task that waits, or will wait. When this returns, the answer is durable."""
    settings = load_settings(data=data, user=by, source="cli")
    reader = store_of(settings.store).reader
    whole = whole_id(reader, task_id)
    asked = open_waits(reader, task_id=whole, limit=1000)
    wait = _chosen(whole, asked, name)
    given, digest = _given(wait, value, input), None if wait is None else wait.digest
    with engine_of(data, by) as engine:
        receipt = engine.answer(
            whole, name or (wait.name if wait else ""), given, groups=groups or [], id=id, digest=digest
        )
        joined = engine.joined
    if output == "json":
        print(to_json(receipt.to_json()))
    else:
        print("the task goes on" if receipt.is_over else "recorded" if receipt.path else "kept until it is waited for")
    if not joined:
        error_console().print("Saved. No cluster is running: `podium up` starts one, and the task with it.")


def _chosen(task_id: str, asked: list[OpenWait], name: str | None) -> OpenWait | None:
    """Return the open wait that is meant; None if the answer is early. Raises InvalidInput if it is not clear which."""
    if name is None:
        names = sorted({wait.name for wait in asked})
        if len(names) != 1:
            said = f"it waits for {', '.join(names)}: say which" if names else "it waits for nothing now: say the name"
            raise InvalidInput(problem=f"task {task_id}: {said}", path="NAME")
        name = names[0]
    fitting = [wait for wait in asked if wait.name == name]
    return min(fitting, key=lambda wait: wait.since) if fitting else None


def _given(wait: OpenWait | None, value: str | None, input: list[str] | None) -> Value:
    if value is not None and input:
        raise InvalidInput(problem="give either VALUE or --input", path="VALUE")
    if value is not None:
        return read_input([value], standard_input) if "=" not in value else value
    if input:
        return read_input(input, standard_input)
    if wait is not None and sys.stdin.isatty():
        return ask_for(wait)
    raise InvalidInput(problem="no answer is given: put it behind the name, such as true, or use --input", path="VALUE")


def _print(found: list[OpenWait]) -> None:
    """Print a header, and for each wait what it is about, who may answer, and how."""
    console = Terminal()
    wide = max(len(wait.task_id) for wait in found)
    flow = max(len("workflow"), *(len(wait.workflow) for wait in found))
    title = max(len("waits for"), *(len(_what(wait)) for wait in found))
    head = f"{'task':<{wide}}  {'workflow':<{flow}}  {'waits for':<{title}}  {'since':<14}  until"
    console.print(head, soft_wrap=True, style="bold")
    for wait in found:
        until = local_time(wait.until) if wait.until is not None else ""
        line = f"{wait.task_id:<{wide}}  {wait.workflow:<{flow}}  {_what(wait):<{title}}"
        console.print(one_line(f"{line}  {local_time(wait.since):<14}  {until}".rstrip()), soft_wrap=True)
        if wait.shown is not None:
            console.print(
                styled((f"  {value_text(wait.shown)[:SHOWN_CHARS]}", "dim")), no_wrap=True, overflow="ellipsis"
            )
        console.print(styled((f"  {_who(wait)}", "dim")), no_wrap=True, overflow="ellipsis")
        console.print(styled((f"  podium answer {wait.task_id} {wait.name} {_example(wait)}", "dim")), soft_wrap=True)


def _what(wait: OpenWait) -> str:
    count = f" ({wait.answers} of {wait.need})" if wait.need > 1 else ""
    return f"{wait.name}{count}"


def _who(wait: OpenWait) -> str:
    who = f"from {', '.join(wait.who)}" if wait.who else "from anybody"
    return f"{who} but {wait.user}" if wait.not_starter else who


def _example(wait: OpenWait) -> str:
    """Return what may stand in place of the answer: the choices that the schema gives, or its type."""
    schema = dict(wait.schema or {})
    if schema.get("type") == "boolean":
        return "true|false"
    if isinstance(schema.get("enum"), list):
        return "|".join(any_as_json(each) for each in schema["enum"][:6])
    if isinstance(schema.get("properties"), dict):
        return " ".join(f"-i {name}=…" for name in schema["properties"])
    kind = schema.get("type")
    return kind.upper() if isinstance(kind, str) else "VALUE"
