"""What several commands share: their options, and whether there is a cluster that they can join."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...protocols.errors import EngineClosed
from ..cluster_file import running_cluster
from ..config import load_settings

Data = Annotated[Path | None, typer.Option("--data", help="Data directory (default: .podium).")]
Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="Form of the output.")]


def is_running(data: Path | None) -> bool:
    """Whether the cluster of the data directory runs, and can be joined from another process."""
    cluster = running_cluster(load_settings(data=data, source="cli").data)
    return cluster is not None and cluster["kind"] == "ray"


def need_running(data: Path | None, hint: str = "`podium up` starts one") -> None:
    """Raise EngineClosed if there is no cluster to join."""
    if not is_running(data):
        raise EngineClosed(reason=f"no cluster is running: {hint}")
