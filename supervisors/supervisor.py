"""The Supervisor: governs the tasks of one deployed workflow, or of one nested Hierarchy, and owns their shard.

It is the loop around the pure core: event → journal → effects → exchange → event. It holds no decisions of
its own. What the shard holds is authoritative; memory is its fold. Nothing is acknowledged, and no step that
depends on an event starts, before the event is durable. When a commit fails it crashes, and its successor
folds the shard again under the next epoch.

Messages: submit, deploy, cancel, redrive, drop, follow, watch, status, last_words, rest, forget (see the methods).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..protocols.errors import EngineClosed, NotFound, PodiumError, WorkflowDown
from ..protocols.outcomes import Failure, TaskRecord
from ..protocols.tree import Step
from ..protocols.values import Value
from .alarms import Alarms
from .desk import Desk
from .dispatch import Dispatcher
from .emissions import Emissions
from .entries import entry_of, is_parked_or_was, standing
from .events import Abandoned, Cancelled, Due, Event, Restarted, StepBegan, StepLost, unpack_events
from .family import Family
from .fold import apply
from .gate import Gate
from .guard import Guard
from .intake import Intake, Submission
from .last_words import LastWords
from .letters import Engine, Letters
from .lifecycle import Lifecycle
from .permits import Permits
from .plan import Plan, TierPlan
from .pool import Means
from .ports import Ask, Change, Entry, Journal, NewTask, Note, OpenTask, World, durable
from .rest import Rest
from .retention import Retention
from .retries import Retries
from .settings import Governance
from .shards import is_tier, tier_shard
from .state import Effect, Halt, Place, Run, TaskState
from .tally import Tally
from .watchers import Watchers, count_told, done_chunk, parked_event

_DEFINITION, _CURRENT, _CHILDREN = "definition:", "current", "children"


class Supervisor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = Governance()
        self._plans: dict[str, Plan] = {}
        self._code: dict[str, bytes] = {}
        self._tasks: dict[str, TaskState] = {}
        self._tally = Tally()
        self._lifecycle = Lifecycle(self._tally)
        self._accepted = 0
        self._watchers = Watchers()
        self._abandoned: str | None = None
        """Why the workflow is down and its tasks fail, or None."""
        self._last_words = LastWords(world)
        self._journal: Journal
        self._permits: Permits
        self._dispatcher: Dispatcher
        self._gate: Gate
        self._intake: Intake
        self._desk: Desk
        self._alarms: Alarms
        self._letters: Letters
        self._retention: Retention
        self._retries: Retries
        self._rest: Rest

    async def start(self, setup: Mapping[str, Any]) -> dict[str, Value]:
        """setup: shard, settings, resources (see Permits), definitions, code, keep, abandon.

        Folds the shard and goes on with it. In a tier, `keep` are the tasks that the supervisor above still wants;
        other open ones are cancelled. With `abandon` (the reason why the workflow is down) every open task fails.

        Returns:
            {"epoch": this incarnation's, "open": tasks that were taken over}
        """
        self._settings = Governance.from_wire(setup["settings"])
        self._journal = await self._world.open_journal(setup["shard"])
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        await self._world.all([self._world.kill(address) for address in notes.get(_CHILDREN) or []])
        self._open_doors(setup["shard"], setup["resources"], notes)
        stored = [value for name, value in notes.items() if name.startswith(_DEFINITION)]
        stored.sort(key=lambda definition: bool(definition["hash"] == notes.get(_CURRENT)))
        for definition in [*stored, *setup["definitions"]]:
            self._define(definition, setup.get("code") or {})
        self._abandoned = setup.get("abandon")
        tasks = await self._journal.open_tasks()
        if self._abandoned is None:
            if any(plan.uses_quotas for plan in self._plans.values()):
                self._permits.connect()
            self._resume([self._folded(task) for task in tasks], setup.get("keep"))
            await self._dispatcher.wake_busy_tiers(setup["shard"])
        else:
            for task in tasks:
                self._take(self._folded(task), Abandoned(self._abandoned, self._world.now()))
        if not is_tier(setup["shard"]):
            self._world.background(self._retention.keep_sweeping(), "retention")
        return {"epoch": self._journal.epoch, "open": len(tasks)}

    def _open_doors(self, shard: str, resources: list[Any], notes: Mapping[str, Value]) -> None:
        world, settings, journal = self._world, self._settings, self._journal
        self._permits = Permits(world, resources, shard, journal.epoch, settings)
        family = Family(world, settings.restarts, partial(durable, journal), self._give_up)
        guard = Guard(world, resources[0], shard, journal.epoch, settings.lease_s)
        means = Means(world, settings, self._permits, guard, family)
        tier_setup = partial(self._tier_setup, shard, resources)
        self._dispatcher = Dispatcher(
            means, self._step_ended, self._started, self._said, self._note_beginning, tier_setup
        )
        self._desk = Desk(
            world, journal, self._tasks, self._dispatcher, self._watchers, self._take, self._plans, self._record_emitted
        )
        tiers_of = self._dispatcher.tiers_of
        engine = Engine(self._tasks, self._plans, self._take, self._keep, self._entry, self._carry_out, tiers_of)
        self._letters = Letters(world, journal, engine, notes)
        self._retention = Retention(world, settings, journal, self._dispatcher.forget, self._letters.forgotten)
        self._retries = Retries(world, settings, self._plans)
        self._emissions = Emissions(world, settings.max_emitted_bytes, self._record_emitted, self._watchers.tell)
        self._alarms = Alarms(world, self._tasks, self._take, self._retries.late)
        self._gate = Gate(settings)
        self._rest = Rest(world, shard, self._tasks, self._plans, settings.rest_after_s)
        self._intake = Intake(world, self._gate, journal, self._tasks, self._accept, self._carry_out)

    def _tier_setup(self, shard: str, resources: list[Any], tier: TierPlan) -> dict[str, Any]:
        definitions = [t.definition for p in self._plans.values() for t in p.tiers if t.name == tier.name]
        return {
            "shard": tier_shard(shard, tier.name),
            "settings": self._settings.to_wire(),
            "resources": resources,
            "definitions": definitions,
            "code": self._code,
        }

    def _give_up(self, error: PodiumError) -> None:
        self._last_words.give_up(self._dispatcher.close, error)

    async def stop(self) -> None:
        await self._dispatcher.close(EngineClosed(reason=f"{self._world.address} is stopped"))
        await self._journal.close()

    def receive(self, ask: Ask) -> None:
        if ask.kind not in ("status", "last_words", "rest"):
            self._rest.disturb()
        match ask.kind:
            case "submit":
                self._submit(ask)
            case "deploy":
                self._check_not_down()
                self._world.background(self._deploy(ask), "deploy")
            case "cancel":
                self._desk.cancel(ask, str(ask.payload))
            case "follow":
                self._desk.follow(ask, list(ask.payload))
            case "redrive" | "drop":
                self._check_not_down()
                self._letters.receive(ask)
            case "watch":
                self._desk.watch(ask, *ask.payload)
            case "status":
                ask.reply(self._status())
            case "last_words":
                self._last_words.promise(ask)
            case "rest":
                self._rest.promise(ask)
            case "forget":
                self._retention.forget(ask, {id.partition("/")[0] for id in self._tasks})
            case _:
                raise NotFound(what="message kind", name=ask.kind)

    # definitions

    def _define(self, definition: Mapping[str, Any], code: Mapping[str, bytes], in_force: bool = True) -> Plan:
        plan = self._plans.get(definition["hash"])
        if plan is None or plan.definition != definition:
            plan = Plan(definition)
            self._plans[plan.hash] = plan
        self._code.update(code)
        self._dispatcher.prepare(plan, code)
        children = Note(_CHILDREN, self._dispatcher.child_addresses)
        current = [Note(_CURRENT, plan.hash)] if in_force else []
        self._journal.write([Note(_DEFINITION + plan.hash, plan.definition), *current, children])
        return plan

    async def _deploy(self, ask: Ask) -> None:
        """deploy (see `_define`): take a version in, durably, and start its actors; answered when they run."""
        plan = self._define(**ask.payload)
        answer = {"hash": plan.hash, "epoch": self._journal.epoch}
        try:
            with self._rest.busy():
                await self._dispatcher.start(plan)
        except PodiumError as error:
            ask.refuse(error)
        else:
            self._journal.write([], lambda: ask.reply(answer))

    def _status(self) -> dict[str, Value]:
        return {
            "epoch": self._journal.epoch,
            "open": len(self._tasks),
            "users": self._gate.busiest,
            "load": self._world.load()._asdict(),
            "versions": [{"hash": plan.hash, "version": plan.version} for plan in self._plans.values()],
            **self._dispatcher.describe(),
            "counts": {**self._tally.to_wire(), "permit_s": self._permits.waits.to_wire()},
        }

    # tasks in

    def _submit(self, ask: Ask) -> None:
        """submit {"hash", "follow", "tasks": […]}, each as `Intake` reads it.

        One durable acknowledgement for all: [[id, null] or [null, error], …], as the answer, or with "follow"
        as a chunk ["ack", …], and then a chunk "done" for each task as it ends. With "attend" instead of "follow",
        an offset, from a supervisor above, about one task: chunks are what is to be told of it, the answer its end.
        """
        plan = self._plans.get(ask.payload["hash"])
        if plan is None:
            raise NotFound(what="workflow version", name=ask.payload["hash"][:12], hint="deploy it first")
        self._check_not_down()
        tasks, since = ask.payload["tasks"], ask.payload.get("attend")
        if since is None:
            self._intake.take(plan, tasks, partial(self._acknowledge, ask, ask.payload["follow"]))
        else:
            ((id, _, _, _, _, again, *_),) = tasks
            self._intake.take(plan, tasks, lambda _acks, _ended: self._desk.attend(ask, id, since, not again))

    def _check_not_down(self) -> None:
        if self._abandoned is not None:
            raise WorkflowDown(workflow=self._world.address.partition("/")[2], reason=self._abandoned)

    def _acknowledge(self, ask: Ask, follow: bool, acks: list[list[Value]], ended: list[TaskRecord]) -> None:
        if not follow:
            ask.reply(acks)
            return
        ask.chunk(["ack", acks])
        for record in ended:
            ask.chunk(done_chunk(record))
        over = {record.task_id for record in ended}
        self._desk.follow(ask, [id for id, error in acks if error is None and id not in over])

    def _accept(self, plan: Plan, submissions: list[Submission]) -> list[Change]:
        """Open tasks in memory; returns what makes them durable. Their effects follow when that is done."""
        changes: list[Change] = []
        for submission in submissions:
            record = submission.record
            task, effects = plan.begin(record)
            waits = any(isinstance(e, Run) and self._needs_permits(plan, e.place) for e in effects)
            if waits:
                task.record = record = replace(record, status="pending")
            self._keep(task)
            changes.append(NewTask(record, submission.payload_digest))
            if submission.timeout_s is not None:
                due = Due(submission.timeout_s, record.accepted_at)
                effects += apply(task, due)
                changes.append(self._entry(task, [due]))
            elif task.outcome is not None:
                changes.append(self._entry(task, []))
            submission.effects = effects
        return changes

    def _needs_permits(self, plan: Plan, place: Place) -> bool:
        return isinstance(place.node, Step) and bool(plan.settings(place.node).quotas)

    # the loop

    def _take(self, task: TaskState, event: Event) -> None:
        """Event in: fold it, make it durable, then carry out what follows. Nothing happens to a task that has ended."""
        if task.outcome is None:
            self._record(task, [*self._emissions.taken(task), event])

    def _record_emitted(self, task: TaskState) -> None:
        """Make what the task has emitted durable; its watchers hear of it then."""
        emitted = self._emissions.taken(task)
        if task.outcome is None and emitted:
            self._record(task, emitted)

    def _record(self, task: TaskState, events: list[Event]) -> None:
        told = self._watchers.see(task, events)
        effects: list[Effect] = []
        for event in events:
            effects = apply(task, event)
            self._tally.happened(event)
        self._lifecycle.happened(task, event.at)
        entry = entry_of(task, events, event.at)
        changes: list[Change] = [entry]
        if is_parked_or_was(task):
            changes.append(standing(task, task.status))
            if task.status == "parked":
                self._watchers.tell(task.record.task_id, parked_event(self._world.now()))
        then = partial(self._carry_out, task, effects)
        self._journal.write(changes, partial(self._tell_all, task, told, entry.n, then) if told else then)

    def _entry(self, task: TaskState, events: list[Event]) -> Entry:
        return entry_of(task, events, events[-1].at if events else self._world.now())

    def _tell_all(self, task: TaskState, told: list[list[Value]], n: int, then: Callable[[], None]) -> None:
        for event in told:
            self._watchers.tell(task.record.task_id, event, n)
        then()

    def _carry_out(self, task: TaskState, effects: list[Effect]) -> None:
        plan = self._plans[task.record.hash]
        for effect in effects:
            if isinstance(effect, Run):
                if task.running.get(effect.place.path) is effect.place:
                    self._dispatcher.run(plan, task, effect.place)
            elif isinstance(effect, Halt):
                self._dispatcher.halt(task, effect.place)
            else:
                self._alarms.set(task, effect.place)
        if task.outcome is not None and self._tasks.pop(task.record.task_id, None) is not None:
            self._gate.ended(task.record)
            self._tally.ended(task.record)
            self._retention.finished += 1
            self._watchers.ended(task.record, task.told)
            task.root.let_go()

    def _note_beginning(self, task: TaskState, place: Place, go: Callable[[], None]) -> None:
        """An at-most-once step is about to be sent to a host: go on when that is durable."""
        if task.running.get(place.path) is place:
            began = StepBegan(place.path, self._world.now())
            apply(task, began)
            self._journal.write([self._entry(task, [began])], go)

    def _step_ended(self, task: TaskState, place: Place, result: list[Value]) -> None:
        """A host or a tier answered."""
        if task.running.get(place.path) is not place:
            return
        self._take(task, self._retries.event_of(task, place, result))

    def _folded(self, found: OpenTask) -> TaskState:
        """The state of an open task, folded again and kept."""
        record = found.record
        task, _ = self._plans[record.hash].begin(record)
        for body in found.bodies:
            task.entries += 1
            for event in unpack_events(body):
                apply(task, event)
                task.told += count_told(event)
        self._keep(task)
        return task

    def _keep(self, task: TaskState) -> None:
        self._tasks[task.record.task_id] = task
        self._accepted += 1
        task.order = self._accepted
        self._gate.opened(task.record)
        self._lifecycle.opened(task, self._plans[task.record.hash].has_stages, self._world.now())

    def _resume(self, tasks: list[TaskState], keep: list[str] | None) -> None:
        """Have the unfinished steps of tasks that were taken over run."""
        for task in tasks:
            if keep is not None and task.record.task_id not in keep and task.outcome is None and task.ending is None:
                self._take(task, Cancelled(self._world.now(), self._plans[task.record.hash].undo_on_cancel))
                continue
            if task.outcome is not None:
                self._journal.write([self._entry(task, [])], partial(self._carry_out, task, []))
            plan = self._plans[task.record.hash]
            for place in list(task.running.values()):
                if place.began:
                    message = "its supervisor died while it ran, and it is to run at most once"
                    self._step_ended(task, place, ["fail", Failure("uncertain", message).to_wire(), None, False, None])
                else:
                    if place.emitted:
                        self._take(task, Restarted(place.path, self._world.now()))
                    self._dispatcher.run(plan, task, place, recovered=True)
            self._alarms.resume(task)

    def _started(self, task: TaskState, place: Place) -> None:
        """A step was sent to a host, or to its tier."""
        if task.record.status == "pending":
            self._journal.write([standing(task, "running")])
        if self._watchers.is_watched(task.record.task_id):
            self._watchers.live(task, place, "started", self._world.now())
            if not isinstance(place.node, Step):
                self._dispatcher.watch(task, partial(self._desk.relay, task))

    def _said(self, task: TaskState, place: Place, told: list[Value]) -> None:
        """What a step, or what runs it, has to say before it ends."""
        match told:
            case ["lost"]:
                self._take(task, StepLost(place.path, self._world.now()))
            case ["chunk", value]:
                self._emissions.add(task, place, value)
            case ["below", event]:
                self._emissions.relay(task, place, event)
            case [kind, *value]:
                self._watchers.live(task, place, kind, self._world.now(), value)
