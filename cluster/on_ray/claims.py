"""The claim of a session on an installation: to start its cluster, or to join the one that runs.

A cluster on one machine belongs to whoever holds the lock of the data directory (cluster_file.py). A cluster on many
machines is known by its row in the database (store/postgres/machines.py), so that any machine finds it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...protocols.errors import DataInUse, PodiumError
from ...protocols.values import pack
from ...supervisors.upkeep.machine_lease import MachineState
from ..cluster_file import ClusterFile, closed_in_order, holder, running_cluster
from ..config import Settings
from ..engine_log import LOG
from ..session import coordinator_setup
from ..store.address import portable
from ..store.contract import Ownership
from .machine import Membership
from .machine_state import MachineFiles, boottime
from .placement import check_home

STARTING_S = 60.0
"""Longest wait for a cluster that another process is starting, in seconds."""
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class InRay:
    """This process in a Ray cluster."""

    address: str
    """Address of the control store."""
    session: str
    """Name of this start of the Ray cluster."""
    node: str
    """Ray's id of this machine."""

    def replaced(self, facts: Mapping[str, Any]) -> bool:
        """Whether this Ray cluster stands where that of another cluster of ours stood, which is gone with it."""
        return facts.get("address") == self.address and facts.get("session") != self.session


@dataclass(frozen=True, slots=True)
class Facts:
    """How to join the cluster that runs."""

    address: str
    """Address of Ray's control store."""
    namespace: str = ""
    """Ray's namespace of the cluster's actors; "" for that of this session."""
    session: str = ""
    """Name of the start of the Ray cluster; "" if it does not matter."""
    folder: str = ""
    """The folder that each machine of the cluster has; "" for that of this session."""
    membership: Membership | None = None


class Claim(Protocol):
    async def take_or_facts(self) -> Facts | None:
        """Return None if we are to start the cluster, else how to join the one that runs. Raises DataInUse."""

    def begin(self, ray: InRay, namespace: str, is_lasting: bool) -> Membership | None:
        """Begin the cluster, in a Ray cluster. It may block. Raises DataInUse.

        Returns the membership of this process if the cluster can have many machines.
        """

    def stands(self, address: str, namespace: str, is_lasting: bool) -> None:
        """Tell others that they can join."""

    @property
    def is_ours(self) -> bool:
        """Whether this process holds it, so that nobody else can start the cluster."""

    def seems_gone(self, address: str | None) -> bool:
        """Whether the cluster that was joined at `address` runs no more, as far as can be told without waiting."""

    def is_gone(self, address: str | None) -> bool:
        """Whether the cluster that was joined at `address` runs no more. It may block."""

    def closed_in_order(self) -> bool:
        """Whether the cluster that was joined has ended in order. It may block."""

    def announce_end(self) -> None:
        """Tell clients that joined to leave, because the rest of the cluster ends now."""

    def release(self, in_order: bool = True) -> None:
        """Let another cluster start. It may block; it never raises."""


class LocalClaim:
    """The claim on a data directory, for a cluster that others can join only on this machine."""

    def __init__(self, data: Path, ownership: Ownership) -> None:
        self._data, self._file, self._ownership = data, ClusterFile(data), ownership

    async def take_or_facts(self) -> Facts | None:
        for _ in range(round(STARTING_S / _LOOK_S)):
            if self._file.is_ours or self._file.take():
                return None
            facts: Any = self._file.read()
            if facts is not None and facts["kind"] != "closed":
                if facts["kind"] == "inprocess":
                    raise DataInUse(directory=str(self._data), holder=holder(facts))
                return Facts(facts["address"])
            await asyncio.sleep(_LOOK_S)
        raise DataInUse(directory=str(self._data), holder="a cluster that does not finish starting")

    def begin(self, ray: InRay, namespace: str, is_lasting: bool) -> None:
        self._ownership.take()

    def stands(self, address: str, namespace: str, is_lasting: bool) -> None:
        self._file.write({"kind": "ray", "address": address, "namespace": namespace, "daemon": is_lasting})

    @property
    def is_ours(self) -> bool:
        return self._file.is_ours

    def seems_gone(self, address: str | None) -> bool:
        return self.is_gone(address)

    def is_gone(self, address: str | None) -> bool:
        facts = running_cluster(self._data)
        return facts is None or facts["kind"] == "closed" or facts.get("address", address) != address

    def closed_in_order(self) -> bool:
        return closed_in_order(self._data)

    def announce_end(self) -> None:
        self._file.announce_end()

    def release(self, in_order: bool = True) -> None:
        self._ownership.release()
        self._file.release(in_order)


class SharedClaim:
    """The claim on an installation in a database, for a cluster on many machines."""

    @property
    def is_ours(self) -> bool:
        return False

    def __init__(self, settings: Settings) -> None:
        from ..store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
        from ..store.postgres.machines import Machines  # noqa: PLC0415

        self._settings, self._place = settings, settings.store
        self._database = Database(self._place.url, self._place.schema, self._place.timeout_s)
        self._machines = Machines(self._database)
        self._generation = 0
        self._has_begun = False
        """Whether this process has begun the cluster."""
        self._files: MachineFiles

    async def take_or_facts(self) -> Facts | None:
        return await asyncio.to_thread(self._facts)

    def _facts(self) -> Facts | None:
        from ..store.postgres.lease import described, is_shared  # noqa: PLC0415

        claim = self._read()
        if claim is None or not claim.is_alive:
            return None
        if not is_shared(claim):
            raise DataInUse(directory=self._database.place, holder=described(claim))
        facts = claim.facts
        self._know(claim.generation, facts["folder"])
        membership = Membership(claim.generation, facts["daemon"], placement=facts.get("placement", ""))
        return Facts(facts["address"], facts["namespace"], facts["session"], facts["folder"], membership)

    def _know(self, generation: int, folder: str) -> None:
        self._generation, self._files = generation, MachineFiles(Path(folder).expanduser(), generation)

    async def runs(self) -> bool:
        """Whether a cluster on many machines has the database."""
        from ..store.postgres.lease import is_shared  # noqa: PLC0415

        claim = await asyncio.to_thread(self._read)
        return claim is not None and claim.is_alive and is_shared(claim)

    def _read(self) -> Any:
        from ..store.postgres.connecting import translated  # noqa: PLC0415
        from ..store.postgres.tables import prepare  # noqa: PLC0415

        with translated("*", self._database), self._database.connect() as db:
            prepare(db, self._database)
            return self._machines.claim(db)

    def begin(self, ray: InRay, namespace: str, is_lasting: bool) -> Membership:
        from ..store.postgres import lease  # noqa: PLC0415
        from ..store.postgres.machines import Member  # noqa: PLC0415

        placement = self._check_placement(ray)
        setup = base64.b64encode(pack(coordinator_setup(self._settings))).decode()
        folder = portable(self._settings.data.resolve())
        facts = {"kind": "ray", "address": ray.address, "session": ray.session, "namespace": namespace}
        facts["placement"] = placement
        home = Member(secrets.token_hex(8), lease.this_host(), ray.node, self._place.lease_s)
        all_facts = {**facts, "daemon": is_lasting, "folder": folder, "setup": setup, "pid": os.getpid()}
        generation = lease.begin(self._database, home, all_facts, lambda claim: ray.replaced(claim.facts))
        self._has_begun = True
        self._know(generation, folder)
        self._files.make()
        until = boottime() + self._place.lease_s / 2  # the row was renewed a moment ago
        self._files.write(MachineState(home.id, home.host, ray.node, self._generation, until, home=home.id))
        return Membership(self._generation, is_lasting, placement=placement)

    def _check_placement(self, ray: InRay) -> str:
        """Return where owners of tasks may live. Raises InvalidSetting if that is not on this machine."""
        placement = self._settings.placement or ""
        if placement:
            from .many_machines import all_nodes  # noqa: PLC0415  (imports ray)

            check_home(all_nodes(), ray.node, placement, self._settings.sources.get("placement", "default"))
        return placement

    def stands(self, address: str, namespace: str, is_lasting: bool) -> None:
        """Do nothing: the row of the cluster says it all."""

    def seems_gone(self, address: str | None) -> bool:
        state = self._files.read()
        return state is not None and bool(state.over)

    def is_gone(self, address: str | None) -> bool:
        """Ask the database only if the keeper of this machine does not know that all is well."""
        claim = self._read_if_unsure()
        return claim is not None and (not claim.is_alive or claim.generation != self._generation)

    def closed_in_order(self) -> bool:
        claim = self._read_if_unsure()
        return claim is not None and claim.generation == self._generation and claim.facts["kind"] == "closed"

    def _read_if_unsure(self) -> Any:
        state = self._files.read()
        if state is not None and not state.over and boottime() < state.until:
            return None
        try:
            return self._read()
        except PodiumError as error:
            LOG.warning("it is not known whether the cluster runs: %s", error)
            return None

    def announce_end(self) -> None:
        """Tell it to the database. If that is away, the machines leave by themselves, as nothing runs there."""
        from ..store.postgres.connecting import translated  # noqa: PLC0415

        try:
            with translated("*", self._database), self._database.connect() as db:
                self._machines.end(db, self._generation)
        except PodiumError as error:
            LOG.warning("the database is not told of the end of the cluster: %s", error)

    def release(self, in_order: bool = True) -> None:
        if self._has_begun and not in_order:
            self.announce_end()  # it did not start, and nobody is to join it
        self._has_begun = False


async def claim_of(settings: Settings, ownership: Ownership, ray_is_theirs: bool) -> Claim:
    """Return the claim for the cluster that the settings name, or the one on many machines that has their database.

    `ray_is_theirs`: whether the caller has initialised Ray already, perhaps in a cluster of many machines.
    """
    if settings.database is not None:
        shared = SharedClaim(settings)
        if settings.address is not None or ray_is_theirs or await shared.runs():
            return shared
    return LocalClaim(settings.data.resolve(), ownership)
