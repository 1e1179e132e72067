"""Ends actors on a machine that Ray drains, and tells when their processes are gone.

Nothing can be started on such a machine any more, so no helper of ours can end anything there. But Ray can, and its
raylet there reports each process that has exited. It notices that by the socket that the kernel closes when the last
thread of a process is gone.

Importing this module imports ray.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray._private.state import state
from ray._raylet import WorkerID
from ray.core.generated import gcs_pb2 as _gcs

gcs: Any = _gcs  # has no stubs


class There(NamedTuple):
    """An actor that lives, or lived, on a machine."""

    name: str
    worker: bytes
    """Ray's id of its process."""
    is_dead: bool
    """Whether Ray takes the actor for dead. Its process may still be there."""


def end_all(node: str, namespace: str, address: str, below: bool) -> bool:
    """Kill the actor of a name on a machine, or all whose names begin with it; returns whether all are gone.

    It blocks. Call it again until it returns True.
    """
    found = [each for each in _actors_on(node, namespace) if _is_meant(each.name, address, below)]
    for each in found:
        if not each.is_dead:
            with suppress(ValueError):  # it has died meanwhile
                ray.kill(ray.get_actor(each.name, namespace=namespace), no_restart=True)
    return all(_has_exited(each.worker) for each in found)


def _is_meant(name: str, address: str, below: bool) -> bool:
    return name.startswith(address) if below else name == address


def _actors_on(node: str, namespace: str) -> list[There]:
    rows = map(gcs.ActorTableData.FromString, _accessor().get_actor_table(None, None))
    return [
        There(row.name, row.address.worker_id, row.state == gcs.ActorTableData.DEAD)
        for row in rows
        if row.ray_namespace == namespace and row.address.node_id.hex() == node and row.address.worker_id
    ]


def _has_exited(worker: bytes) -> bool:
    found = _accessor().get_worker_info(WorkerID(worker))
    return found is not None and not gcs.WorkerTableData.FromString(found).is_alive


def _accessor() -> Any:
    return state._connect_and_get_accessor()
