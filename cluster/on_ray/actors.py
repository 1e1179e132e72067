"""Actors on Ray: each of our actors runs in one Ray actor, is found by name, and gets its messages in frames.

Actors are spawned with `max_restarts=0` and die with the actor that spawned them, so a dead supervisor leaves no hosts
behind. Only the coordinator is detached, and restarted by Ray. Ray's own exceptions become PeerLost (gone for good) or
PeerUnreachable (may pass). Both mean that the outcome is unknown.

Importing this module imports ray. Code that must work without ray imports this module late.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import ray
from ray import cloudpickle
from ray._private import ray_constants, worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RuntimeEnvSetupError

from ...actors.exchange import ExchangeClient, Transport
from ...actors.exchange_server import ExchangeServer
from ...protocols.errors import ENVIRONMENT_FAILED, PeerLost, PeerUnreachable, SpawnFailed, Unknown
from ...protocols.protocol import ProtocolLike
from ...protocols.values import Value, pack, unpack
from ...supervisors.ports.messaging import Actor, Connection
from ...supervisors.ports.world import Environment, Needs, Role
from ..engine_log import LOG
from ..gc_tuning import pass_over_what_is_there, tune_process
from ..importing import importing
from ..presence import Presence
from ..store.address import StoreAddress
from ..world import LoopWorld, load_from_path, new_actor, new_event_loop
from .environments import put_packages_first, runtime_env_of, why_not_ready
from .folder import noted_folder
from .machine import LOOK_S, Machine, Membership
from .many_machines import DRAINING_S, MachineLost, ManyMachines, Place, has_a_process, live_nodes, on_node
from .node_blobs import blobs_on
from .process_locks import ProcessLocks
from .sockets import connect, listen

T = TypeVar("T")

STOP_S = 10.0
"""Seconds that an actor gets to end in order."""
END_AFTER_STOP_S = 0.5
"""Seconds for the answer to leave a process before the process ends itself."""
RAY_KILLS_S = 0.5
"""Seconds for a process to end by Ray's own kill. A stopped process does not notice that and then gets SIGKILL."""
KILL_WAIT_S = 30.0
"""Longest wait for a killed actor to be certainly gone, in seconds."""
START_S = 120.0
"""Longest wait for an actor to be placed and started, in seconds."""
STANDBY = "standby"
"""Address of the actor that starts the coordinator on the machine that becomes the home."""
OUTLIVE_OWNER: tuple[Role, ...] = ("coordinator", "standby")
"""Roles of actors that live on without the actor that spawned them."""
THREADS: dict[Role, int] = {"host": 8}
"""By role: calls that a threaded actor takes at once, each on a thread of Ray's of about 10 kB. Other roles are async
actors: at a supervisor, a call of every client, and of every actor above, waits all the time."""
SWITCH_S = 0.0005
"""Python's switch interval in actors that run only our own code, in seconds. It is a tenth of the default, because
the journal's thread would otherwise wait for a busy event loop at each of its statements."""
_SETUP_BYTES = 256 * 1024 * 1024


class Resident:
    """The Ray actor around one of ours. No I/O in `__init__`: a Ray actor whose `__init__` raises is lost."""

    def __init__(
        self,
        role: Role,
        address: str,
        namespace: str,
        place: tuple[Any, ...],
        epoch: int,
        setup: bytes,
        membership: tuple[int, bool, bool, str] | None,
    ) -> None:
        """`place`: the fields of a StoreAddress; `membership`: those of a Membership in a cluster of many machines."""
        self._role, self._address, self._namespace, self._place = role, address, namespace, StoreAddress(*place)
        self._epoch, self._setup = epoch, setup
        self._membership = None if membership is None else Membership(*membership)
        self._world: RayWorld
        self._starting: asyncio.Task[Value] | None = None
        self._actor: Actor
        self._far: ExchangeServer
        self._server: asyncio.AbstractServer
        """The server of the socket. A reference keeps it from being collected."""
        if self._membership is not None and ray.get_runtime_context().was_current_actor_reconstructed:
            self._begin()  # whoever spawned it may be on a machine that is lost

    async def start(self) -> bytes:
        """Start the actor inside, once. Every caller gets the same: packed ["ok", value] or ["fail", kind, reason]."""
        try:
            value = await asyncio.shield(self._begin())
            return pack(["ok", value, list(await self.place())])
        except Exception as error:
            LOG.error("%s did not start", self._address, exc_info=error)
            return pack(["fail", type(error).__name__, str(error)])

    def _begin(self) -> asyncio.Task[Value]:
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            if self._membership is not None and self._role == "coordinator":
                self._starting.add_done_callback(self._check_started)
        return self._starting

    def _check_started(self, starting: asyncio.Task[Value]) -> None:
        """End the process of a coordinator that did not start. Ray starts it again, since its starter may be gone."""
        if not starting.cancelled() and starting.exception() is not None:
            asyncio.get_running_loop().call_later(END_AFTER_STOP_S, os._exit, 70)

    async def _start(self) -> Value:
        if self._role != "host":
            tune_process()
            sys.setswitchinterval(SWITCH_S)
        else:
            put_packages_first()
        self._world = RayWorld(self._address, self._namespace, self._place, self._membership)
        self._world.presence.announce(self._address, self._epoch)
        await self._world.enter(self._role)
        self._actor = new_actor(self._role, self._world)
        self._far = ExchangeServer(self._actor.receive, f"{self._address}@{os.getpid()}.{time.time_ns()}")
        setup = unpack(self._setup, max_bytes=_SETUP_BYTES)
        if ray.get_runtime_context().was_current_actor_reconstructed:
            setup["cold"] = False
        value = await self._actor.start(setup)
        if self._role != "host":
            self._world.look_for_draining()
        pass_over_what_is_there()
        await self._listen()
        return value

    async def _listen(self) -> None:
        try:
            self._server = await listen(self._place.path, self._address, self._far.take_in)
        except OSError as error:
            LOG.warning("%s is reached by Ray's calls only: no socket, %s", self._address, error)

    async def exchange(self, frame: bytes) -> bytes:
        if self._starting is None or not self._starting.done():
            await self.start()
        return await self._far.exchange(frame)

    def take_in(self, frame: bytes, answer: Callable[[bytes], None]) -> None:
        """Do the same as `exchange`, with a callback for the answer. The actor must have been started."""
        self._far.take_in(frame, answer)

    async def stop(self) -> None:
        """Stop the actor, then end the process, because the caller may be gone before it can kill this one."""
        try:
            await self._actor.stop()
        finally:
            asyncio.get_running_loop().call_later(END_AFTER_STOP_S, os._exit, 0)

    async def ping(self) -> int:
        return os.getpid()

    async def place(self) -> tuple[str, str]:
        """Return where this actor lives, as the fields of a Place; two empty texts if there is one machine."""
        return ("", "") if self._world.many is None else self._world.many.here


class ThreadedResident:
    """The Ray actor around a protocol host: plain methods in front of an event loop that has its own thread.

    Users' code runs on that event loop. If it blocks the loop, Ray can still end the actor. Calls of plain methods are
    also 0.3 ms faster. A waiting call holds a thread, so this is only for actors that one other actor talks to.
    """

    def __init__(self, *arguments: Any) -> None:
        """Take the arguments of a Resident."""
        self._loop = new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="podium", daemon=True).start()
        self._inside = Resident(*arguments)

    def start(self) -> bytes:
        return self._wait(self._inside.start())

    def exchange(self, frame: bytes) -> bytes:
        answer: SimpleQueue[bytes] = SimpleQueue()
        self._loop.call_soon_threadsafe(self._inside.take_in, frame, answer.put)
        return answer.get()

    def stop(self) -> None:
        self._wait(self._inside.stop())

    def ping(self) -> int:
        return os.getpid()

    def place(self) -> tuple[str, str]:
        return self._wait(self._inside.place())

    def _wait(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class RayWorld(LoopWorld):
    """The world of an actor on Ray, and of a driver."""

    def __init__(self, address: str, namespace: str, place: StoreAddress, membership: Membership | None = None) -> None:
        super().__init__(address, place, _exit)
        if place.node and not place.blobs and place.node != ray.get_runtime_context().get_node_id():
            self.blobs = blobs_on(place)
        self._namespace = namespace
        self.many: ManyMachines | None = None
        """The other machines, if the cluster may have any."""
        self.presence: Presence
        self.join(membership)
        self._handles: dict[str, Any] = {}
        """Handles of spawned actors by address. A Ray actor lives as long as its owner holds a handle."""

        self.is_cut_off: Callable[[], bool] = lambda: False
        """Set by a driver: whether its cluster is gone. Else Ray would look for actors for a minute, on our loop."""

    def join(self, membership: Membership | None) -> None:
        """Take the cluster that this world belongs to; None if it has one machine only."""
        self._membership, self.many = membership, None
        self.presence = ProcessLocks(self.data, 0 if membership is None else membership.generation)
        if membership is not None:
            here = ray.get_runtime_context().get_node_id()
            may_be_home = not membership.placement or here in live_nodes(membership.placement)
            machine = Machine(self.place, membership, here, may_be_home)
            self.many = ManyMachines(machine, self.place, membership, here, self._namespace)

    def use(self, membership: Membership | None, namespace: str, place: StoreAddress) -> None:
        """Use a cluster as a client: be told of lost machines, and not be ended with this one's lease."""
        if self.many is not None:
            self.many.machine.release()
        self._namespace, self.place, self.data = namespace, place, place.path
        self.join(membership)
        if self.many is not None:
            self.many.machine.use()
            self.look_around()

    def release(self) -> None:
        super().release()
        if self.many is not None:
            self.many.machine.release()

    async def enter(self, role: Role) -> None:
        """Begin with the work of an actor, once this machine has a lease and nothing of a predecessor is left."""
        if self.many is None:
            return
        await self.many.machine.hold()
        if role != "host":
            await self.many.see_draining()
        if role != "host" and not self.many.is_first:
            below = "" if role == "coordinator" else f"{self.address}/"
            await self.presence.end_below(below)
            await self.many.end_below(below)
        self.look_around()

    def look_around(self) -> None:
        """Look for lost machines for as long as this world lives."""
        if self.many is None or self.crashed:
            return
        self.call_later(LOOK_S, self.look_around)  # first, so that an error of one look is not the end of looking
        self.many.look(self.spawn, self.background)

    def look_for_draining(self) -> None:
        """Tell this actor, from now on, of actors whose machine will be taken away."""
        if self.many is not None:
            self.background(self._look_for_draining(), "look for machines that leave")

    async def _look_for_draining(self) -> None:
        while self.many is not None and not self.crashed:
            await asyncio.sleep(DRAINING_S)
            leaving = await self.many.look_for_draining(self.address)
            if leaving:
                self.on_leaving(leaving)

    def forget(self) -> None:
        """Drop all handles. For a driver whose cluster is gone, and all actors with it."""
        self._handles.clear()

    def line(self, address: str) -> Connection:
        session = f"{self.address}@{os.getpid()}"
        wire, is_working = connect(self.data, address), self.presence.working(address)
        if wire is not None:
            return ExchangeClient(address, wire, session, hang_up=wire.close, is_working=is_working)
        handle = self._handles.get(address) or self._find(address)
        line = ExchangeClient(address, _call_to(address, handle), session, is_working=is_working)
        if self.many is not None:
            self.many.follow(line, address, handle)
        return line

    async def spawn(self, role: Role, address: str, setup: Mapping[str, object], needs: Needs) -> Value:
        await self.kill(address)
        if noted_folder(self.data) is not None:
            check_fits(address, needs, ray.nodes())  # type: ignore[no-untyped-call]
        environment = {} if needs.environment is None else await self._prepared(address, needs.environment)
        answer = await self._started(role, address, pack(setup), needs, environment)
        if answer[0] == "fail":
            await self.kill(address)
            raise SpawnFailed(address=address, reason=answer[2], kind=answer[1])
        if self.many is not None:
            self.many.spawned(address, Place(*answer[2]))
        return answer[1]

    async def _prepared(self, address: str, environment: Environment) -> dict[str, object]:
        """Return the options with which Ray prepares an environment. Raises SpawnFailed."""
        try:
            return {"runtime_env": await self.in_thread(partial(runtime_env_of, environment))}
        except (LookupError, TypeError, ValueError) as error:
            raise SpawnFailed(address=address, reason=str(error), kind="LookupError") from error
        except Exception as error:  # Ray's, of its control store
            reason = f"its environment cannot be sent to Ray: {_first_line(error)}"
            raise SpawnFailed(address=address, reason=reason, kind=type(error).__name__) from error

    async def _started(
        self, role: Role, address: str, setup: bytes, needs: Needs, more: dict[str, object]
    ) -> list[Any]:
        """Create an actor and return what its `start` says. If its machine is lost meanwhile, create it elsewhere.

        `more` are the options of its environment, which has its own time to become ready.
        """
        while True:
            options = self._options(role, needs) | more
            handle = self._handles[address] = await self._create(role, address, setup, options)
            try:
                return list(unpack(await self._answer_in_time(handle, needs)))
            except MachineLost:
                await self.kill(address)
            except (RayError, TimeoutError) as error:
                await self.kill(address)
                raise spawn_failed(address, needs, error) from error

    async def _answer_in_time(self, handle: Any, needs: Needs) -> bytes:
        """Await what an actor's `start` says. Raises TimeoutError after `start_s`.

        If it may wait, the time begins when Ray has found room for the actor, for which it may add a machine.
        """
        starting, has_room = asyncio.ensure_future(self._first_answer(handle)), not needs.may_wait
        try:
            while not (await asyncio.wait([starting], timeout=start_s(needs)))[0]:
                if has_room:
                    raise TimeoutError
                has_room = has_a_process(handle)
            return starting.result()
        finally:
            starting.cancel()

    async def _first_answer(self, handle: Any) -> bytes:
        starting = _result(handle.start.remote())
        answer: bytes = await (starting if self.many is None else self.many.unless_lost(starting, handle))
        return answer

    def _options(self, role: Role, needs: Needs) -> dict[str, object]:
        options: dict[str, object] = {
            "num_cpus": needs.num_cpus,
            "num_gpus": needs.num_gpus,
            "resources": dict(needs.resources) or None,
            "max_restarts": -1 if role == "coordinator" else 0,
            "max_task_retries": 0,
            "enable_task_events": False,
            "max_concurrency": THREADS.get(role, 10_000),
        }
        if needs.spread:
            options["scheduling_strategy"] = "SPREAD"
        if role in OUTLIVE_OWNER and (self._membership is None or self._membership.is_lasting):
            options["lifetime"] = "detached"
        if self.many is not None:
            options |= self.many.options(role, needs)
        elif role != "host":
            options["scheduling_strategy"] = on_node(ray.get_runtime_context().get_node_id())
        return options

    async def _create(self, role: Role, address: str, setup: bytes, options: dict[str, object]) -> Any:
        """Create an actor; returns its handle. Retries, as Ray frees a dead actor's name after reporting the death."""
        give_up_at = time.monotonic() + KILL_WAIT_S
        membership = None if self.many is None else self.many.membership_at(address).to_wire()
        while True:
            try:
                resident = _THREADED if role in THREADS else _RESIDENT
                return resident.options(name=address, namespace=self._namespace, **options).remote(
                    role, address, self._namespace, tuple(self.place), self.epoch, setup, membership
                )
            except ValueError as error:
                if time.monotonic() > give_up_at:
                    raise SpawnFailed(address=address, reason=_first_line(error), kind="ValueError") from error
                await asyncio.sleep(0.02)

    async def kill(self, address: str) -> None:
        handle = self._handles.pop(address, None) or self._find(address)
        known = handle is not None and ray.is_initialized()
        if known:
            ray.kill(handle, no_restart=True)
        if self.many is not None and await self.many.end(address):
            return
        await self.presence.end(address, patience_s=RAY_KILLS_S if known else 0.0)
        if not known or self.many is not None:  # of many machines each says itself that the process is gone
            return
        give_up_at = time.monotonic() + KILL_WAIT_S
        while time.monotonic() < give_up_at:
            try:
                await asyncio.wait_for(_result(handle.ping.remote()), 1.0)
            except (ActorDiedError, RuntimeEnvSetupError):  # the latter never was
                return
            except TimeoutError:
                continue
            except RayError:
                await asyncio.sleep(0.05)

    async def hand_over(self) -> bool:
        if self.many is None or self._membership is None or not self._membership.is_lasting:
            return False
        has_moved = False
        try:
            await self.spawn("standby", STANDBY, {}, Needs())
            has_moved = await self.many.hand_over(STANDBY)
        finally:
            if not has_moved:
                await self.kill(STANDBY)
        return has_moved

    async def stop(self, address: str) -> None:
        handle = self._handles.get(address) or self._find(address)
        if handle is not None and ray.is_initialized():
            try:
                await asyncio.wait_for(_result(handle.stop.remote()), STOP_S)
            except (RayError, TimeoutError) as error:
                LOG.warning("%s did not stop in order: %s", address, _first_line(error))
        await self.kill(address)

    def load_protocol(self, ref: str, code: bytes | None, search_path: list[str]) -> ProtocolLike:
        if code is not None:
            with importing(ref):
                return cloudpickle.loads(code)  # type: ignore[no-any-return]
        return load_from_path(ref, search_path)

    def _find(self, address: str) -> Any:
        if not ray.is_initialized() or self.is_cut_off():
            return None
        try:
            return ray.get_actor(address, namespace=self._namespace)
        except ValueError:
            return None


_RESIDENT = ray.remote(Resident)
_THREADED = ray.remote(ThreadedResident)


def start_s(needs: Needs) -> float:
    """Return the longest wait for an actor to be placed and started, in seconds."""
    return START_S + (needs.environment.timeout_s if needs.environment is not None else 0.0)


def spawn_failed(address: str, needs: Needs, error: RayError | TimeoutError) -> SpawnFailed:
    """Return the error of an actor that Ray did not start, or not in time."""
    environment = needs.environment
    if environment is not None and isinstance(error, RuntimeEnvSetupError | TimeoutError):
        why = why_not_ready(environment, error, start_s(needs))
        return SpawnFailed(address=address, reason=why, kind=ENVIRONMENT_FAILED)
    kind = (PeerLost if isinstance(error, ActorDiedError) else type(error)).__name__
    return SpawnFailed(address=address, reason=_first_line(error), kind=kind)


def check_fits(address: str, needs: Needs, nodes: list[dict[str, Any]]) -> None:
    """Raise SpawnFailed if no machine of our own cluster has what is needed: no machine will ever be added."""
    wanted = {"CPU": needs.num_cpus, "GPU": needs.num_gpus, **needs.resources}
    machines = [node.get("Resources", {}) for node in nodes if node.get("Alive")]
    if machines and not any(all(have.get(n, 0) >= much for n, much in wanted.items()) for have in machines):
        lacking = ", ".join(f"{much:g} {name}" for name, much in wanted.items() if much)
        most = ", ".join(
            f"{max(have.get(name, 0) for have in machines):g} {name}" for name, much in wanted.items() if much
        )
        reason = f"it needs {lacking}, and no machine has that; the most that one has: {most}"
        raise SpawnFailed(address=address, reason=reason, kind="LookupError")


def _call_to(address: str, handle: Any) -> Transport:
    """Return the transport of one exchange. It changes threads once per answer; futures of futures would cost more."""
    loop = asyncio.get_running_loop()
    send = None if handle is None else handle.exchange.remote

    def call(frame: bytes, then: Callable[[bytes | Unknown], None]) -> None:
        if send is None:
            loop.call_soon(then, PeerLost(address=address, reason="no such actor"))
        else:
            try:
                sent = send(frame).future()
            except Exception as error:  # Ray has been left, or never was: whatever it says, nobody is there
                loop.call_soon(then, PeerLost(address=address, reason=_first_line(error)))
                return
            sent.add_done_callback(lambda done: _on_loop(loop, then, _answer(address, done)))

    return call


def _answer(address: str, done: Future[bytes]) -> bytes | Unknown:
    """Return the answer of a Ray call, or its error as PeerUnreachable or PeerLost."""
    error = done.exception()
    if error is None:
        return done.result()
    kind = PeerUnreachable if isinstance(error, ActorUnavailableError) else PeerLost
    return kind(address=address, reason=_first_line(error))


def _on_loop(loop: asyncio.AbstractEventLoop, then: Callable[[T], None], answer: T) -> None:
    try:
        loop.call_soon_threadsafe(then, answer)
    except RuntimeError:
        return  # the loop is closed: nobody is left to be told


async def _result(ref: Any) -> Any:
    # `await ref` leaks in some versions of Ray; the future does not.
    return await asyncio.wrap_future(ref.future())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def take_environment_in(loopback: bool) -> None:
    """Make Ray read the variables that config.py set, even if ray was imported before.

    Ray reads them at import. Without this function, a driver that imports ray first would listen on the machine's own
    address, and could not show the token of its cluster, nor that of a second cluster. Ray refreshes its settings the
    same way.
    """
    ray_constants.ENABLE_RAY_CLUSTER = not loopback
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def keep_quiet() -> None:
    """Write Ray's messages about dead processes to our log.

    Ray prints them on the driver's standard output whatever `log_to_driver` says, but that output is the user's.
    """
    vars(worker)["print_to_stdstream"] = _log_news


def _log_news(news: Mapping[str, Any], ignore_prefix: bool) -> None:
    LOG.info("%s: %s", news["pid"], "\n".join(news["lines"]))


def _exit(error: Exception) -> None:
    """End the process at once, so that no code of a crashed actor runs on."""
    os._exit(70)
