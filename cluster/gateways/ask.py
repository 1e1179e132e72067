"""`podium ask` and `podium plan`: what they take; answering.py does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...protocols.requests.request import REQUEST_TYPES
from .options import Data, Output

Question = Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder that the question is about.")]
Type = Annotated[str | None, typer.Option("--type", help=f"One of {', '.join(REQUEST_TYPES)}, instead of routing it.")]
Session = Annotated[str | None, typer.Option("--session", help="Name of the conversation to go on with.")]
ToolNames = Annotated[list[str] | None, typer.Option("--tool", help="A tool to use (repeatable).")]
Attach = Annotated[list[Path] | None, typer.Option("--attach", help="A text file to send along (repeatable).")]
Schema = Annotated[Path | None, typer.Option("--schema", help="JSON Schema that the answer has to fit.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say how it was routed and planned, and what was degraded.")]
User = Annotated[str | None, typer.Option("--user", help="Who asks (default: the login name).")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait; the task goes on.")]


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
    user: User = None,
    timeout: Timeout = None,
) -> None:
    """Ask a question; the answer names its sources."""
    from .answering import Ask, answer  # noqa: PLC0415  (60 ms, and other commands do without)

    answer(Ask(question, root, type, session, tool or [], attach or [], schema), data, output, user, timeout, explain)


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
