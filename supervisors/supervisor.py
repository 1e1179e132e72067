"""The Supervisor: governs the tasks of one deployed workflow, or of one nested Hierarchy, and owns their shard.

It is the loop around the pure core: event → journal → effects → exchange → event. It holds no decisions of
its own. What the shard holds is authoritative; memory is its fold. Nothing is acknowledged, and no step that
depends on an event starts, before the event is durable. When a commit fails it crashes, and its successor
folds the shard again under the next epoch.

Messages: submit, deploy, cancel, follow, watch, status (see the methods).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..protocols.errors import NotFound, PodiumError
from ..protocols.outcomes import OPEN, Failure, TaskRecord, TaskStatus
from ..protocols.policy import delay_before_retry, may_retry
from ..protocols.tree import Step
from ..protocols.values import Value, pack
from .dispatch import Dispatcher
from .events import Cancelled, Event, StepFailed, StepFinished, pack_events, unpack_events
from .fold import apply, begin
from .intake import Intake, Submission
from .permits import Permits
from .plan import Plan, TierPlan
from .ports import Ask, Change, Closing, Entry, Found, Journal, NewTask, Note, OpenTask, Running, World
from .settings import Governance
from .state import Effect, Place, Run, TaskState
from .watchers import Watch, Watchers, done_chunk, end_event, live_event, past_events

_DEFINITION, _CHILDREN = "definition:", "children"


class Supervisor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = Governance()
        self._plans: dict[str, Plan] = {}
        self._code: dict[str, bytes] = {}
        self._tasks: dict[str, TaskState] = {}
        self._orders: dict[str, int] = {}
        self._accepted = 0
        self._watchers = Watchers()
        self._journal: Journal
        self._permits: Permits
        self._dispatcher: Dispatcher
        self._intake: Intake

    async def start(self, setup: Mapping[str, Any]) -> dict[str, Value]:
        """setup: shard, settings, resources (address), definitions, code. Folds the shard and goes on with it.

        Returns:
            {"epoch": this incarnation's, "open": tasks that were taken over}
        """
        self._settings = Governance.from_wire(setup["settings"])
        self._journal = await self._world.open_journal(setup["shard"])
        self._journal.on_failure = self._world.crash
        notes = await self._journal.notes()
        await self._world.all([self._world.kill(address) for address in notes.get(_CHILDREN) or []])
        self._open_doors(setup["shard"], setup["resources"])
        stored = [value for name, value in notes.items() if name.startswith(_DEFINITION)]
        for definition in [*stored, *setup["definitions"]]:
            self._define(definition, setup.get("code") or {})
        if any(plan.uses_quotas for plan in self._plans.values()):
            self._permits.connect()
        tasks = await self._journal.open_tasks()
        for task in tasks:
            self._take_over(task)
        return {"epoch": self._journal.epoch, "open": len(tasks)}

    def _open_doors(self, shard: str, resources: str) -> None:
        world, settings, journal = self._world, self._settings, self._journal
        self._permits = Permits(world, resources, shard, journal.epoch, settings.lease_s)
        tier_setup = partial(self._tier_setup, shard, resources)
        self._dispatcher = Dispatcher(world, settings, self._permits, self._step_ended, self._tell, tier_setup)
        self._intake = Intake(world, settings, journal, self._tasks, self._accept, self._carry_out)

    def _tier_setup(self, shard: str, resources: str, tier: TierPlan) -> dict[str, Any]:
        definitions = [t.definition for p in self._plans.values() for t in p.tiers if t.name == tier.name]
        return {
            "shard": f"{shard}.{tier.name}",
            "settings": self._settings.to_wire(),
            "resources": resources,
            "definitions": definitions,
            "code": self._code,
        }

    async def stop(self) -> None:
        await self._dispatcher.close()
        await self._journal.close()

    def receive(self, ask: Ask) -> None:
        match ask.kind:
            case "submit":
                self._submit(ask)
            case "deploy":
                self._world.background(self._deploy(ask), "deploy")
            case "cancel":
                self._cancel(ask, str(ask.payload))
            case "follow":
                self._follow(ask, list(ask.payload))
            case "watch":
                self._watch(ask, str(ask.payload))
            case "status":
                ask.reply(self._status())
            case _:
                raise NotFound(what="message kind", name=ask.kind)

    # definitions

    def _define(self, definition: Mapping[str, Any], code: Mapping[str, bytes]) -> Plan:
        plan = self._plans.get(definition["hash"])
        if plan is None or plan.definition != definition:
            plan = Plan(definition)
            self._plans[plan.hash] = plan
        self._code.update(code)
        self._dispatcher.prepare(plan, code)
        children = Note(_CHILDREN, self._dispatcher.child_addresses)
        self._journal.write([Note(_DEFINITION + plan.hash, plan.definition), children])
        return plan

    async def _deploy(self, ask: Ask) -> None:
        """deploy {"definition", "code"}: take a version in, durably, and start its actors; answered when they run."""
        plan = self._define(ask.payload["definition"], ask.payload["code"])
        answer = {"hash": plan.hash, "epoch": self._journal.epoch}
        try:
            await self._dispatcher.start(plan)
        except PodiumError as error:
            ask.refuse(error)
        else:
            self._journal.write([], lambda: ask.reply(answer))

    def _status(self) -> dict[str, Value]:
        return {
            "epoch": self._journal.epoch,
            "open": len(self._tasks),
            "versions": [{"hash": plan.hash, "version": plan.version} for plan in self._plans.values()],
            **self._dispatcher.describe(),
        }

    # tasks in

    def _submit(self, ask: Ask) -> None:
        """submit {"hash", "follow", "tasks": [[id, input, user, priority, key, again], …]}.

        One durable acknowledgement for all: [[id, null] or [null, error], …], as the answer, or with "follow"
        as a chunk ["ack", …], and then a chunk "done" for each task as it ends.
        """
        plan = self._plans.get(ask.payload["hash"])
        if plan is None:
            raise NotFound(what="workflow version", name=ask.payload["hash"][:12], hint="deploy it first")
        self._intake.take(plan, ask.payload["tasks"], partial(self._acknowledge, ask, ask.payload["follow"]))

    def _acknowledge(self, ask: Ask, follow: bool, acks: list[list[Value]], ended: list[TaskRecord]) -> None:
        if not follow:
            ask.reply(acks)
            return
        ask.chunk(["ack", acks])
        for record in ended:
            ask.chunk(done_chunk(record))
        over = {record.task_id for record in ended}
        self._follow(ask, [id for id, error in acks if error is None and id not in over])

    def _accept(self, plan: Plan, submissions: list[Submission]) -> list[Change]:
        """Open tasks in memory; returns what makes them durable. Their effects follow when that is done."""
        changes: list[Change] = []
        for submission in submissions:
            record = submission.record
            task, effects = begin(record, plan.root, record.task_id.partition("/")[2])
            waits = any(isinstance(e, Run) and self._needs_permits(plan, e.place) for e in effects)
            if waits:
                task.record = record = replace(record, status="pending")
            self._tasks[record.task_id] = task
            self._accepted += 1
            self._orders[record.task_id] = self._accepted
            changes.append(NewTask(record, submission.payload_digest))
            if task.outcome is not None:
                changes.append(self._entry(task, []))
            submission.effects = effects
        return changes

    def _needs_permits(self, plan: Plan, place: Place) -> bool:
        return isinstance(place.node, Step) and bool(plan.settings(place.node).quotas)

    # the loop

    def _take(self, task: TaskState, event: Event, attempt: int = 1) -> None:
        """Event in: fold it, make it durable, then carry out what follows."""
        effects = apply(task, event)
        entry = self._entry(task, [event])
        self._journal.write([entry], partial(self._committed, task, event, effects, attempt, entry.n))

    def _entry(self, task: TaskState, events: list[Event]) -> Entry:
        task.entries += 1
        closing = None
        if task.outcome is not None:
            at = self._world.now()
            failure = task.outcome.failure
            status: TaskStatus = task.status  # type: ignore[assignment]
            task.record = replace(
                task.record, status=status, finished_at=at, result=task.outcome.output, failure=failure
            )
            result = None if failure else pack(task.outcome.output)
            closing = Closing(status, at, result, pack(failure.to_wire()) if failure else None)
        return Entry(task.record.task_id, task.entries, pack_events(events), closing)

    def _committed(self, task: TaskState, event: Event, effects: list[Effect], attempt: int, n: int) -> None:
        if self._watchers.is_watched(task.record.task_id):
            told = live_event(event, attempt)
            if told is not None:
                self._watchers.tell(task.record.task_id, told, n)
        self._carry_out(task, effects)

    def _carry_out(self, task: TaskState, effects: list[Effect]) -> None:
        plan, order = self._plans[task.record.hash], self._orders.get(task.record.task_id, 0)
        for effect in effects:
            if not isinstance(effect, Run):
                self._dispatcher.halt(task, effect.place)
            elif task.running.get(effect.place.path) is effect.place:
                self._dispatcher.run(plan, task, effect.place, order)
        if task.outcome is not None and self._tasks.pop(task.record.task_id, None) is not None:
            del self._orders[task.record.task_id]
            self._watchers.ended(task.record)

    def _step_ended(self, task: TaskState, place: Place, result: list[Value]) -> None:
        """A host or a tier answered."""
        if task.running.get(place.path) is not place:
            return
        now = self._world.now()
        if result[0] == "ok":
            self._take(task, StepFinished(place.path, result[1], now), place.attempt)
            return
        failure = Failure.from_wire(result[1]).at(place.path, place.attempt)
        retry_at = None
        if isinstance(place.node, Step):
            policy = self._plans[task.record.hash].settings(place.node).retry
            if may_retry(policy, failure, place.attempt):
                retry_at = now + delay_before_retry(policy, place.attempt, self._world.random)
        self._take(task, StepFailed(place.path, failure, retry_at, now), place.attempt)

    def _take_over(self, found: OpenTask) -> None:
        """Fold an open task again and have its unfinished steps run."""
        record = found.record
        task, _ = begin(record, self._plans[record.hash].root, record.task_id.partition("/")[2])
        for body in found.bodies:
            task.entries += 1
            for event in unpack_events(body):
                apply(task, event)
        self._tasks[record.task_id] = task
        self._accepted += 1
        self._orders[record.task_id] = order = self._accepted
        if task.outcome is not None:
            self._journal.write([self._entry(task, [])], partial(self._carry_out, task, []))
        for place in task.running.values():
            self._dispatcher.run(self._plans[record.hash], task, place, order, recovered=True)

    # tasks seen from outside

    def _cancel(self, ask: Ask, task_id: str) -> None:
        """cancel id: answered with the task's status then; a task that has ended stays as it is."""
        task = self._tasks.get(task_id)
        if task is not None and task.outcome is None:
            self._take(task, Cancelled(self._world.now()))
            self._journal.write([], lambda: ask.reply("cancelled"))
            return
        self._journal.find([task_id], [], partial(self._reply_status, ask, task_id))

    def _reply_status(self, ask: Ask, task_id: str, found: list[Found]) -> None:
        if found:
            ask.reply(found[0].record.status)
        else:
            ask.refuse(NotFound(what="task", name=task_id))

    def _follow(self, ask: Ask, ids: list[str]) -> None:
        """follow [id, …]: a chunk "done" for each as it ends; answered after the last."""
        if all(id in self._tasks for id in ids):
            self._watchers.follow(ask, ids)
        else:  # look all of them up: more may end before the answer is there
            self._journal.find(ids, [], partial(self._follow_found, ask, ids))

    def _follow_found(self, ask: Ask, ids: list[str], found: list[Found]) -> None:
        records = {each.record.task_id: each.record for each in found}
        missing = [id for id in ids if id not in self._tasks and id not in records]
        if missing:
            ask.refuse(NotFound(what="task", name=missing[0]))
            return
        over = [record for record in records.values() if record.status not in OPEN]
        for record in over:
            ask.chunk(done_chunk(record))
        self._watchers.follow(ask, [id for id in ids if id not in {record.task_id for record in over}])

    def _watch(self, ask: Ask, task_id: str) -> None:
        """watch id: a chunk per event, the past first; answered when the task ends."""
        task = self._tasks.get(task_id)
        if task is None:
            self._journal.find([task_id], [], partial(self._watch_found, ask, task_id))
            return
        watch = self._watchers.watch(ask, task_id)
        self._dispatcher.watch(task, lambda event: self._relay(task_id, event))
        self._journal.entries(task_id, lambda bodies: self._tell_past(watch, task, bodies))

    def _watch_found(self, ask: Ask, task_id: str, found: list[Found]) -> None:
        if not found:
            ask.refuse(NotFound(what="task", name=task_id))
            return
        self._journal.entries(task_id, lambda bodies: self._tell_all(ask, found[0].record, bodies))

    def _tell_all(self, ask: Ask, record: TaskRecord, bodies: list[bytes]) -> None:
        for event in past_events(record, _unpacked(bodies)):
            ask.chunk(event)
        ask.chunk(end_event(record))
        ask.reply()

    def _tell_past(self, watch: Watch, task: TaskState, bodies: list[bytes]) -> None:
        past = past_events(task.record, _unpacked(bodies))
        for place in task.running.values():
            if self._dispatcher.is_started(task, place):
                past.append(["started", self._world.now(), place.path, place.attempt, None])
        self._watchers.caught_up(watch, past, len(bodies))

    def _relay(self, task_id: str, event: list[Value]) -> None:
        """An event of a task in a tier below, for the watchers of the task above; its end is not theirs."""
        if event[2]:
            self._watchers.tell(task_id, event)

    def _tell(self, task: TaskState, place: Place, told: list[Value]) -> None:
        """Something happened that is not journalled: a step was sent to a host, or said something."""
        task_id = task.record.task_id
        if told[0] == "started":
            self._mark_running(task)
        if self._watchers.is_watched(task_id):
            kind, value = told[0], told[1:]
            event = [
                kind,
                self._world.now(),
                place.path,
                place.attempt,
                value[0] if len(value) == 1 else value or None,
            ]
            self._watchers.tell(task_id, event)
            if kind == "started" and not isinstance(place.node, Step):
                self._dispatcher.watch(task, lambda event: self._relay(task_id, event))

    def _mark_running(self, task: TaskState) -> None:
        if task.record.status == "pending":
            task.record = replace(task.record, status="running")
            self._journal.write([Running(task.record.task_id)])


def _unpacked(bodies: list[bytes]) -> list[Event]:
    return [event for body in bodies for event in unpack_events(body)]
