"""The Supervisor: governs the tasks of one deployed workflow, or of one nested Hierarchy, and owns their shard.

It is the loop around the pure core: event → journal → effects → exchange → event. It holds no decisions of
its own. What the shard holds is authoritative; memory is its fold. Nothing is acknowledged, and no step that
depends on an event starts, before the event is durable. When a commit fails it crashes, and its successor
folds the shard again under the next epoch.

Its messages are in messages/client.py and messages/supervisor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, assert_never

from ..protocols.errors import EngineClosed, NotFound, PodiumError, WorkflowDown
from ..protocols.outcomes import Outcome, TaskRecord
from ..protocols.values import Value
from .accepting import Accepting
from .admission import Admission
from .alarms import Alarms
from .blocked import Blocked
from .client_events import parked_event
from .clock import Clock
from .desk import Desk
from .dispatch import Dispatcher
from .emissions import Emissions
from .entries import entry_of, is_parked_or_was, standing
from .events import Abandoned, Event, StepBegan, StepFailed
from .family import Family
from .faults import Faults, shielded
from .fold import apply
from .gate import Gate
from .giving_up import GivingUp
from .guard import Guard
from .intake import Intake
from .letters import Letters
from .lifecycle import Lifecycle
from .live import Live
from .messages.client import (
    Ack,
    Cancel,
    ClientEvent,
    Drop,
    Follow,
    Redrive,
    Submission,
    Submit,
    Watch,
)
from .messages.host import StepResult
from .messages.supervisor import (
    SUPERVISOR,
    AwaitIdle,
    AwaitLastWords,
    AwaitPermits,
    DescribeSupervisor,
    ForgetTasks,
    Govern,
    RunEnded,
    SubmitRun,
    SupervisorStatus,
)
from .permits import Permits
from .plan import Plan
from .pool import Means
from .ports import Ask, Change, Entry, Journal, World, durable
from .quarantine import Quarantine
from .rest import Rest
from .retention import Retention
from .retries import Retries
from .services import Engine
from .settings import Governance
from .shards import is_tier
from .stalls import LOOK_S, Stalls
from .state import Alarm, Effect, Halt, Place, Run, TaskState
from .takeover import Takeover
from .tally import Tally
from .versions import CHILDREN, Versions
from .watchers import Watchers


class Supervisor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = Governance()
        self._tasks: dict[str, TaskState] = {}
        self._tally = Tally()
        self._lifecycle = Lifecycle(self._tally)
        self._accepted = 0
        self._faults = Faults()
        self._watchers = Watchers()
        self._abandoned: str | None = None
        """Why the workflow is down and its tasks fail, or None."""
        self._giving_up = GivingUp(world)
        self._journal: Journal
        self._versions: Versions
        self._plans: Mapping[str, Plan]
        self._permits: Permits
        self._dispatcher: Dispatcher
        self._admission: Admission
        self._gate: Gate
        self._intake: Intake
        self._desk: Desk
        self._alarms: Alarms
        self._letters: Letters
        self._retention: Retention
        self._retries: Retries
        self._rest: Rest
        self._quarantine: Quarantine
        self._takeover: Takeover
        self._stalls: Stalls
        self._blocked: Blocked
        self._clock: Clock

    async def start(self, setup: Mapping[str, Any]) -> dict[str, Value]:
        """setup: shard, settings, resources (see Permits), permits (whether some may be held), definitions, code, keep,
        later, abandon.

        Folds the shard and goes on with it. In a tier, `keep` are tasks that the supervisor above still wants (other
        open ones are cancelled), of which those in `later` go on when they are submitted again. With `abandon` (the
        reason why the workflow is down) every open task fails.

        Returns:
            {"epoch": this incarnation's, "open": tasks that were taken over}
        """
        self._settings = Governance.from_wire(setup["settings"])
        self._world.keep_log(self._settings.log_bytes, self._settings.log_files)
        began_at = self._world.monotonic()
        self._journal = await self._world.open_journal(setup["shard"])
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        await self._world.all([self._world.kill(address) for address in notes.get(CHILDREN) or []])
        self._open_doors(setup["shard"], setup["resources"], notes, setup.get("later") or [])
        self._versions.recall(notes, setup["definitions"], setup.get("code") or {})
        self._abandoned = setup.get("abandon")
        await durable(self._journal)  # whom the predecessor died at is noted before any task is folded
        tasks = await self._journal.open_tasks()
        if self._abandoned is None:
            if setup.get("permits") or any(plan.uses_quotas for plan in self._plans.values()):
                self._permits.connect()
            found = self._takeover.fold(tasks)
            self._clock.check()
            self._takeover.resume(found, setup.get("keep"))
            await self._dispatcher.wake_busy_tiers(setup["shard"])
        else:
            for task in self._takeover.fold(tasks):
                self._take(task, Abandoned(self._abandoned, self._world.now()))
        if not is_tier(setup["shard"]):
            self._world.background(self._retention.keep_sweeping(), "retention")
        self._world.background(self._keep_tidy(), "tidy")
        self._world.log("info", "started", open=len(tasks), took_s=self._world.monotonic() - began_at)
        return {"epoch": self._journal.epoch, "open": len(tasks)}

    def _open_doors(self, shard: str, resources: list[Any], notes: Mapping[str, Value], later: list[str]) -> None:
        world, settings, journal = self._world, self._settings, self._journal
        self._versions = Versions(journal)
        self._plans = self._versions.plans
        self._permits = Permits(world, resources, shard, journal.epoch, settings)
        family = Family(world, settings.restarts, partial(durable, journal), self._give_up)
        guard = Guard(world, resources[0], shard, journal.epoch, settings.lease_s)
        means = Means(world, settings, self._permits, guard, family)
        tier_setup = partial(self._versions.tier_setup, shard, resources, settings)
        live = Live(world, journal, self._watchers, self._take)
        clock = self._clock = Clock(world, journal, notes, self._tasks, self._take)
        self._dispatcher = Dispatcher(means, self._step_ended, live, self._note_beginning, tier_setup, clock.check)
        self._admission = Admission(self._permits, self._plans, self._tasks, self._dispatcher, later)
        self._quarantine = Quarantine(world, journal, notes, self._watchers.ended)
        self._versions.go_with(self._dispatcher)
        engine = Engine(
            self._tasks,
            self._plans,
            self._take,
            self._keep,
            self._entry,
            self._carry_out,
            self._dispatcher.tiers_of,
            self._faults.of,
            self._versions.newest,
            clock.check,
        )
        watchers, emitted = self._watchers, self._record_emitted
        self._desk = Desk(world, journal, engine, self._dispatcher, watchers, emitted, self._quarantine)
        self._retries = Retries(world, settings, self._plans)
        self._emissions = Emissions(world, settings.max_emitted_bytes, self._record_emitted, self._watchers.tell)
        live.dispatcher, live.desk, live.emissions = self._dispatcher, self._desk, self._emissions
        self._alarms = Alarms(world, self._tasks, self._take, self._retries.late, clock.check)
        self._takeover = Takeover(
            world, journal, engine, self._admission, self._alarms, self._quarantine, self._step_ended
        )
        self._letters = Letters(world, journal, engine, notes, self._quarantine, self._takeover.redrive)
        self._retention = Retention(world, settings, journal, self._dispatcher.forget, self._letters.forgotten)
        self._stalls = Stalls(world, journal, self._tasks, self._admission.has, self._faults.note)
        self._stalls.forget(notes)
        self._blocked = Blocked(world, journal, notes)
        self._gate = Gate(settings)
        has_open = partial(any, (self._tasks, self._quarantine.aside))
        self._rest = Rest(world, shard, has_open, self._plans, settings.rest_after_s)
        accept = Accepting(journal, engine).accept
        slots = self._admission.slots if settings.max_slots is not None else lambda _plan, _record: []
        self._intake = Intake(world, self._gate, journal, self._tasks, accept, self._carry_out, self._quarantine, slots)

    def _give_up(self, error: PodiumError) -> None:
        self._giving_up.give_up(self._dispatcher.close, error)

    async def stop(self) -> None:
        self._world.log("info", "stops", open=len(self._tasks))
        self._blocked.look(self._dispatcher.pools)
        await self._dispatcher.close(EngineClosed(reason=f"{self._world.address} is stopped"))
        await self._journal.close()

    def receive(self, ask: Ask) -> None:
        message = SUPERVISOR.read(ask.kind, ask.payload)
        if not isinstance(message, DescribeSupervisor | AwaitLastWords | AwaitIdle | AwaitPermits):
            self._rest.disturb()
        match message:
            case Submit():
                self._submit(ask, message)
            case SubmitRun():
                self._submit_run(ask, message)
            case Cancel():
                self._desk.cancel(ask, message.task_id)
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
            case ForgetTasks():
                self._retention.forget(ask, message.ids, {id.partition("/")[0] for id in self._tasks})
            case DescribeSupervisor():
                ask.reply(self._status())
            case AwaitLastWords():
                self._giving_up.promise(ask)
            case AwaitIdle():
                self._rest.promise(ask)
            case AwaitPermits():
                self._admission.promise(ask)
            case _:
                assert_never(message)

    async def _govern(self, ask: Ask, message: Govern) -> None:
        """Take a version in, durably, and start its actors."""
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
            ask.refuse(PodiumError(self._faults.note(f"deploying {plan.name}", error).message))
        else:
            self._blocked.look(self._dispatcher.pools)
            self._journal.write([], ask.reply)

    def _status(self) -> SupervisorStatus:
        return SupervisorStatus(
            epoch=self._journal.epoch,
            open=len(self._tasks),
            stalled={**self._quarantine.to_wire(), **self._stalls.to_wire()},
            faults=self._faults.count,
            users=self._gate.busiest,
            load=self._world.load()._asdict(),
            versions=self._versions.describe({task.hash for task in self._tasks.values()}),
            counts={**self._tally.to_wire(), "permit_s": self._permits.waits.to_wire()},
            **self._dispatcher.describe(),
        )

    # tasks in

    def _submit(self, ask: Ask, message: Submit) -> None:
        self._intake.take(
            self._plan_of(message.hash), message.tasks, partial(self._desk.acknowledge, ask, message.follow)
        )

    def _submit_run(self, ask: Ask, message: SubmitRun) -> None:
        run, plan = Submission(*message.run), self._plan_of(message.hash)

        def attend(acks: list[Ack], _ended: list[TaskRecord]) -> None:
            self._desk.attend(ask, run.id, message.heard, not run.again, acks[0].error)

        self._intake.take(plan, [run], attend)
        self._admission.proceed(run.id, self._tasks.get(run.id))

    def _plan_of(self, hash: str) -> Plan:
        plan = self._plans.get(hash)
        if plan is None:
            raise NotFound(what="workflow version", name=hash[:12], hint="deploy it first")
        self._check_not_down()
        return plan

    def _check_not_down(self) -> None:
        if self._abandoned is not None:
            raise WorkflowDown(workflow=self._world.address.partition("/")[2], reason=self._abandoned)

    # the loop

    def _take(self, task: TaskState, event: Event) -> None:
        """Event in: fold it, make it durable, then carry out what follows. Nothing happens to a task that has ended."""
        self._clock.check()
        if task.outcome is None:
            self._record(task, [*self._emissions.taken(task), event])

    def _record_emitted(self, task: TaskState) -> None:
        """Make what the task has emitted durable; its watchers hear of it then."""
        emitted = self._emissions.taken(task)
        if task.outcome is None and emitted:
            self._record(task, emitted)

    def _record(self, task: TaskState, events: list[Event]) -> None:
        doing = self._journal.doing
        doing.begin(task.record.task_id, task.entries)
        try:
            self._fold_in(task, events)
        except Exception as error:
            self._fail_task(task, error)
        doing.end()

    def _fold_in(self, task: TaskState, events: list[Event]) -> None:
        told = self._watchers.see(task, events)
        effects: list[Effect] = []
        for event in events:
            self._tally.happened(task, event)
            effects = apply(task, event)
        if task.faults:
            self._faults.of(task)
        self._lifecycle.happened(task, event.at)
        entry = self._entry(task, events)
        changes: list[Change] = [entry]
        if is_parked_or_was(task):
            changes.append(standing(task, task.status))
            if task.status == "parked":
                self._watchers.tell(task.record.task_id, parked_event(self._world.now()))
        then = partial(self._carry_out, task, effects)
        self._journal.write(changes, partial(self._tell_all, task, told, entry.n, then) if told else then)

    def _fail_task(self, task: TaskState, error: Exception) -> None:
        """What happened to it cannot be recorded: it fails, and says so."""
        failure = self._faults.note(f"task {task.record.task_id}", error)
        effects: list[Effect] = [Halt(place) for place in task.running.values()]
        task.running.clear()
        task.outcome = Outcome(failure=failure)
        self._journal.write([self._entry(task, [])], partial(self._carry_out, task, effects))

    async def _keep_tidy(self) -> None:
        while True:
            await self._world.sleep(LOOK_S)
            self._clock.check()
            self._stalls.look()
            self._blocked.look(self._dispatcher.pools)
            if len(self._plans) > 1:
                await self._versions.retire({task.hash for task in self._tasks.values()})

    def _entry(self, task: TaskState, events: list[Event]) -> Entry:
        now = events[-1].at if events else self._world.now()
        return entry_of(task, events, now, self._settings.max_value_bytes)

    def _tell_all(self, task: TaskState, told: list[ClientEvent], n: int, then: Callable[[], None]) -> None:
        for event in told:
            shielded("telling watchers", self._watchers.tell, task.record.task_id, event, n)
        then()

    def _carry_out(self, task: TaskState, effects: list[Effect]) -> None:
        doing = self._journal.doing
        doing.begin(task.record.task_id, task.entries)
        for effect in effects:
            try:
                self._carry_out_one(task, effect)
            except Exception as error:
                self._effect_failed(task, effect, error)
        if task.outcome is not None and self._tasks.pop(task.record.task_id, None) is not None:
            self._gate.ended(task.record)
            self._tally.ended(task.record)
            self._retention.finished += 1
            shielded("telling how a task ended", self._watchers.ended, task.record, task.told)
            task.root.let_go()
        self._admission.settle(task)
        doing.end()

    def _carry_out_one(self, task: TaskState, effect: Effect) -> None:
        match effect:
            case Run():
                if task.running.get(effect.place.path) is effect.place:
                    self._admission.run(task, effect.place)
            case Halt():
                self._dispatcher.halt(task, effect.place)
            case Alarm():
                self._alarms.set(task, effect.place)
            case _:
                assert_never(effect)

    def _effect_failed(self, task: TaskState, effect: Effect, error: Exception) -> None:
        """A step that cannot be run for a fault of ours has failed."""
        failure = self._faults.note(f"task {task.record.task_id}, {type(effect).__name__}", error)
        if isinstance(effect, Run) and task.running.get(effect.place.path) is effect.place:
            self._take(task, StepFailed(effect.place.path, failure, None, self._world.now()))

    def _note_beginning(self, task: TaskState, place: Place, go: Callable[[], None]) -> None:
        """An at-most-once step is about to be sent to a host: go on when that is durable."""
        if task.running.get(place.path) is place:
            began = StepBegan(place.path, self._world.now())
            apply(task, began)
            self._journal.write([self._entry(task, [began])], go)

    def _step_ended(self, task: TaskState, place: Place, result: StepResult | RunEnded) -> None:
        """A host or a tier answered."""
        self._clock.check()
        if task.running.get(place.path) is not place:
            return
        try:
            event = self._retries.event_of(task, place, result)
        except Exception as error:
            event = StepFailed(
                place.path, self._faults.note(f"a result of {place.path}", error), None, self._world.now()
            )
        self._take(task, event)

    def _keep(self, task: TaskState) -> None:
        self._tasks[task.record.task_id] = task
        self._accepted += 1
        task.order = self._accepted
        self._gate.opened(task.record)
        self._lifecycle.opened(task, self._plans[task.hash].has_stages, self._world.now())
