"""Coverage counters of the test bed: which faults struck whom, and which edges of the engine's states were taken.

A storm that never reaches an edge proves nothing about it; so a long run fails if one was never hit. The engine names
its edges itself (protocols/probes.py), and a simulation notes its faults.
"""

from __future__ import annotations

from collections import Counter
from functools import wraps
from typing import Any, get_args

from podium.protocols import probes
from podium.testing import Simulation

ROLES = ("host", "supervisor", "tier", "resources", "coordinator")
FAULTS = [
    "clock jumped",
    *(f"killed: {role}" for role in ROLES),
    *(f"stopped: {role}" for role in ROLES if role != "coordinator"),
    *(f"stopped out of reach: {role}" for role in ("supervisor", "tier", "resources")),
]
OF_MACHINES = {
    "LOSES ITS POWER": "machine without power",
    "IS DRAINED": "machine drained",
    "IS CUT OFF": "machine cut off",
    "IS CUT OFF FROM THE STORE": "machine cut off from the store",
    "DATABASE IS STOPPED": "database stopped",
}
EDGES: list[str] = [*FAULTS, *OF_MACHINES.values(), *get_args(probes.Edge)]
COUNTS: Counter[str] = Counter()


def role_of(address: str) -> str:
    """`supervisor/storm/work-0` is a host, `supervisor/storm/team` a tier."""
    if address in ("resources", "coordinator"):
        return address
    if address[-1].isdigit() and address[-2] == "-":
        return "host"
    return "supervisor" if address.count("/") == 1 else "tier"


def install() -> None:
    """Count from now on."""
    probes.listen(_count)
    if not hasattr(Simulation.note, "__wrapped__"):
        Simulation.note = _counted(Simulation.note)  # type: ignore[method-assign]


def _count(edge: str) -> None:
    COUNTS[edge] += 1


def _counted(note: Any) -> Any:
    @wraps(note)
    def counted(simulation: Simulation, actor: str, event: str, detail: object = "") -> None:
        match event:
            case "IS KILLED":
                COUNTS[f"killed: {role_of(actor)}"] += 1
            case "IS STOPPED":
                out_of_reach = " out of reach" if "out of reach" in str(detail) else ""
                COUNTS[f"stopped{out_of_reach}: {role_of(actor)}"] += 1
            case "CLOCK IS SET":
                COUNTS["clock jumped"] += 1
            case _ if event in OF_MACHINES:
                COUNTS[OF_MACHINES[event]] += 1
        note(simulation, actor, event, detail)

    return counted


def missed(on_machines: bool = False) -> list[str]:
    """Edges that were never taken. `on_machines`: only storms on several machines were run. There a process is out of
    reach only with its machine, and nobody takes its place before it has ended; so no commit meets the fence."""
    never = [edge for edge in EDGES if COUNTS[edge] <= 0]
    needs_zombies = [edge for edge in never if edge == "fenced" or edge.startswith("stopped out of reach")]
    return [edge for edge in never if not (on_machines and edge in needs_zombies)]


def table() -> str:
    width = max(map(len, EDGES))
    return "\n".join(f"{edge:<{width}}  {COUNTS[edge]:>10,}" for edge in EDGES)
