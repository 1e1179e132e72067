"""Where a client's cluster is: found, joined or started, and left again.

A data directory has one cluster at a time. Whoever starts one holds the lock file `cluster.lock` while it
lives and says in `cluster.json` how to join it; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..protocols.errors import DataInUse, EngineClosed, InvalidSetting, SpawnFailed
from ..protocols.workflow import Workflow
from ..supervisors.ports import Line, Needs
from .config import Settings, prepare_ray
from .definition import code_of
from .inprocess import Cell, CellWorld, InProcessCluster
from .store.lock import try_take
from .store.reading import FileReader, Reader
from .world import LoopWorld

COORDINATOR = "coordinator"


class Session(Protocol):
    """A client's hold on a cluster."""

    world: LoopWorld
    reader: Reader
    joined: bool
    """Whether the cluster was there before, so that it stays when this session closes."""

    async def open(self) -> None: ...

    def line(self, address: str) -> Line: ...

    def code_of(self, workflow: Workflow) -> dict[str, bytes]: ...

    async def close(self) -> None: ...


def new_session(settings: Settings, daemon: bool = False) -> Session:
    return InProcessSession(settings) if settings.cluster == "inprocess" else RaySession(settings, daemon)


def coordinator_setup(settings: Settings) -> dict[str, Any]:
    return {"settings": settings.governance().to_wire(), "limits": dict(settings.limits), "cold": True}


class ClusterFile:
    """`cluster.json` and its lock."""

    def __init__(self, data: Path) -> None:
        self._path, self._lock_path = data / "cluster.json", data / "cluster.lock"
        self._directory = data
        self._lock: int | None = None

    def take(self) -> bool:
        """Become the one whose cluster owns the directory; False if somebody is.

        Raises:
            InvalidSetting: the directory cannot be made or written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = try_take(self._lock_path)
            if lock is None:
                return False
            self._lock = lock
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self._directory, error) from error
        return True

    def write(self, facts: Mapping[str, Any]) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({**facts, "pid": os.getpid()}))
        draft.chmod(0o600)
        draft.rename(self._path)

    def read(self) -> dict[str, Any] | None:
        """What the owner wrote, or None if it has not yet. Meaningful only while `take` gives False."""
        try:
            facts: dict[str, Any] = json.loads(self._path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return facts

    def release(self) -> None:
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def _unusable(data: Path, error: OSError) -> InvalidSetting:
    problem = f"cannot be used: {error.strerror} ({error.filename})"
    return InvalidSetting(name="data", source=str(data), problem=problem)


def running_cluster(data: Path) -> dict[str, Any] | None:
    """How to join the cluster that owns `data`, or None if there is none. Changes nothing.

    Raises:
        InvalidSetting: we may not look.
    """
    if not data.is_dir():
        return None
    file = ClusterFile(data)
    if not (data / "cluster.lock").exists():
        return None
    try:
        lock = os.open(data / "cluster.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(data, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return file.read() or {"kind": "starting"}
    else:
        return None
    finally:
        os.close(lock)


class InProcessSession:
    """All actors in this process; nobody can join."""

    joined = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = ClusterFile(settings.data)
        self.reader: Reader = FileReader(settings.data)
        self._cluster: InProcessCluster
        self._cell: Cell
        self._client_world: CellWorld
        self.world: LoopWorld

    async def open(self) -> None:
        if not self._file.take():
            raise DataInUse(directory=str(self._settings.data), holder=_holder(self._file.read()))
        try:
            self._file.write({"kind": "inprocess"})
            self._cluster = InProcessCluster(self._settings.data)
            self._cell = Cell("client", None)
            self.world = self._client_world = CellWorld(self._cluster, self._cell)
            self._cell.world = self.world
            await self._cluster.spawn(None, "coordinator", COORDINATOR, coordinator_setup(self._settings))
        except BaseException:
            self._file.release()
            raise

    def line(self, address: str) -> Line:
        return self._client_world.line(address)

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        return {}

    async def close(self) -> None:
        await self._cluster.stop(COORDINATOR)
        self._cell.die("closed")
        self._file.release()


def _ray_is_initialised() -> bool:
    """Whether the caller uses Ray already; then everything about it is the caller's."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _not_about_sigterm(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


def _holder(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "another process"
    kind = "an in-process engine" if facts.get("kind") == "inprocess" else "a Ray cluster"
    return f"{kind} (process {facts.get('pid')})"


class RaySession:
    """A Ray cluster: the one that Ray is initialised with, the one of the data directory, or a new one."""

    def __init__(self, settings: Settings, daemon: bool = False) -> None:
        self._settings, self._daemon = settings, daemon
        self._data = settings.data.resolve()
        self._file = ClusterFile(self._data)
        self._namespace = "podium-" + hashlib.sha256(str(self._data).encode()).hexdigest()[:12]
        self.reader: Reader = FileReader(self._data)
        self._initialised_here = False
        self.joined = False
        self.world: LoopWorld
        self._ray_world: Any = None

    async def open(self) -> None:
        ours = not _ray_is_initialised()
        loopback = prepare_ray(self._data / "ray.token") if ours else False
        import ray  # noqa: PLC0415  (heavy: 0.5 s, and reading commands do without)

        from .on_ray import RayWorld, take_environment_in  # noqa: PLC0415

        if ours:
            take_environment_in(loopback)

        facts = await self._take_or_facts()
        self.joined = facts is not None
        try:
            if not ray.is_initialized():
                await asyncio.get_running_loop().run_in_executor(None, self._init, facts)
            self._ray_world = self.world = RayWorld(f"client-{os.getpid()}", self._namespace, self._data)
            if not self.joined:
                await self._start_coordinator()
                address = ray.get_runtime_context().gcs_address
                facts = {"kind": "ray", "address": address, "namespace": self._namespace}
                self._file.write({**facts, "daemon": self._daemon})
        except BaseException:
            self._leave_ray()
            self._file.release()
            raise

    async def _take_or_facts(self) -> dict[str, Any] | None:
        """None if the cluster is ours to start, else how to join the one that runs."""
        for _ in range(600):
            if self._file.take():
                return None
            facts = self._file.read()
            if facts is not None:
                if facts["kind"] != "ray":
                    raise DataInUse(directory=str(self._data), holder=_holder(facts))
                return facts
            await asyncio.sleep(0.1)
        raise DataInUse(directory=str(self._data), holder="a cluster that does not finish starting")

    def _init(self, facts: dict[str, Any] | None) -> None:
        import ray  # noqa: PLC0415

        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": "ERROR",
            "namespace": self._namespace,
        }
        address = facts["address"] if facts else self._settings.address
        self._initialised_here = True
        # Off the main thread Ray leaves SIGTERM alone, as we want, and warns about it, as nobody wants.
        logging.getLogger("ray._private.worker").addFilter(_not_about_sigterm)
        if address is not None:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise EngineClosed(reason=f"cannot join the Ray cluster at {address}: {error}") from error
            return
        ray.init(
            num_cpus=self._settings.num_cpus,
            object_store_memory=self._settings.object_store_mb * 1024 * 1024,
            include_dashboard=False,
            **quiet,
        )

    async def _start_coordinator(self) -> None:
        setup = coordinator_setup(self._settings)
        try:
            await self._ray_world.spawn("coordinator", COORDINATOR, setup, Needs())
        except SpawnFailed as error:
            if error.kind == "DataInUse":
                raise DataInUse(directory=str(self._data), holder=error.reason) from error
            raise

    def line(self, address: str) -> Line:
        line: Line = self._ray_world.line(address)
        return line

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        from ray import cloudpickle  # noqa: PLC0415

        return code_of(workflow, cloudpickle.dumps)

    async def close(self) -> None:
        if not self.joined:
            await self._ray_world.stop(COORDINATOR)
        self._ray_world.release()
        await asyncio.get_running_loop().run_in_executor(None, self._leave_ray)
        self._file.release()

    def _leave_ray(self) -> None:
        if self._initialised_here:
            import ray  # noqa: PLC0415

            ray.shutdown()
            self._initialised_here = False
