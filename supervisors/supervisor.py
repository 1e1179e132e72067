"""The Supervisor governs the tasks of one shard of a workflow, or of one nested Hierarchy, and owns that shard.

The Supervisor is the loop around the pure core: event → journal → effects → exchange → event. It makes no decisions of
its own. The events in the shard are authoritative; the state in memory is their fold. No message is acknowledged, and
no step that depends on an event starts, before the event is durable. When a commit fails the supervisor crashes, and
its successor folds the shard again under the next epoch.

The messages of the Supervisor are in messages/client.py and messages/supervisor.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, assert_never

from ..protocols.errors import EngineClosed, NotFound, PodiumError, WorkflowDown
from ..protocols.outcomes import TaskRecord
from ..protocols.probes import hit
from ..protocols.values import Value
from .admission.intake import Intake
from .admission.task_permits import TaskPermits
from .children.children import Children
from .children.giving_up import GivingUp
from .limits.permit_client import PermitClient
from .messages.client import Ack, Answer, Cancel, Drop, Follow, Redrive, Submission, Submit, Watch
from .messages.supervisor import (
    SUPERVISOR,
    AwaitIdle,
    AwaitLastWords,
    AwaitPermits,
    DescribeSupervisor,
    ForgetTasks,
    Govern,
    HoldBack,
    SettleWait,
    SubmitRun,
    SupervisorStatus,
)
from .open_tasks import OpenTasks
from .ports.journal import Journal, OpenTask, durable
from .ports.messaging import Incoming
from .ports.world import World
from .running.breaker_client import BreakerClient
from .running.dispatch import Dispatcher
from .running.pool import PoolContext
from .running.retries import Retries
from .running.timers import Timers
from .settings import Governance
from .shards import is_tier
from .tasks.events import Abandoned
from .tasks.plan import Plan
from .upkeep.blocked import Blocked
from .upkeep.clock import Clock
from .upkeep.dead_letters import DeadLetters
from .upkeep.leaving import Leaving
from .upkeep.passivation import Passivation
from .upkeep.quarantine import Quarantine
from .upkeep.retention import Retention
from .upkeep.stalls import LOOK_S, Stalls
from .upkeep.takeover import Takeover
from .versions import CHILDREN, Versions
from .waiting.answers import Answers
from .waiting.resting import Resting
from .watching.live import Live
from .watching.stream_buffer import StreamBuffer
from .watching.task_requests import TaskRequests
from .watching.watchers import Watchers

_NO_WORK = (DescribeSupervisor, AwaitLastWords, AwaitIdle, AwaitPermits, HoldBack)
"""Messages that a supervisor gets although nobody wants work of it. They do not begin its idle time anew."""


class Supervisor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = Governance()
        self._abandoned: str | None = None
        """The reason why the workflow is down and its tasks fail; None as long as it is not down."""
        self._giving_up = GivingUp(world)
        self._journal: Journal
        self._versions: Versions
        self._open_tasks: OpenTasks
        self._permits: PermitClient
        self._dispatcher: Dispatcher
        self._admission: TaskPermits
        self._intake: Intake
        self._desk: TaskRequests
        self._letters: DeadLetters
        self._leaving: Leaving
        self._retention: Retention
        self._rest: Passivation
        self._quarantine: Quarantine
        self._takeover: Takeover
        self._stalls: Stalls
        self._blocked: Blocked
        self._resting: Resting
        self._answers: Answers

    async def start(self, setup: Mapping[str, Any]) -> dict[str, Value]:
        """Fold the shard and go on with its open tasks.

        Args:
            setup: shard, settings, resources (see PermitClient), permits (whether this or an earlier version needs the
                ResourceActor), definitions, code, keep, later, abandon. For a nested supervisor, `keep` are the tasks
                that the supervisor above still wants; other open tasks are cancelled. Tasks of `keep` that are in
                `later` go on only when they are submitted again. With `abandon` (the reason why the workflow is down)
                every open task fails.

        Returns:
            {"epoch": epoch of this incarnation, "open": number of tasks that were taken over}
        """
        self._settings = Governance.from_wire(setup["settings"])
        self._world.keep_log(self._settings.log_bytes, self._settings.log_files)
        began_at = self._world.monotonic()
        self._journal = await self._world.open_journal(setup["shard"])
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        await self._world.all([self._world.kill(address) for address in notes.get(CHILDREN) or []])
        self._build(setup["shard"], setup["resources"], notes, setup.get("later") or [])
        self._versions.recall(notes, setup["definitions"], setup.get("code") or {})
        self._abandoned = setup.get("abandon")
        await durable(self._journal)  # the task at which the predecessor died is noted before any is folded
        tasks = await self._journal.open_tasks()
        if self._abandoned is None:
            if setup.get("permits") or any(plan.uses_quotas for plan in self._open_tasks.plans.values()):
                self._permits.connect()
            found = self._takeover.fold(tasks)
            self._open_tasks.clock.check()
            self._takeover.resume(found, setup.get("keep"))
            await self._resting.begin()
            await self._dispatcher.wake_busy_tiers(setup["shard"])
        else:
            await self._abandon(tasks, self._abandoned)
        if not is_tier(setup["shard"]):
            self._world.background(self._retention.keep_sweeping(), "retention")
        self._world.background(self._keep_tidy(), "tidy")
        self._world.log("info", "started", open=len(tasks), took_s=self._world.monotonic() - began_at)
        return {"epoch": self._journal.epoch, "open": len(tasks)}

    async def _abandon(self, tasks: list[OpenTask], reason: str) -> None:
        """Fail all open tasks, those included that rest."""
        abandoned = Abandoned(reason, self._world.now())
        for task in self._takeover.fold(tasks):
            self._open_tasks.take(task, abandoned)
        await self._resting.each(lambda task: self._open_tasks.take(task, abandoned))

    def _build(self, shard: str, resources: list[Any], notes: Mapping[str, Value], later: list[str]) -> None:
        """Make the parts of the supervisor, once its journal is open."""
        world, settings, journal = self._world, self._settings, self._journal
        versions = self._versions = Versions(journal, shard, resources, settings)
        open_tasks = self._open_tasks = OpenTasks(world, journal, settings, versions.plans, Watchers())
        clock = open_tasks.clock = Clock(world, journal, notes, open_tasks)
        open_tasks.emissions = emissions = StreamBuffer(world, settings.max_emitted_bytes, open_tasks)
        open_tasks.retries = retries = Retries(world, settings, versions.plans)
        open_tasks.timers = alarms = Timers(world, open_tasks, retries)

        self._permits = PermitClient(world, resources, shard, journal.epoch, settings)
        guard = BreakerClient(world, resources[0], shard, journal.epoch, settings.lease_s)
        family = Children(world, settings.restarts, partial(durable, journal), self._give_up)
        live = Live(world, journal, open_tasks)
        means = PoolContext(world, settings, self._permits, guard, family, code=versions.code)
        dispatcher = self._dispatcher = open_tasks.dispatcher = Dispatcher(means, live, versions, clock)
        versions.go_with(dispatcher)
        journal.max_unsaved_bytes, journal.on_pressure = settings.max_unsaved_bytes, self._on_pressure
        admission = self._admission = open_tasks.admission = TaskPermits(self._permits, open_tasks, dispatcher, later)

        quarantine = self._quarantine = Quarantine(world, journal, notes, open_tasks.watchers)
        takeover = self._takeover = Takeover(world, journal, open_tasks, admission, alarms, quarantine)
        most = settings.max_waiting_in_memory
        resting = self._resting = Resting(world, journal, open_tasks, alarms, takeover, clock, notes, most)
        open_tasks.resting = resting
        self._answers = Answers(world, journal, settings, open_tasks, alarms, quarantine, resting)
        self._desk = TaskRequests(world, journal, open_tasks, dispatcher, quarantine, resting)
        live.dispatcher, live.desk, live.emissions = dispatcher, self._desk, emissions
        self._letters = DeadLetters(world, journal, open_tasks, versions, notes, quarantine, takeover)
        self._leaving = Leaving(world, dispatcher, self.stop)
        world.on_leaving = self._leaving.on_leaving
        self._retention = Retention(world, settings, journal, open_tasks, dispatcher, self._letters)
        self._stalls = Stalls(world, journal, open_tasks, admission)
        self._stalls.forget(notes)
        self._blocked = Blocked(world, journal, notes)
        self._rest = Passivation(world, shard, open_tasks, quarantine, resting, settings.rest_after_s)
        counts_slots = admission if settings.max_slots is not None else None
        intake = self._intake = Intake(world, journal, open_tasks, quarantine, counts_slots)
        journal.on_long_away = intake.answer_those_who_wait

    def _on_pressure(self, is_high: bool) -> None:
        """Start no step as long as too much waits to become durable."""
        event = "no step starts: too much waits to become durable" if is_high else "steps start again"
        self._world.log("warning" if is_high else "info", event)
        self._dispatcher.hold_back(is_high)

    def _give_up(self, error: PodiumError) -> None:
        hit("supervisor gave up")
        self._giving_up.give_up(self._dispatcher.close, error)

    async def stop(self) -> None:
        self._world.log("info", "stops", open=len(self._open_tasks.tasks))
        self._blocked.look(self._dispatcher.pools)
        await self._dispatcher.close(EngineClosed(reason=f"{self._world.address} is stopped"))
        await self._journal.close()

    def receive(self, ask: Incoming) -> None:
        message = SUPERVISOR.read(ask.kind, ask.payload)
        if not isinstance(message, _NO_WORK):
            self._rest.disturb()
        match message:
            case Submit():
                self._submit(ask, message)
            case SubmitRun():
                self._submit_run(ask, message)
            case Cancel():
                self._desk.cancel(ask, message.task_id)
            case Answer():
                self._check_not_down()
                self._answers.take(ask, message)
            case Follow():
                self._desk.follow(ask, list(message.ids))
            case Watch():
                self._desk.watch(ask, message.task_id, message.since)
            case Redrive() | Drop():
                self._check_not_down()
                self._letters.receive(ask, message)
            case Govern():
                self._check_not_down()
                self._world.background(self._govern(ask, message), "govern")
            case SettleWait():
                self._answers.settle(ask, message)
            case ForgetTasks():
                self._retention.forget(ask, message.ids, {id.partition("/")[0] for id in self._open_tasks.tasks})
            case DescribeSupervisor():
                ask.reply(self._status())
            case AwaitLastWords():
                self._giving_up.promise(ask)
            case AwaitIdle():
                self._rest.promise(ask)
            case AwaitPermits():
                self._admission.promise(ask)
            case HoldBack():
                self._leaving.hold_back(ask)
            case _:
                assert_never(message)

    async def _govern(self, ask: Incoming, message: Govern) -> None:
        """Record a workflow version durably and start its actors."""
        plan = self._versions.define(message.definition, message.code, message.in_force)
        self._world.log("info", "governs", version=plan.version, hash=plan.hash[:12], in_force=message.in_force)
        try:
            if plan.starts_as_needed:
                self._world.background(self._dispatcher.start_in_turn(plan), "start in turn")
            else:
                with self._rest.busy():
                    await self._dispatcher.start(plan, message.in_force)
        except PodiumError as error:
            ask.refuse(error)
        except Exception as error:
            ask.refuse(PodiumError(self._open_tasks.faults.note(f"deploying {plan.name}", error).message))
        else:
            self._blocked.look(self._dispatcher.pools)
            self._journal.write([], ask.reply)

    def _status(self) -> SupervisorStatus:
        return SupervisorStatus(
            epoch=self._journal.epoch,
            open=len(self._open_tasks.tasks) + self._resting.count,
            waiting=self._resting.waiting,
            stalled={**self._quarantine.to_wire(), **self._stalls.to_wire()},
            faults=self._open_tasks.faults.count,
            users=self._open_tasks.gate.busiest,
            load=self._world.load()._asdict(),
            versions=self._versions.describe(self._hashes_in_use),
            counts=self._counts(),
            **self._dispatcher.describe(),
        )

    def _counts(self) -> dict[str, object]:
        permits, refused = self._permits.waits.to_wire(), dict(self._answers.refused)
        return {**self._open_tasks.tally.to_wire(), "permit_s": permits, "answers_refused": refused}

    @property
    def _hashes_in_use(self) -> set[str]:
        """Hashes of the versions that have open tasks."""
        return {task.hash for task in self._open_tasks.tasks.values()} | set(self._resting.on_disk)

    # submissions

    def _submit(self, ask: Incoming, message: Submit) -> None:
        self._intake.take(
            self._plan_of(message.hash), message.tasks, partial(self._desk.acknowledge, ask, message.follow)
        )

    def _submit_run(self, ask: Incoming, message: SubmitRun) -> None:
        run, plan = Submission(*message.run), self._plan_of(message.hash)

        def attend(acks: list[Ack], _ended: list[TaskRecord]) -> None:
            self._desk.attend(ask, run.id, message.heard, not run.again, acks[0].error)

        self._intake.take(plan, [run], attend)
        self._admission.proceed(run.id, self._open_tasks.tasks.get(run.id))

    def _plan_of(self, hash: str) -> Plan:
        plan = self._open_tasks.plans.get(hash)
        if plan is None:
            raise NotFound(what="workflow version", name=hash[:12], hint="deploy it first")
        self._check_not_down()
        return plan

    def _check_not_down(self) -> None:
        if self._abandoned is not None:
            raise WorkflowDown(workflow=self._world.address.partition("/")[2], reason=self._abandoned)

    async def _keep_tidy(self) -> None:
        while True:
            await self._world.sleep(LOOK_S)
            self._open_tasks.clock.check()
            self._stalls.look()
            self._blocked.look(self._dispatcher.pools)
            if len(self._open_tasks.plans) > 1:
                await self._versions.retire(self._hashes_in_use)
