"""The machines on which the coordinator, the ResourceActor and the supervisors may live: `placement`. Pure.

A placement is a label of Ray's (`tier=control`), the name of a custom resource (`control`), or "" for all machines.
Machines are given as `ray.nodes()` describes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ...protocols.errors import InvalidSetting

Node: TypeAlias = Mapping[str, Any]


def suits(node: Node, placement: str) -> bool:
    name, is_label, value = placement.partition("=")
    if is_label:
        return bool(node.get("Labels", {}).get(name) == value)
    return not name or node.get("Resources", {}).get(name, 0) > 0


def check_home(nodes: Iterable[Node], here: str, placement: str, source: str) -> None:
    """Raise InvalidSetting if the coordinator may not live on this machine.

    Args:
        here: Ray's id of this machine.
        source: the place that the setting came from.
    """
    suited = [node for node in nodes if node["Alive"] and suits(node, placement)]
    if any(node["NodeID"] == here for node in suited):
        return
    names = sorted(str(node.get("NodeManagerHostname") or node["NodeID"]) for node in suited)
    option = f"--labels {placement}" if "=" in placement else f"--resources '{{\"{placement}\": 1}}'"
    hint = f"start Podium on one that has: {', '.join(names)}" if names else f"no machine has; `ray start … {option}`"
    raise InvalidSetting(name="placement", source=source, problem=f"this machine does not have '{placement}': {hint}")
