"""The other machines of a cluster, as an actor on Ray sees them: where actors live, and which machines are lost.

Ray takes 15 to 65 s to notice that a machine is gone, and then ends what the machine had started. We do not wait for
that. As soon as the lease of a machine is over (keeper.py), everything there counts as gone: connections to it are
lost, its actors are started elsewhere, and if it was the coordinator's machine, one of the others starts that.

Importing this module imports ray.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray._private.state import actors, available_resources_per_node, state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...actors.exchange import ExchangeClient
from ...protocols.errors import PeerLost, PodiumError
from ...protocols.values import unpack
from ...supervisors.ports.world import Needs, Role
from ..engine_log import LOG
from ..session import COORDINATOR
from ..store import lock
from ..store.address import StoreAddress
from .exits import Exits
from .machine import LOOK_S, Machine, Membership
from .machine_state import boottime
from .placement import suits
from .process_locks import ProcessLocks

ANSWER_S = 3.0
"""Longest wait for an actor to say where it lives, in seconds, before it may live on a machine that is gone."""
NO_DEADLINE_S = 60.0
"""Seconds that actors get on a machine that Ray drains without saying until when."""
DRAINING_S = 1.0
"""Time between two looks for machines that Ray drains, in seconds."""
SWEEP_S = 30.0
"""Longest wait for another machine to end processes, in seconds, if its lease goes on all the time."""
_SETUP_BYTES = 256 * 1024 * 1024


class MachineLost(Exception):
    """The machine on which an actor was to start is lost, or may be."""


class Place(NamedTuple):
    """Where an actor lives."""

    machine: str
    """Id of the machine in the cluster, as in machine_state.py."""
    node: str
    """Ray's id of the machine."""


class ManyMachines:
    def __init__(
        self, machine: Machine, place: StoreAddress, membership: Membership, here: str, namespace: str
    ) -> None:
        """`here`: Ray's id of this machine; `namespace`: Ray's namespace of the cluster's actors."""
        self._namespace = namespace
        self.machine, self._place, self._membership, self._here = machine, place, membership, here
        self._places: dict[str, Place] = {}
        """Places of actors that this actor spawned, by address."""
        self._placed_at: dict[str, float] = {}
        """When these places were learned, by `boottime`."""
        self._known: set[str] = set()
        """Addresses at which this actor has spawned an actor."""
        self._lines: dict[str, list[ExchangeClient]] = {}
        """Open connections by node."""
        self._starts: dict[asyncio.Future[Any], Any] = {}
        """Starts that are under way, with the handles of their actors."""
        self._presence = ProcessLocks(place.path, membership.generation)
        self._starting = False
        self.draining: dict[str, float] = {}
        """Ray's ids of the machines that will be taken away, with the time of that by the wall clock."""
        self._looked_at = -math.inf
        self._looking: asyncio.Future[None] | None = None
        self._gone: set[bytes] = set()
        """Processes on drained machines that are gone, by Ray's ids."""
        self._told: set[tuple[str, str]] = set()
        """Actors that are known to leave, by address and node."""
        self._locating: set[asyncio.Task[None]] = set()
        """Questions where an actor lives. A reference keeps them from being collected."""
        machine.on_lost = self._lose

    @property
    def here(self) -> Place:
        return Place(self.machine.id, self._here)

    # where actors are started

    def options(self, role: Role, needs: Needs) -> dict[str, object]:
        """Return the options with which Ray starts an actor on a machine that lives, and where it may be.

        Ray itself would start hosts on a machine that it does not know to be gone, and wait there for a minute.
        """
        if role == COORDINATOR:
            return {"scheduling_strategy": on_node(self._here)}
        avoided = self.machine.avoided()
        if role != "host":
            nodes = live_nodes(self._membership.placement) - avoided - set(self.draining)
            nodes = nodes or ({self._here} if self._membership.placement else set())
        elif avoided:
            nodes = with_room(needs) - avoided
        else:
            return {}
        return {"scheduling_strategy": on_node(self._least_used(nodes))} if nodes else {}

    def _least_used(self, nodes: set[str]) -> str:
        used = Counter(place.node for place in self._places.values())
        return min(random.sample(sorted(nodes), len(nodes)), key=used.__getitem__)

    def spawned(self, address: str, place: Place) -> None:
        self._places[address], self._placed_at[address] = place, boottime()

    async def unless_lost(self, starting: Coroutine[Any, Any, Any], handle: Any) -> Any:
        """Await the start of an actor. Raises MachineLost if its machine is lost first: Ray would wait for long."""
        start = asyncio.ensure_future(starting)
        self._starts[start] = handle
        try:
            return await start
        except asyncio.CancelledError as error:
            if start not in self._starts:
                raise MachineLost from error
            start.cancel()
            raise
        finally:
            self._starts.pop(start, None)

    def membership_at(self, address: str) -> Membership:
        """Return the membership of an actor that is to be spawned."""
        is_new = address != COORDINATOR and address not in self._known
        self._known.add(address)
        return replace(self._membership, is_new=is_new)

    @property
    def is_first(self) -> bool:
        """Whether this actor is the first at its address, so that it has no predecessor."""
        return self._membership.is_new

    # connections

    def follow(self, line: ExchangeClient, address: str, handle: Any) -> None:
        """Lose a connection when the machine of its actor is lost."""
        place = self._places.get(address)
        if place is not None:
            self._keep(line, place.node)
        elif handle is not None:
            locating = asyncio.get_running_loop().create_task(self._locate(line, address, handle))
            self._locating.add(locating)
            locating.add_done_callback(self._locating.discard)

    async def _locate(self, line: ExchangeClient, address: str, handle: Any) -> None:
        """Ask an actor where it lives. If it does not answer soon after a machine was lost, it may live there."""
        while not line.is_over:
            try:
                self._keep(line, (await asyncio.wait_for(_of(handle.place.remote()), ANSWER_S))[1])
            except TimeoutError:
                if self.machine.avoided():
                    line.lose(PeerLost(address=address, reason="a machine is lost, and the actor does not answer"))
            except Exception:  # of Ray, which may have been left: the exchange itself hears of it
                return
            else:
                return

    def _keep(self, line: ExchangeClient, node: str) -> None:
        kept = [each for each in self._lines.get(node, []) if not each.is_over]
        self._lines[node] = [*kept, line]

    def _lose(self, node: str) -> None:
        for start, handle in list(self._starts.items()):
            if node_of(handle) in (node, None):
                del self._starts[start]
                start.cancel()
        for line in self._lines.pop(node, []):
            line.lose(PeerLost(address=line.address, reason="its machine is lost"))

    # machines that will be taken away

    async def look_for_draining(self, address: str) -> dict[str, float]:
        """See which machines Ray drains; returns actors there that were not returned before, with the seconds left.

        `address` is that of this actor. As long as no other machine suits, nobody has to leave.
        """
        await self.see_draining()
        if not self.draining or not await asyncio.to_thread(self._has_others):
            return {}
        places = {**self._places, address: self.here}
        leaving = {(each, place.node) for each, place in places.items() if place.node in self.draining} - self._told
        self._told |= leaving
        return {each: max(0.0, self.draining[node] - time.time()) for each, node in leaving}

    async def see_draining(self) -> None:
        """See which machines Ray drains, so that nothing is started there."""
        await self._look_again()

    def _has_others(self) -> bool:
        return bool(live_nodes(self._membership.placement) - self.machine.avoided() - set(self.draining))

    def _look_again(self) -> asyncio.Future[None]:
        """See which machines Ray drains, unless that was seen a moment ago, or is being asked."""
        if self._looking is None or (self._looking.done() and time.monotonic() - self._looked_at > DRAINING_S / 2):
            self._looked_at = time.monotonic()
            self._looking = asyncio.ensure_future(self._look())
        return self._looking

    async def _look(self) -> None:
        try:
            self.draining = await asyncio.to_thread(draining_nodes)
        except Exception as error:  # of Ray, whose control store may be away
            LOG.info("it is not known which machines Ray drains: %s", error)
        if self._here in self.draining:
            self.machine.mark_drained()

    # the end of actors

    async def end(self, address: str) -> bool:
        """End the process of an actor on another machine; False if it is not known to be on another one."""
        place = self._places.get(address)
        if place is None or place.node == self._here:
            self._places.pop(address, None)
            return False
        since = self._placed_at[address]
        await self._ended(place.node, lambda: self.machine.has_gone(place.machine, since), address)
        if self._places.get(address) is place:  # known until it is certainly gone, for whoever asks meanwhile
            del self._places[address]
        return True

    async def end_below(self, prefix: str) -> None:
        """End all processes on other machines whose address begins with `prefix`: they belong to a predecessor."""
        others, since = live_nodes() - {self._here}, boottime()
        empty = {node: partial(self._is_empty, node, since) for node in others}
        await asyncio.gather(*[self._ended(node, is_empty, prefix, True) for node, is_empty in empty.items()])

    def _is_empty(self, node: str, since: float) -> bool:
        return node in self.machine.avoided() or self.machine.has_nothing_on(node, since)

    async def _ended(self, node: str, is_gone: Callable[[], bool], address: str, below: bool = False) -> None:
        """Have a process on another machine end others there; return when they are gone, or the machine is.

        Raises PodiumError if the machine is not lost, and does not say in `SWEEP_S` that they are gone.
        """
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        folder, generation = self._place.folder, self._membership.generation
        exits = Exits(node, self._namespace, address, below, self._gone)
        asked: asyncio.Future[Any] | None = None
        while not is_gone():
            if loop.time() - began > SWEEP_S:
                raise PodiumError(f"the machine of {address or 'others'} does not end it, and keeps its lease")
            self._look_again()
            if asked is None and (node in self.draining or exits.is_asked):  # nothing can be started there any more
                asked = asyncio.ensure_future(asyncio.to_thread(exits.end_all))
            elif asked is None:
                task = _END_THERE.options(scheduling_strategy=on_node(node))
                asked = asyncio.ensure_future(_of(task.remote(folder, generation, address, below)))
            await asyncio.wait([asked], timeout=LOOK_S)
            if asked.done() and asked.exception() is None and asked.result() is not False:
                return
            if asked.done():
                LOG.debug("%s is asked again to end %s: %s", node, address, asked.exception())
                asked = None
                await asyncio.sleep(LOOK_S)
            elif node in self.draining and not exits.is_asked:
                asked.cancel()
                asked = None
        if asked is not None:
            asked.cancel()

    # the coordinator

    def look(self, spawn: Callable[..., Any], background: Callable[..., None]) -> None:
        """Look at the state of this machine. If it has to have a coordinator and has none, start one."""
        state = self.machine.look()
        if state is not None and state.coordinator_is_missing and not self._starting and not self._has_coordinator():
            self._starting = True
            background(self._start_coordinator(spawn), "start the coordinator")

    def _has_coordinator(self) -> bool:
        return self._presence.process_of(COORDINATOR) is not None

    async def hand_over(self, address: str) -> bool:
        """Make the machine of an actor the home instead of this one; returns False if it is this one."""
        place, state = self._places[address], self.machine.look()
        if place.node == self._here or state is None:
            return False
        return await asyncio.to_thread(self._make_home, place.machine, state.id)

    def _make_home(self, id: str, before: str) -> bool:
        generation = self._membership.generation
        return bool(self._with_rows(lambda rows, db: rows.take_home(db, id, before, generation)))

    async def _start_coordinator(self, spawn: Callable[..., Any]) -> None:
        """Start the coordinator on this machine, unless another process here does it already."""
        held = lock.try_take(self.machine.files.coordinator_lock)
        try:
            if held is not None and not self._has_coordinator():
                setup = await asyncio.to_thread(self._setup)
                await spawn(COORDINATOR, COORDINATOR, {**setup, "cold": False}, Needs())
        except Exception as error:  # also Ray's own, when Ray is gone as a whole
            LOG.warning("no coordinator yet: %s", error)
        finally:
            lock.let_go(held)
            self._starting = False

    def _setup(self) -> dict[str, Any]:
        claim = self._with_rows(lambda rows, db: rows.claim(db))
        if claim is None or claim.generation != self._membership.generation:
            raise PodiumError("another cluster has taken over")
        return dict(unpack(base64.b64decode(claim.facts["setup"]), max_bytes=_SETUP_BYTES))

    def _with_rows(self, work: Callable[[Any, Any], Any]) -> Any:
        """Call `work` with the rows of the machines, and a connection to the database. It blocks."""
        from ..store.postgres.connecting import Database, translated  # noqa: PLC0415  (psycopg is an extra)
        from ..store.postgres.machines import Machines  # noqa: PLC0415

        database = Database(self._place.url, self._place.schema, self._place.timeout_s)
        with translated("*", database), database.connect() as db:
            return work(Machines(database), db)


def all_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of each machine."""
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def live_nodes(placement: str = "") -> set[str]:
    """Return Ray's ids of the machines that Ray takes for alive, and that suit a placement."""
    return {node["NodeID"] for node in all_nodes() if node["Alive"] and suits(node, placement)}


def draining_nodes() -> dict[str, float]:
    """Return Ray's ids of the machines that will be taken away, with the time of that by the wall clock."""
    found = state.get_draining_nodes()
    return {node: at_ms / 1000 if at_ms else time.time() + NO_DEADLINE_S for node, at_ms in found.items()}


def node_of(handle: Any) -> str | None:
    """Return Ray's id of the machine on which an actor lives; None if Ray has not found one yet."""
    facts = actors(handle._actor_id.hex())
    node = facts.get("Address", {}).get("NodeID", "")
    return node if node.strip("f") else None  # all f: none


def has_a_process(handle: Any) -> bool:
    """Whether Ray has found room for an actor, and a process."""
    return bool(actors(handle._actor_id.hex()).get("Address", {}).get("Port"))


def with_room(needs: Needs) -> set[str]:
    """Return Ray's ids of the machines that have now what an actor needs."""
    wanted = {"CPU": needs.num_cpus, "GPU": needs.num_gpus, **needs.resources}
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {node for node, has in free.items() if all(has.get(name, 0) >= much for name, much in wanted.items())}


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


async def _of(ref: Any) -> Any:
    return await asyncio.wrap_future(ref.future())


def end_there(folder: str, generation: int, address: str, below: bool) -> None:
    """Kill the process at an address of this machine, or all below it, and return when they are certainly gone."""
    presence = ProcessLocks(Path(folder).expanduser(), generation)
    asyncio.run(presence.end_below(address) if below else presence.end(address))


_END_THERE = ray.remote(num_cpus=0, max_retries=0)(end_there)
