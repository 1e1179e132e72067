"""A client's session with a Ray cluster: that which Ray is initialised with, that of the data directory, or a new one.

A cluster on one machine needs its control store and its raylet. Without the control store, Ray ends every process after
a minute; without the raylet, it waits for ever. So the owner of the cluster and each client that joined watch it. When
the cluster is gone, the owner leaves Ray and starts another. Clients that had joined follow the owner, or take its
place if it died. Their pending results stay valid. A Ray cluster that was not started here is not repaired.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import psutil

from ...protocols.errors import DataInUse, EngineClosed, PodiumError, SpawnFailed
from ...protocols.workflow import Workflow
from ...supervisors.ports.messaging import Connection
from ...supervisors.ports.world import Needs
from ..blobs.installation import named
from ..client.definition import code_of
from ..config import Settings, prepare_ray
from ..engine_log import LOG
from ..session import COORDINATOR, coordinator_setup
from ..signals import keeping_sigterm
from ..store.address import StoreAddress, portable
from ..store.contract import Reader
from ..store.lock import DIES_WITHIN_S
from ..store.stores import store_of
from ..world import LoopWorld
from .claims import Claim, Facts, InRay, LocalClaim, claim_of
from .folder import new_folder, remove_folder
from .joining import check_joinable
from .machine import Membership

GUARD_S = 0.5
"""Time between two checks that the cluster still runs, in seconds."""
LEAVE_S = 60.0
"""Longest time that leaving a broken cluster may take, in seconds. Without its control store Ray needs about 7."""
STARTS = 2
"""Times that Ray is started, if it gives up its own start because that takes longer than its fixed 30 s."""
_TOO_SLOW = "timed out during startup"
"""A part of the error that Ray raises then."""
_PILLARS = ("gcs_server", "raylet")
"""Names of Ray's processes without which a cluster is lost."""


def _ray_is_initialised() -> bool:
    """Return whether the caller has initialised Ray already. Then Ray's settings are up to the caller."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _ray_is_theirs() -> bool:
    """Return whether the user has initialised Ray, and no session of ours."""
    return _ray_is_initialised() and not any(session._initialised_here for session in _OPEN)


def _not_about_sigterm(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


_OPEN: list[RaySession] = []
"""Open sessions of this process. They share its one Ray, and the last session leaves it."""


class RaySession:
    def __init__(self, settings: Settings, daemon: bool = False) -> None:
        self._settings, self._daemon = settings, daemon
        self._data = settings.data.resolve()
        self._place = settings.store._replace(folder=portable(self._data) if settings.database else str(self._data))
        self._namespace = f"podium-{hashlib.sha256(_installation(self._place).encode()).hexdigest()[:12]}"
        store = store_of(settings.store)
        self.reader: Reader = store.reader
        self._ownership = store.ownership()
        self._claim: Claim | None = None
        self._membership: Membership | None = None
        """The membership of this process in a cluster on many machines; None if there is only this machine."""
        self.on_rebuilt: Callable[[], None] = lambda: None
        self.on_closed: Callable[[PodiumError], None] = lambda _error: None
        self._initialised_here = False
        self._folder_of = self._data
        """The data directory whose `ray.folder` has the path of Ray's session."""
        self._address: str | None = None
        """Address of the control store of the cluster that this session is in."""
        self._pillars: list[psutil.Process] = []
        self._below_pillars: list[psutil.Process] = []
        """Processes that the pillars had started when the cluster stood. They may outlive the pillars for a minute."""
        self._aside = _Aside()
        self._guard: asyncio.Task[None] | None = None
        self._coordinator: Connection | None = None
        self._coordinator_is_lost = False
        self.joined = False
        self.world: LoopWorld
        self._ray_world: Any = None

    async def open(self) -> None:
        self._claim = await claim_of(self._settings, self._ownership, _ray_is_theirs())
        ours = not _ray_is_initialised()
        is_local = isinstance(self._claim, LocalClaim) and self._settings.address is None
        token = self._data / "ray.token" if is_local else None
        loopback = prepare_ray(token, self._settings.address) if ours else False
        import ray  # noqa: F401, PLC0415  (heavy: 0.5 s, and reading commands do without)

        from .actors import RayWorld, keep_quiet, take_environment_in  # noqa: PLC0415
        from .shutdown import forbid_auto_init  # noqa: PLC0415

        forbid_auto_init()
        if ours:
            take_environment_in(loopback)
            keep_quiet()
        self._place = await asyncio.to_thread(named, self._place)
        self._ray_world = self.world = RayWorld(f"client-{os.getpid()}", self._namespace, self._place)
        self._ray_world.is_cut_off = self._seems_gone
        await self._enter()
        _OPEN.append(self)
        if self._initialised_here or not self.joined:
            self._begin_to_look()

    def _begin_to_look(self) -> None:
        if self._guard is None:
            self._guard = self.world.loop.create_task(self._look_after())

    async def _enter(self) -> None:
        """Join the cluster of the data directory, or start it."""
        import ray  # noqa: PLC0415

        claim = self._claim
        if claim is None:
            claim = self._claim = await claim_of(self._settings, self._ownership, _ray_is_theirs())
        facts = await claim.take_or_facts()
        self.joined = facts is not None
        try:
            if not self.joined:
                remove_folder(self._data)  # of an owner that died
            if not ray.is_initialized():
                await self._aside.run(partial(keeping_sigterm, partial(self._init, facts)))
            here = ray.get_runtime_context()
            place = InRay(here.gcs_address, here.get_session_name(), here.get_node_id())
            self._address = place.address
            self._place = self._place._replace(node="" if self._place.url else place.node)
            if facts is not None and facts.session not in ("", place.session):
                facts, self.joined = None, False  # Ray began anew, and the cluster that was in it is gone
            if facts is None:
                facts = await self._begin(claim, place)
                self.joined = facts is not None
            if facts is None:
                await self._ray_world.presence.end_all()
                self._ray_world.use(self._membership, self._namespace, self._place)
                await self._start_coordinator()
                claim.stands(self._address, self._namespace, self._daemon)
                self.joined = self._membership is not None and self._membership.is_lasting  # it does without us
            else:
                self._membership = facts.membership
                store = self._place._replace(folder=facts.folder or self._place.folder)
                self._ray_world.use(facts.membership, facts.namespace or self._namespace, store)
        except BaseException:
            self._leave_ray()
            claim.release(in_order=False)
            raise

    async def _begin(self, claim: Claim, place: InRay) -> Facts | None:
        """Begin the cluster, or return how to join one that another process has just begun. Raises DataInUse."""
        begun: list[Membership | None] = []
        begin = partial(claim.begin, place, self._namespace, self._daemon)
        try:
            await self._aside.run(lambda: begun.append(begin()))
        except DataInUse:
            facts = await claim.take_or_facts()
            if facts is None or facts.session != place.session:
                raise
            return facts
        self._membership = begun[0]
        return None

    def _init(self, facts: Facts | None) -> None:
        """Join Ray, or start it. A start that Ray gives up, because the machine is too busy, is made again."""
        for left in reversed(range(STARTS)):
            try:
                self._init_once(facts)
                return
            except Exception as error:
                if not left or _TOO_SLOW not in str(error):
                    raise
                LOG.warning("Ray was too slow to start, and is started again: %s", error)
                self._leave_ray()

    def _init_once(self, facts: Facts | None) -> None:
        import ray  # noqa: PLC0415

        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": "ERROR",
            "namespace": self._namespace,
        }
        address = self._settings.address
        if facts is not None and (facts.membership is None or address is None):
            address = facts.address
        if facts is None and address is not None:
            check_joinable(address)
        self._initialised_here = True
        # Off the main thread Ray leaves SIGTERM alone, as we want, and warns about it, as nobody wants.
        logging.getLogger("ray._private.worker").addFilter(_not_about_sigterm)
        if address is not None:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise EngineClosed(reason=f"cannot join the Ray cluster at {address}: {error}") from error
            return
        from .lean_start import lean  # noqa: PLC0415  (imports ray)

        self._folder_of = self._data
        try:
            with lean():
                ray.init(
                    address="local",  # whatever other Ray there is, or the environment names
                    _temp_dir=str(new_folder(self._data)),
                    num_cpus=self._settings.num_cpus,
                    object_store_memory=self._settings.object_store_mb * 1024 * 1024,
                    include_dashboard=False,
                    **quiet,
                )
        finally:
            self._pillars = living_pillars()  # when it fails, Ray leaves what it had started
            self._below_pillars = _children(self._pillars)
        if len(self._pillars) < len(_PILLARS):
            raise EngineClosed(reason="the Ray cluster broke while it was starting")

    async def _look_after(self) -> None:
        """Watch the cluster as long as this session is open. When it is gone, go on in another.

        Its file is read in a thread, as the loop may be the caller's.
        """
        while True:
            await asyncio.sleep(GUARD_S)
            if self.joined and await self.world.in_thread(self._claimed.closed_in_order):
                self.on_closed(EngineClosed(reason="the cluster was shut down: connect again; tasks are kept"))
                return
            if not self.joined:
                await self._look_after_coordinator()
            if self._initialised_here and await self.world.in_thread(self._is_gone) and self._initialised_here:
                LOG.warning("the Ray cluster of %s is gone; going on in another", self._data)
                await self._rebuild()

    async def _look_after_coordinator(self) -> None:
        """Kill a coordinator that is silent. Ray restarts a dead coordinator, but does not notice a stopped one."""
        if self._coordinator is None:
            self._coordinator = self.line(COORDINATOR)
            self._coordinator.watch(self._coordinator_lost, self._settings.lease_s)
        elif self._coordinator_is_lost:
            self._coordinator, self._coordinator_is_lost = None, False
            await self._ray_world.presence.end(COORDINATOR)

    def _coordinator_lost(self, _error: PodiumError) -> None:
        self._coordinator_is_lost = True

    def _is_gone(self) -> bool:
        if not self.joined and self._membership is None:
            return not all(_lives(process) for process in self._pillars)
        return self._claimed.is_gone(self._address)

    def _seems_gone(self) -> bool:
        if not self.joined and self._membership is None:
            return self._is_gone()
        return self._claimed.seems_gone(self._address)

    @property
    def _claimed(self) -> Claim:
        assert self._claim is not None
        return self._claim

    async def _rebuild(self) -> None:
        """Leave Ray, kill the rest of the old cluster, and join or start another. Retries for as long as it takes."""
        while True:
            try:
                await asyncio.wait_for(self._aside.run(self._leave_ray), LEAVE_S)
                if not self._claimed.is_ours:
                    self._claim = None
                self._ray_world.forget()
                await self._enter()
            except Exception as error:
                LOG.warning("no cluster yet: %s", error)
                await asyncio.sleep(GUARD_S)
            else:
                self.on_rebuilt()
                return

    async def _start_coordinator(self) -> None:
        setup = coordinator_setup(self._settings)
        try:
            await self._ray_world.spawn("coordinator", COORDINATOR, setup, Needs())
        except SpawnFailed as error:
            if error.kind == "DataInUse":
                raise DataInUse(directory=str(self._data), holder=error.reason) from error
            raise

    def line(self, address: str) -> Connection:
        line: Connection = self._ray_world.line(address)
        return line

    def code_of(self, workflow: Workflow) -> dict[str, bytes]:
        from ray import cloudpickle  # noqa: PLC0415

        return code_of(workflow, cloudpickle.dumps)

    async def end_cluster(self) -> None:
        """End the cluster in order, and leave it, also if it lasts without this process."""
        await self._aside.run(self._claimed.announce_end)
        await self._ray_world.stop(COORDINATOR)

    async def close(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await self._aside.run(lambda: None)  # what the guard began in the thread comes to its end first
        if not self.joined:
            await self._ray_world.stop(COORDINATOR)
            await self._aside.run(self._claimed.announce_end)
        self._ray_world.release()
        if self in _OPEN:
            _OPEN.remove(self)
        if _OPEN and self._initialised_here:
            self._hand_ray_on(_OPEN[0])
        await self._aside.run(self._leave_ray)
        await self._aside.run(self._claimed.release)

    def _hand_ray_on(self, other: RaySession) -> None:
        """Give Ray to another session of this process, which then watches the cluster and leaves Ray in the end."""
        other._initialised_here, self._initialised_here = True, False
        other._pillars, other._below_pillars = self._pillars, self._below_pillars
        other._folder_of = self._folder_of
        self._pillars, self._below_pillars = [], []
        other.world.loop.call_soon_threadsafe(other._begin_to_look)

    def _leave_ray(self) -> None:
        if self._initialised_here:
            from .shutdown import leave_ray  # noqa: PLC0415  (imports ray)

            leave_ray()
            self._initialised_here = False
            self._end_pillars()
            if not self.joined:
                remove_folder(self._folder_of)

    def _end_pillars(self) -> None:
        for process in [*self._below_pillars, *_children(self._pillars), *self._pillars]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._pillars:  # our children; the dead among the others may be left to somebody who reaps none
            with suppress(psutil.TimeoutExpired):
                process.wait(DIES_WITHIN_S)
        self._pillars, self._below_pillars = [], []


def _installation(place: StoreAddress) -> str:
    """Return a name that no other installation in the same Ray cluster has. A directory belongs to one machine."""
    return f"{place.url} {place.schema}" if place.url else f"{os.uname().nodename}:{place.folder}"


def living_pillars() -> list[psutil.Process]:
    """Return the pillars among this process's children, without zombies, which Ray leaves after a cluster broke."""
    return [child for child in psutil.Process().children() if _lives(child) and child.name() in _PILLARS]


def _children(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            found += process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _Aside:
    """A thread for blocking calls to Ray, which lives as long as the process.

    The processes that Ray starts die with the thread that started them. An executor of the standard library would not
    do: it takes no work when the interpreter ends, and then a cluster must still be left in order.
    """

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work_off, name="podium-ray", daemon=True).start()

    async def run(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                loop.call_soon_threadsafe(settle, error)
            else:
                loop.call_soon_threadsafe(settle, None)

        self._works.put(guarded)
        await done

    def _work_off(self) -> None:
        while True:
            self._works.get()()
