"""The Coordinator is the one entry point, and the top of the supervision tree. No task passes through it.

It keeps the catalogue of deployed workflows. It starts a Supervisor for each of their shards that is needed, and the
ResourceActor when a workflow has quotas or breakers. It watches these actors, and restarts them when they die. An idle
supervisor is passivated, and started again when it is needed (`passivator.py`). A supervisor that dies more often than
the restart policy allows is marked down: its tasks are kept, and wait until the workflow is deployed again. The
catalogue in the journal is authoritative. When the coordinator itself starts again, it starts every shard with open
tasks.

The messages of the Coordinator are in supervisors/messages/client.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, assert_never

from ..protocols.blame import fault_of
from ..protocols.errors import NotFound, PeerLost, PodiumError, SpawnFailed, TooManyRestarts, WorkflowDown
from ..protocols.limits import Amount, read_limits
from ..protocols.probes import hit
from ..protocols.values import Value
from ..supervisors.faults import report
from ..supervisors.messages.client import (
    COORDINATOR,
    AskStatus,
    BreakerStates,
    ClusterFigures,
    Deploy,
    Deployed,
    Located,
    SetBreaker,
    SetLimits,
    Undeploy,
    Uses,
    Where,
)
from ..supervisors.messages.resources import CheckQuotas, DescribeResources, ResourceStatus
from ..supervisors.messages.supervisor import AwaitLastWords, AwaitPermits, Govern
from ..supervisors.ports.journal import Journal, Note, durable
from ..supervisors.ports.messaging import Connection, Incoming, Message, Reply
from ..supervisors.ports.world import Needs, World
from ..supervisors.restarts import Restarts
from ..supervisors.settings import Governance
from ..supervisors.shards import workflow_of
from ..supervisors.tasks.plan import all_quotas, code_for, has_breakers
from .alerting import Alerting
from .catalogue import Catalogue
from .deployment import Deployment
from .door import check_code, check_definition
from .managed_actor import ManagedActor
from .moving import Moving
from .passivator import Passivator
from .retired_holders import RetiredHolders
from .sweeper import CLOCK, Sweeper
from .undeploying import Undeploying

RESOURCES = "resources"
_MAY_PASS = ("JournalFailed", "DataInUse", "ActorUnschedulableError")
"""Kinds of errors for which a supervisor is not at fault if it does not start: it is tried again without end."""
_NEVER_PASS = ("JournalCorrupt",)
_LIMITS = "limits"


class Coordinator:
    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = Governance()
        self._limits: dict[str, Amount] = {}
        self._journal: Journal
        self._supervisors: dict[str, ManagedActor] = {}
        """Supervisors by shard."""
        self._starts = itertools.count(1)
        self._departed = RetiredHolders()
        self._catalogue = Catalogue()
        self._code: dict[str, bytes] = {}
        """Code that clients brought: pickles, and the packages of the versions in force. Shards keep older packages."""
        self._resources: ManagedActor
        self._alerting: Alerting
        self._resting: Passivator
        self._moving = Moving(world, self._supervisors)
        self._cold = True

    async def start(self, setup: Mapping[str, Any]) -> None:
        """Read the catalogue, and start the supervisors with open tasks in the background.

        Args:
            setup: settings, limits, cold (whether the cluster is new, so that no child can have survived).
        """
        self._settings = Governance.from_wire(setup["settings"])
        self._limits, self._cold = dict(setup["limits"]), bool(setup["cold"])
        self._world.keep_log(self._settings.log_bytes, self._settings.log_files)
        self._journal = await self._world.open_journal("coordinator")
        self._resources = self._new_child(RESOURCES)
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        await self._recall_limits(notes.get(_LIMITS))
        self._catalogue.recall(notes)
        for workflow in self._catalogue:
            self._supervisors_of(workflow)
        self._world.on_leaving = self._on_leaving
        self._world.load()  # starts the sampling of the load
        self._world.log("info", "started", workflows=len(list(self._catalogue)), cold=self._cold)
        self._alerting = Alerting(self._world, self._settings, self._status)
        self._resting = Passivator(self._world, self._settings, self._supervisors, self)
        self._world.background(self._resume(), "resume")
        self._world.background(self._resting.keep_tidy(), "tidy")
        self._world.background(self._alerting.keep_looking(), "alerts")
        sweeper = Sweeper(self._world, self._settings, self._journal, notes.get(CLOCK))
        self._world.background(sweeper.keep_sweeping(), "sweeper")

    async def _recall_limits(self, changed: Any) -> None:
        """Take over limits that were changed while the cluster ran; a new cluster drops them."""
        if changed and self._cold:
            await durable(self._journal, [Note(_LIMITS, None)])
        elif changed:
            self._limits |= changed

    def _supervisors_of(self, workflow: str) -> list[ManagedActor]:
        """Return the supervisors of a workflow, one for each of its shards."""
        shards = self._catalogue.shards(workflow)
        for shard in shards:
            if shard not in self._supervisors:
                self._supervisors[shard] = self._new_child(f"supervisor/{shard}")
        return [self._supervisors[shard] for shard in shards]

    def _new_child(self, address: str) -> ManagedActor:
        return ManagedActor(address, self._settings, [self._journal.epoch, 0])

    async def _resume(self) -> None:
        """Start every supervisor that has open tasks, and make sure that no other supervisor still lives."""
        hit("coordinator started")
        resumed: list[str] = []
        idle: list[ManagedActor] = []
        for shard, child in list(self._supervisors.items()):
            if await self._has_work(shard):
                resumed.append(shard)
            elif child.line is None and child.starting is None:
                idle.append(child)
        if not self._cold:
            self._departed.add(idle)
            await self._world.all([self._world.kill(child.address) for child in idle])
            await self._departed.tell(self._resources.line)
        await self._world.all([self.rouse(shard) for shard in resumed])
        for child in idle:
            if child.line is None and child.starting is None:
                await self._settled(self._resting.look_after(child.name))

    async def _has_work(self, shard: str) -> bool:
        """Whether a shard may have tasks that do not only wait. True if it cannot be read: its supervisor tells why."""
        try:
            return (await self._world.rest(shard)).awake > 0
        except PodiumError:
            return True

    async def rouse(self, shard: str) -> None:
        await self._settled(self._started(self._supervisors[shard]))

    async def _settled(self, work: Any) -> None:
        """Await the start of an actor. An error is dropped: the actor is marked down already, and others go on."""
        try:
            await work
        except PodiumError:
            return

    async def stop(self) -> None:
        children = [*self._supervisors.values(), self._resources]
        for child in children:
            if child.starting is not None:
                child.starting.cancel()
            if child.line is not None:
                child.line.close()
                child.line = None
                await self._world.stop(child.address)
        await self._journal.close()

    def receive(self, ask: Incoming) -> None:
        message = COORDINATOR.read(ask.kind, ask.payload)
        match message:
            case Deploy():
                self._answer(ask, self._deploy(message))
            case Undeploy():
                self._answer(ask, self._undeploy(message))
            case Where():
                self._answer(ask, self._where(message))
            case SetLimits():
                self._answer(ask, self._change_limits(message))
            case SetBreaker():
                self._answer(ask, self._set_breaker(message))
            case AskStatus():
                self._answer(ask, self._status())
            case _:
                assert_never(message)

    def _answer(self, ask: Incoming, work: Awaitable[Message]) -> None:
        async def answer() -> None:
            try:
                reply = await work
            except PodiumError as error:
                ask.refuse(error)
            except Exception as error:
                report(f"the message '{ask.kind}'", error)
                ask.refuse(PodiumError(f"{ask.kind}: {fault_of(error).message}"))
            else:
                ask.reply(reply)

        self._world.background(answer(), ask.kind)

    async def _deploy(self, message: Deploy) -> Deployed:
        definition = message.definition
        check_definition(definition)
        code = check_code(message.code)
        quotas = await self._check_quotas(definition)
        in_force = not message.again or self._catalogue.is_current(definition)
        if in_force:
            await durable(self._journal, self._catalogue.enter(definition, quotas))
        children = self._supervisors_of(str(definition["name"]))
        for child in children:
            await self._revive(child)
        self._code = code_for(self._catalogue.in_force(), {**self._code, **code})
        await Deployment(self._world, Govern(definition, code, in_force), self._started).reach(children)
        name, version, hash = definition["name"], definition["version"], definition["hash"]
        self._world.log("info", "deployed", workflow=name, version=version, hash=hash[:12], in_force=in_force)
        return Deployed(hash, self._journal.epoch, self._world.blobs_setting)

    async def _undeploy(self, message: Undeploy) -> Message:
        self._catalogue.check(message.workflow)
        undeploying = Undeploying(self._world, self._journal, self._catalogue, self._resting)
        await undeploying.undeploy(message.workflow, self._supervisors_of(message.workflow), message.leave_open)
        self._world.log("info", "undeployed", workflow=message.workflow, leave_open=message.leave_open)
        return ()

    async def _check_quotas(self, definition: Mapping[str, object]) -> bool:
        """Return whether the workflow needs the ResourceActor. Raises InvalidInput for a quota without a limit."""
        needs = all_quotas(definition)
        if needs:
            self._catalogue.check_order(definition, self._limits)
            line = await self._resources_line()
            for quotas in needs:
                await line.ask(CheckQuotas(dict(quotas)))
        return bool(needs) or has_breakers(definition)

    async def _where(self, message: Where) -> Located:
        epoch, shard = self._journal.epoch, message.shard
        if message.told not in (None, epoch):
            return Located(None, epoch)
        self._catalogue.check(shard)
        child = self._supervisors.get(shard)
        if child is None:
            raise NotFound(what="shard", name=shard)
        if child.down is None or child.line is None:
            await self._started(child)
        return Located(child.address, epoch)

    async def _change_limits(self, message: SetLimits) -> Uses:
        read_limits(message.limits)
        self._limits.update(message.limits)
        await durable(self._journal, [Note(_LIMITS, self._limits)])
        self._world.log("info", "limits set", limits=dict(message.limits))
        line = await self._resources_line()
        return await line.ask(message, Uses)

    async def _set_breaker(self, message: SetBreaker) -> BreakerStates:
        return await (await self._resources_line()).ask(message, BreakerStates)

    async def _status(self) -> ClusterFigures:
        listed = [(shard, child) for shard, child in self._supervisors.items() if self._catalogue.is_listed(shard)]
        workflows = {shard: await child.describe(self._catalogue.entry(shard)) for shard, child in listed}
        limits: Value = {name: {"limit": limit, "held": 0, "waiting": 0} for name, limit in self._limits.items()}
        uses = ResourceStatus(limits, {}, {"factor": 1.0, "changes": []}, {})
        if self._resources.line is not None:
            uses = await self._resources.line.ask(DescribeResources(), ResourceStatus)
        return ClusterFigures(
            workflows=workflows,
            quotas=uses.limits,
            breakers=uses.breakers,
            throttle=uses.throttle,
            load=self._world.load()._asdict(),
            alerts=self._alerting.to_wire(),
        )

    # children

    async def _resources_line(self) -> Connection:
        line = await self._up(self._resources, "resources", self._resources_setup)
        self._cold = False
        await self._departed.tell(line)
        return line

    def _resources_setup(self) -> dict[str, object]:
        return {
            "limits": self._limits,
            "lease_s": self._settings.lease_s,
            "age_s": self._settings.age_s,
            "throttle": self._settings.throttle,
            "thresholds": asdict(self._settings.thresholds),
            "weights": dict(self._settings.weights),
            "cold": self._cold,
            "log_bytes": self._settings.log_bytes,
            "log_files": self._settings.log_files,
        }

    async def _started(self, child: ManagedActor) -> Connection:
        self._catalogue.check(child.name)
        if child.down is not None:
            raise WorkflowDown(workflow=child.name, reason=child.down)
        if self._catalogue.entry(child.name)["quotas"]:
            await self._resources_line()
        return await self._up(child, "supervisor", partial(self._supervisor_setup, child))

    def _supervisor_setup(self, child: ManagedActor) -> dict[str, object]:
        child.start = [self._journal.epoch, next(self._starts)]
        return {
            "shard": child.name,
            "settings": self._settings.to_wire(),
            "resources": [RESOURCES, child.start],
            "definitions": self._catalogue.definitions(child.name),
            "code": code_for(self._catalogue.definitions(child.name), self._code),
            "permits": self._catalogue.entry(child.name)["quotas"],
        }

    async def _up(self, child: ManagedActor, role: object, setup: Callable[[], Mapping[str, object]]) -> Connection:
        """Return the connection to a child; start the child first if it does not run, with the result of `setup`.

        Raises the error that kept the child from starting.
        """
        while child.line is None:
            if child.starting is None:
                child.starting = asyncio.get_running_loop().create_task(self._start(child, role, setup))
            await asyncio.shield(child.starting)
        return child.line

    async def _start(self, child: ManagedActor, role: object, setup: Callable[[], Mapping[str, object]]) -> None:
        try:
            while child.line is None:
                await self._spawn(child, role, setup())
        finally:
            child.starting = None

    async def _spawn(self, child: ManagedActor, role: Any, setup: Mapping[str, object]) -> None:
        try:
            await self._world.spawn(role, child.address, setup, Needs())
        except SpawnFailed as error:
            passes = error.kind in _MAY_PASS
            child.wait_for(error.reason if passes else None)
            delay_s = self._delay(child, counted=not passes)
            self._world.log("warning", "child does not start", child=child.address, reason=error.reason)
            if delay_s is None or error.kind in _NEVER_PASS:
                child.down = error.reason
                self._world.log("error", "workflow down", workflow=child.name, reason=child.down)
                raise WorkflowDown(workflow=child.name, reason=child.down) from error
            await self._world.sleep(delay_s)
            return
        child.wait_for(None)
        child.last_words, child.leaves = None, False
        self._world.log("info", "child started", child=child.address)
        line = child.line = self._world.line(child.address)
        line.watch(lambda error: self._lost(child, line, error), self._settings.lease_s)
        if role == "supervisor":
            line.send(AwaitLastWords(), child.hear)
            self._resting.attend(child, line)
            self._moving.attend(line)
            if not self._catalogue.entry(child.name)["quotas"]:
                line.send(AwaitPermits(), partial(self._wants_permits, child))

    def _wants_permits(self, child: ManagedActor, reply: Reply) -> None:
        """Start the ResourceActor for a workflow without quotas: it has a task that needs a `background` permit."""
        if reply.error is None:
            self._journal.write([self._catalogue.note_quotas(workflow_of(child.name))])
            self._world.background(self._settled(self._resources_line()), "permits")

    def _delay(self, child: ManagedActor, counted: bool = True) -> float | None:
        now, rng = self._world.monotonic(), self._world.random
        return child.restarts.delay_after_failure(child.address, now, rng, counted)

    def _lost(self, child: ManagedActor, line: Connection, error: PodiumError) -> None:
        if child.line is not line:
            return  # the actor was ended on purpose
        if child is not self._resources:
            hit("supervisor lost")
        child.line = None
        delay_s = self._delay(child, counted=not child.leaves)
        self._world.log("warning", "child lost", child=child.address, reason=str(error), restarts_in_s=delay_s)
        if delay_s is None:
            policy = child.restarts.policy
            last = child.last_words or str(error)
            child.down = str(TooManyRestarts(intensity=policy.intensity, period_s=policy.period_s, last=last))
            self._world.log("error", "workflow down", workflow=child.name, reason=child.down)
            self._world.background(self._mark_down(child), f"mark down {child.address}")
        else:
            self._world.background(self._again(child, delay_s), f"restart {child.address}")

    def _on_leaving(self, left_s: Mapping[str, float]) -> None:
        """Expect the end of children whose machines will be taken away. They end by themselves.

        If the own machine is one of these, move the cluster's home.
        """
        self._moving.on_leaving(left_s)
        for child in [*self._supervisors.values(), self._resources]:
            child.leaves = child.leaves or child.address in left_s

    async def _again(self, child: ManagedActor, delay_s: float) -> None:
        await self._world.kill(child.address)
        await self._world.sleep(delay_s)
        if child is self._resources:
            await self._settled(self._resources_line())
        else:
            await self.rouse(child.name)

    async def _mark_down(self, child: ManagedActor) -> None:
        """End the actor of a child that is down, and free its permits.

        The tasks of a supervisor wait; if the workflow says `when_down="fail"`, a last supervisor fails them.
        """
        if child is not self._resources:
            self._departed.add([child])
        await self._world.kill(child.address)
        fails = child is not self._resources and self._catalogue.entry(child.name).get("when_down") == "fail"
        if fails and child.down is not None:
            await self._settled(self._abandon(child))
        await self._departed.tell(self._resources.line)

    async def _abandon(self, child: ManagedActor) -> None:
        """Start a supervisor that fails the open tasks, answers about them, and takes no more."""
        setup = {**self._supervisor_setup(child), "abandon": child.down}
        await self._world.spawn("supervisor", child.address, setup, Needs())
        child.line = self._world.line(child.address)

    async def _revive(self, child: ManagedActor) -> None:
        """Take a child out of the state down, because its workflow is deployed again."""
        if child.down is not None:
            child.down = None
            child.restarts = Restarts(self._settings.top_restarts)
            if child.line is not None:
                line, child.line = child.line, None
                line.lose(PeerLost(address=child.address, reason="it is deployed again"))
                await self._world.stop(child.address)

    async def forget(self, children: list[ManagedActor]) -> None:
        """Free the permits of supervisors that are gone for good."""
        self._departed.add(children)
        await self._departed.tell(self._resources.line)
