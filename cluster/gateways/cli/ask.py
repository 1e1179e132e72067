"""`podium ask` and `podium plan`: the arguments of the commands; answering.py answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....protocols.requests.request import REQUEST_TYPES
from ...client.engine import Engine
from .one_task import engine_of
from .options import (
    Data,
    Important,
    InProcess,
    Key,
    Limits,
    Output,
    Priority,
    Quiet,
    TaskTimeout,
    Timeout,
    User,
    is_running,
)

Question = Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder that the question is about.")]
Type = Annotated[str | None, typer.Option("--type", help=f"One of {', '.join(REQUEST_TYPES)}, instead of routing it.")]
Session = Annotated[str | None, typer.Option("--session", help="Name of the conversation to go on with.")]
ToolNames = Annotated[list[str] | None, typer.Option("--tool", help="A tool to use (repeatable).")]
Attach = Annotated[list[Path] | None, typer.Option("--attach", help="A text file to send along (repeatable).")]
Schema = Annotated[Path | None, typer.Option("--schema", help="JSON Schema that the answer has to fit.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say how it was routed and planned, and what was degraded.")]


def ask(
    question: Question,
    root: Root = None,
    type: Type = None,
    session: Session = None,
    tool: ToolNames = None,
    attach: Attach = None,
    schema: Schema = None,
    explain: Explain = False,
    data: Data = None,
    output: Output = "table",
    key: Key = None,
    priority: Priority = 0,
    criticality: Important = "critical",
    task_timeout: TaskTimeout = None,
    user: User = None,
    timeout: Timeout = None,
    limits: Limits = None,
    in_process: InProcess = False,
    quiet: Quiet = False,
) -> None:
    """Ask a question; the answer names its sources."""
    from .answering import Ask, Manner, answer  # noqa: PLC0415  (60 ms, and other commands do without)

    asked = Ask(question, root, type, session, tool or [], attach or [], schema)
    submitted = {"key": key, "priority": priority, "criticality": criticality, "timeout_s": task_timeout}
    with engine_for(data, user, limits, in_process) as engine:
        answer(engine, asked, submitted, Manner(output, timeout, explain, quiet))


def engine_for(data: str | None, user: str | None, limits: str | None, in_process: bool) -> Engine:
    """Return the running cluster, or one in this process, whose first answer comes in a second."""
    return engine_of(data, user, limits, in_process or not is_running(data))


def plan(
    question: Question,
    root: Root = None,
    type: Type = None,
    session: Session = None,
    tool: ToolNames = None,
    data: Data = None,
    output: Output = "table",
    user: User = None,
) -> None:
    """Show what would become of a question, without running any of it."""
    from .answering import Ask, foresee  # noqa: PLC0415  (see above)

    foresee(Ask(question, root, type, session, tool or [], [], None), data, output, user)
