"""Finds, joins or starts the cluster of a client, and leaves it again.

This module has the session for a cluster inside the client's own process. For Ray see on_ray/session.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..protocols.errors import DataInUse, PodiumError
from ..protocols.workflow import Workflow
from ..supervisors.ports.messaging import Connection
from .blobs.installation import named
from .cluster_file import ClusterFile, holder
from .config import Settings
from .inprocess.cluster import Cell, CellWorld, InProcessCluster
from .store.contract import Reader
from .store.stores import store_of
from .world import LoopWorld

COORDINATOR = "coordinator"


class Session(Protocol):
    """A client's session with a cluster: finds or starts the cluster, and makes connections to its actors."""

    world: LoopWorld
    reader: Reader
    on_rebuilt: Callable[[], None]
    """Called when another cluster has replaced one that broke. All connections to the old cluster are dead."""
    on_closed: Callable[[PodiumError], None]
    """Called when the cluster that was joined has been shut down."""
    joined: bool
    """Whether the cluster ran before this session. Then it stays when the session closes."""

    async def open(self) -> None: ...

    def line(self, address: str) -> Connection: ...

    def code_of(self, workflow: Workflow) -> dict[str, bytes]: ...

    async def close(self) -> None: ...


def coordinator_setup(settings: Settings) -> dict[str, object]:
    return {"settings": settings.governance().to_wire(), "limits": dict(settings.limits), "cold": True}


class InProcessSession:
    """A session whose actors are all in this process. No other process can join."""

    joined = False
    on_rebuilt: Callable[[], None]
    on_closed: Callable[[PodiumError], None]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = ClusterFile(settings.data)
        store = store_of(settings.store)
        self.reader: Reader = store.reader
        self._ownership = store.ownership()
        self._cluster: InProcessCluster
        self._cell: Cell
        self._client_world: CellWorld
        self.world: LoopWorld

    async def open(self) -> None:
        if not self._file.take():
            raise DataInUse(directory=str(self._settings.data), holder=holder(self._file.read()))
        try:
            self._file.write({"kind": "inprocess"})
            await asyncio.to_thread(self._ownership.take)
            self._cluster = InProcessCluster(await asyncio.to_thread(named, self._settings.store))
            self._cell = Cell("client", None)
            self.world = self._client_world = CellWorld(self._cluster, self._cell)
            self._cell.world = self.world
            await self._cluster.spawn(None, "coordinator", COORDINATOR, coordinator_setup(self._settings))
        except BaseException:
            self._ownership.release()
            self._file.release(in_order=False)
            raise

    def line(self, address: str) -> Connection:
        return self._client_world.line(address)

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        return {}

    async def close(self) -> None:
        await self._cluster.stop(COORDINATOR)
        self._cell.die("closed")
        self._ownership.release()
        self._file.release()
