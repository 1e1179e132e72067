"""Ends actors on a machine that Ray drains, and tells when their processes are gone.

Nothing can be started on such a machine any more, so no helper of ours can end anything there. But Ray can, and its
raylet there reports each process that exits. It notices that by the socket that the kernel closes when the last thread
of a process is gone, or a moment earlier by the process's own word.

Importing this module imports ray.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray._private.state import state
from ray._raylet import WorkerID
from ray.core.generated import gcs_pb2 as _gcs

gcs: Any = _gcs  # has no stubs


GONE_S = 1.0
"""Seconds after the report of an exit after which the process is taken for gone."""


class There(NamedTuple):
    """An actor that lives, or lived, on a machine."""

    name: str
    worker: bytes
    """Ray's id of its process."""
    is_dead: bool
    """Whether Ray takes the actor for dead. Its process may still be there."""


class Exits:
    """The end of the actor of a name on a machine, or of all whose names begin with it."""

    def __init__(self, node: str, namespace: str, address: str, below: bool, gone: set[bytes] | None = None) -> None:
        """`gone` are processes that are known to be gone; further ones are added."""
        self._node, self._namespace, self._address, self._below = node, namespace, address, below
        self._gone = set() if gone is None else gone
        self.is_asked = False
        """Whether `end_all` was called."""
        self._exited_at: dict[bytes, float] = {}
        """By process: when its exit was first seen as reported."""

    def end_all(self) -> bool:
        """Kill the actors; returns whether all are gone. It blocks. Call it again until it returns True."""
        self.is_asked = True
        found = [each for each in _actors_on(self._node, self._namespace) if self._is_meant(each.name)]
        for each in found:
            if not each.is_dead:
                with suppress(ValueError):  # it has died meanwhile
                    ray.kill(ray.get_actor(each.name, namespace=self._namespace), no_restart=True)
        is_gone = [self._is_gone(each) for each in found if each.worker not in self._gone]
        return all(is_gone)

    def _is_meant(self, name: str) -> bool:
        return name.startswith(self._address) if self._below else name == self._address

    def _is_gone(self, actor: There) -> bool:
        if not _has_exited(actor):
            return False
        now = time.monotonic()
        is_gone = now - self._exited_at.setdefault(actor.worker, now) >= GONE_S
        if is_gone:
            self._gone.add(actor.worker)
        return is_gone


def _actors_on(node: str, namespace: str) -> list[There]:
    rows = map(gcs.ActorTableData.FromString, _accessor().get_actor_table(None, None))
    return [
        There(row.name, row.address.worker_id, row.state == gcs.ActorTableData.DEAD)
        for row in rows
        if row.ray_namespace == namespace and row.address.node_id.hex() == node and row.address.worker_id
    ]


def _has_exited(actor: There) -> bool:
    """Whether the exit of an actor's process is reported. Ray forgets processes that exited long ago."""
    found = _accessor().get_worker_info(WorkerID(actor.worker))
    return actor.is_dead if found is None else not gcs.WorkerTableData.FromString(found).is_alive


def _accessor() -> Any:
    return state._connect_and_get_accessor()
