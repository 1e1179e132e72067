"""Options that several commands share, and the check for a cluster that they can join."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ....protocols.errors import EngineClosed
from ....protocols.outcomes import Criticality
from ...config import load_settings
from ...running import cluster_of

Data = Annotated[
    str | None, typer.Option("--data", help="Data directory (default: .podium), or URL of a database: postgresql://…")
]
Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="Form of the output.")]

Key = Annotated[str | None, typer.Option("--key", help="Submission key: the same key gives the same task.")]
Priority = Annotated[int, typer.Option("--priority", help="Higher goes first; below 0 is background.")]
Important = Annotated[Criticality, typer.Option("--criticality", help="What is sheddable is refused first.")]
User = Annotated[str | None, typer.Option("--user", help="Who submits (default: the login name).")]
TaskTimeout = Annotated[
    float | None, typer.Option("--task-timeout", help="Seconds in which the task has to end, or it fails.")
]
Delay = Annotated[float | None, typer.Option("--delay", help="Seconds from now to the start of the task.")]
NotBefore = Annotated[
    str | None, typer.Option("--not-before", metavar="TIME", help="When the task starts: 2027-01-31T09:00:00+01:00.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait; the task goes on.")]
Limits = Annotated[str | None, typer.Option("--limits", help="Permits per quota: llm=5,tool=10.")]
Address = Annotated[str | None, typer.Option("--address", help="A Ray cluster that runs already: auto, or HOST:PORT.")]
Placement = Annotated[
    str | None,
    typer.Option("--placement", help="Where supervisors may live: a label of Ray, tier=control, or a resource."),
]
InProcess = Annotated[bool, typer.Option("--in-process", help="Run in this process instead of on Ray.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on standard error but errors.")]


def is_running(data: str | None) -> bool:
    """Whether the cluster of the data directory runs, and can be joined from another process."""
    cluster = cluster_of(load_settings(data=data, source="cli").store)
    return cluster is not None and cluster["kind"] == "ray"


def need_running(data: str | None, hint: str = "`podium up` starts one") -> None:
    """Raise EngineClosed if there is no cluster to join."""
    if not is_running(data):
        raise EngineClosed(reason=f"no cluster is running: {hint}")
