"""`podium status`: the settings in force with where they came from, and what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from ....protocols.errors import JournalFailed
from ....protocols.printable import one_line
from ....supervisors.figures.status import ClusterStatus
from ....supervisors.shards import workflow_of
from ...client.engine import connect
from ...client.holdups import blocked_hosts
from ...config import load_settings
from ...running import cluster_of
from ...store.address import StoreAddress, place_of
from ...store.stores import store_of
from .limits import use_table
from .options import Data, Output
from .terminal import Terminal, to_json
from .top import hosts_of, warnings

Every = Annotated[bool, typer.Option("--all", help="Settings at their defaults and versions out of use, too.")]


def status(data: Data = None, output: Output = "table", every: Every = False) -> None:
    """Show what runs, and the settings in force and where they came from."""
    settings = load_settings(data=data, source="cli")
    cluster, problem = _cluster(settings.store)
    running: ClusterStatus | None = None
    if cluster is not None and cluster["kind"] == "ray":
        with connect(data=data, source="cli") as engine:
            running = engine.status()
    values = settings.model_dump(mode="json", exclude={"sources"})
    if settings.database is not None:
        values["database"] = place_of(settings.database)  # without the password
    if output == "json":
        facts = {name: {"value": v, "source": settings.sources.get(name, "default")} for name, v in values.items()}
        shown = {"settings": facts, "cluster": cluster, "running": running and running.to_json()}
        print(to_json({**shown, "problem": problem} if problem else shown))
        return
    console = Terminal()
    if problem:
        console.print(f"It is not known what runs: {one_line(problem)}")
    else:
        _print_running(console, cluster, running, partial(_blocked_below, settings.store), every)
    console.print()
    _print_settings(console, values, settings.sources, every)


def _cluster(place: StoreAddress) -> tuple[dict[str, Any] | None, str]:
    """Return the cluster, and why that is not known; the settings are shown in any case."""
    try:
        return cluster_of(place), ""
    except JournalFailed as error:
        return None, str(error)


def _print_settings(console: Terminal, values: dict[str, object], sources: Mapping[str, str], every: bool) -> None:
    table = Table("setting", "value", "from", box=None, pad_edge=False, header_style="bold")
    for name, value in values.items():
        if every or name == "data" or (name in sources and name != "source"):
            shown = to_json(value, indent=None) if isinstance(value, dict) else str(value)
            table.add_row(name, one_line(shown), sources.get(name, "default"))
    console.print(table)
    if not every:
        console.print(f"{len(values) - table.row_count} more settings are at their defaults: --all", style="dim")


def _print_cluster(console: Terminal, cluster: Mapping[str, Any]) -> None:
    if "machines" not in cluster:
        console.print(f"Cluster: {cluster['kind']}, process {cluster.get('pid', '?')}")
        return
    console.print(f"Cluster: {cluster['kind']} at {cluster['address']}, {len(cluster['machines'])} machines")
    table = Table("machine", "lease", "", box=None, pad_edge=False, header_style="bold")
    for machine in cluster["machines"]:
        home = "has the coordinator" if machine["home"] else ""
        table.add_row(one_line(machine["host"]), f"{machine['lease_s']:.1f} s", home)
    console.print(table)


def _print_running(
    console: Terminal,
    cluster: dict[str, object] | None,
    running: ClusterStatus | None,
    blocked_below: Callable[[str], str] = lambda _shard: "",
    every: bool = False,
) -> None:
    if cluster is None:
        console.print("No cluster is running.")
        return
    _print_cluster(console, cluster)
    if running is None:
        return
    for warning in warnings(running):
        console.print(warning)
    workflows = Table("workflow", "state", "open", "waiting", "hosts up", box=None, pad_edge=False, header_style="bold")
    for name, workflow in running.workflows.items():
        hosts = hosts_of(workflow)
        why = workflow.reason or "; ".join(p.blocked for p in workflow.pools if p.blocked) or blocked_below(name)
        state = workflow.state + (f": {why}" if why else "")
        counts = ["" if count is None else str(count) for count in (workflow.open, workflow.waiting)]
        workflows.add_row(one_line(name), one_line(state), *counts, hosts)
    console.print(workflows)
    _print_versions(console, running, every)
    _print_stalled(console, running)
    console.print(use_table(running.quotas))


def _print_versions(console: Terminal, running: ClusterStatus, every: bool) -> None:
    """Print the fingerprints of the protocols of each version, or only of each version in use."""
    table = Table("code of", "version", "hash", "protocols", box=None, pad_edge=False, header_style="bold")
    for name, workflow in running.workflows.items():
        for version in workflow.versions:
            if not (every or version.in_force or version.has_open_tasks):
                continue
            code = ", ".join(f"{ref.rpartition(':')[2]} {print}" for ref, print in version.code.items())
            mark = "" if version.in_force else " (replaced)"
            table.add_row(one_line(name), one_line(version.version) + mark, version.hash[:12], one_line(code))
    if table.row_count:
        console.print(table)


def _print_stalled(console: Terminal, running: ClusterStatus) -> None:
    table = Table("stalled task", "of", "why", box=None, pad_edge=False, header_style="bold red")
    for name, workflow in running.workflows.items():
        for id, why in workflow.stalled.items():
            table.add_row(id, one_line(name), one_line(why))
    if table.row_count:
        console.print(table)


def _blocked_below(place: StoreAddress, shard: str) -> str:
    """Say which hosts of nested Hierarchies cannot start. The shard knows; the nested supervisors are not asked."""
    return "; ".join(blocked_hosts(store_of(place).reader.blocked(workflow_of(shard))))
