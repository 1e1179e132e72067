"""From effects to running work: pools of hosts for steps, tiers for nested Hierarchies, timers for waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..protocols.conditions import ExpressionFailed, key_of
from ..protocols.errors import PodiumError
from ..protocols.outcomes import Failure
from ..protocols.tree import Hierarchy, Step
from ..protocols.values import Value
from .backlog import Job
from .family import Child
from .plan import Plan, TierPlan
from .pool import Listener, Means, Pool
from .ports import Timer
from .state import Place, TaskState
from .tier import Errand, Tier, tier_shard

_STARTED: list[Value] = ["started"]
_LOST: list[Value] = ["lost"]


class Dispatcher:
    """Runs steps and reports how they ended; it decides nothing about the task."""

    def __init__(
        self,
        means: Means,
        report: Callable[[TaskState, Place, list[Value]], None],
        tell: Callable[[TaskState, Place, list[Value]], None],
        note_beginning: Callable[[TaskState, Place, Callable[[], None]], None],
        tier_setup: Callable[[TierPlan], Mapping[str, Any]],
    ) -> None:
        """`report` gets results, `tell` what else happened to a step: ["started"], ["lost"], ["chunk", …], or in a
        nested Hierarchy: ["below", event].

        `note_beginning` calls back when it is durable that an at-most-once step may have run.
        """
        self._note_beginning = note_beginning
        self._means = means
        self._world, self._settings, self._family = means.world, means.settings, means.family
        self._report, self._tell, self._tier_setup = report, tell, tier_setup
        self._pools: dict[str, Pool] = {}
        self._tiers: dict[str, Tier] = {}
        self._jobs: dict[tuple[str, str], Job] = {}
        self._errands: dict[tuple[str, str], Tier] = {}
        self._waits: dict[tuple[str, str], Timer] = {}
        self._code: dict[str, bytes] = {}

    def prepare(self, plan: Plan, code: Mapping[str, bytes]) -> None:
        """Make pools and tiers for a plan; their actors start with the first work, or with `start`."""
        self._code.update(code)
        self._family.govern(self._settings.restarts.declared(plan.supervision))
        for ref in plan.refs:
            if ref not in self._pools:
                listener = Listener(
                    self._job_begins, self._job_started, self._job_said, self._job_ended, self._job_lost
                )
                self._pools[ref] = Pool(self._means, plan.declarations[ref], listener)
            self._pools[ref].use_code(self._code.get(ref), list(plan.definition.get("search_path") or []))
        for tier in plan.tiers:
            if tier.name not in self._tiers:
                self._tiers[tier.name] = self._new_tier(tier)
        self._family.adopt(self._children(plan))

    async def start(self, plan: Plan) -> None:
        """Start every actor of the plan, in order; raises SpawnFailed for the first that does not start."""
        await self._family.start(self._children(plan))
        for tier in plan.tiers:
            await self._tiers[tier.name].deploy(tier.definition, self._code)

    async def wake_busy_tiers(self, shard: str) -> None:
        """A tier with open runs is needed, if only to cancel them: the task above may have ended as we died."""
        for name in sorted(self._tiers):
            if await self._world.open_count(tier_shard(shard, name)) > 0:
                self._family.start_soon([self._tiers[name]])

    def _children(self, plan: Plan) -> list[Child]:
        children: list[Child] = []
        for name in plan.children:
            children += self._pools[name].hosts if name in self._pools else [self._tiers[name]]
        return children

    def _new_tier(self, tier: TierPlan) -> Tier:
        address = f"{self._world.address}/{tier.name}"
        return Tier(self._world, address, partial(self._tier_setup, tier), self._settings.lease_s, self._family)

    @property
    def child_addresses(self) -> list[str]:
        hosts = [host.address for pool in self._pools.values() for host in pool.hosts]
        return hosts + [tier.address for tier in self._tiers.values()]

    def describe(self) -> dict[str, Value]:
        return {
            "restarts": self._family.restarts,
            "pools": [pool.describe() for pool in self._pools.values()],
            "tiers": [{"address": tier.address, "up": tier.is_up} for tier in self._tiers.values()],
        }

    def run(self, plan: Plan, task: TaskState, place: Place, order: int, recovered: bool = False) -> None:
        """Have the attempt at `place` run, not before its time."""
        delay_s = min(place.not_before - self._world.now(), place.wait_s) if place.wait_s > 0 else 0.0
        if delay_s > 0:
            key = (task.record.task_id, place.path)
            self._waits[key] = self._world.call_later(
                delay_s, lambda: self._run_now(plan, task, place, order, recovered)
            )
        else:
            self._run_now(plan, task, place, order, recovered)

    def _run_now(self, plan: Plan, task: TaskState, place: Place, order: int, recovered: bool) -> None:
        key = (task.record.task_id, place.path)
        self._waits.pop(key, None)
        if isinstance(place.node, Step):
            try:
                job = self._job(plan, task, place, place.node, order)
            except ExpressionFailed as error:
                self._report(task, place, ["fail", Failure("invalid_input", f"limit_key: {error}").to_wire()])
                return
            self._jobs[key] = job
            self._pools[place.node.step].submit(job)
        else:
            assert isinstance(place.node, Hierarchy)
            self._delegate(plan.tier(place.node), task, place, recovered)

    def _job(self, plan: Plan, task: TaskState, place: Place, step: Step, order: int) -> Job:
        settings, record = plan.settings(step), task.record
        times: list[Value] = [settings.timeout_s, settings.idle_timeout_s, task.due_at(place)]
        task_id, origin = record.task_id.partition("/")[0], (task.origin or record.task_id).partition("/")[0]
        return Job(
            what=(task, place),
            accepted_at=record.accepted_at,
            order=order,
            priority=record.priority,
            user=record.user,
            key=key_of(settings.limit_key, place.input) if settings.limit_key else "",
            payload=[task_id, place.path, place.attempt, record.user, place.input, times, origin],
            needs=settings.quotas,
            once=settings.at_most_once,
            losses=place.losses,
        )

    def _job_begins(self, job: Job, go: Callable[[], None]) -> None:
        task, place = job.what
        self._note_beginning(task, place, go)

    def _job_started(self, job: Job) -> None:
        task, place = job.what
        self._tell(task, place, _STARTED)

    def _job_said(self, job: Job, chunk: list[Value]) -> None:
        task, place = job.what
        self._tell(task, place, chunk)

    def _job_lost(self, job: Job) -> None:
        task, place = job.what
        self._tell(task, place, _LOST)

    def _job_ended(self, job: Job, result: list[Value]) -> None:
        task, place = job.what
        self._ended(task, place, result)

    def _delegate(self, plan: TierPlan, task: TaskState, place: Place, recovered: bool) -> None:
        record = task.record
        id = f"{record.task_id.partition('/')[0]}/{place.path}"
        tier = self._tiers[plan.name]
        self._errands[record.task_id, place.path] = tier
        errand = Errand(
            task=[id, place.input, record.user, record.priority, None, recovered, None, "critical", None],
            hash=str(plan.definition["hash"]),
            on_event=lambda event: self._tell(task, place, ["below", event]),
            on_result=lambda result: self._ended(task, place, result),
            heard=place.heard,
            continues=f"{task.continues.partition('/')[0]}/{place.path}" if task.continues else None,
        )
        tier.submit(errand)
        self._tell(task, place, _STARTED)

    def _ended(self, task: TaskState, place: Place, result: list[Value]) -> None:
        key = (task.record.task_id, place.path)
        self._jobs.pop(key, None)
        self._errands.pop(key, None)
        self._report(task, place, result)

    def halt(self, task: TaskState, place: Place) -> None:
        """Stop the step at `place`; what it still says is dropped."""
        key = (task.record.task_id, place.path)
        timer = self._waits.pop(key, None)
        if timer is not None:
            timer.cancel()
        job = self._jobs.pop(key, None)
        if job is not None:
            self._pools[job_ref(place)].cancel(job)
        tier = self._errands.pop(key, None)
        if tier is not None:
            tier.cancel(f"{key[0].partition('/')[0]}/{place.path}")

    def is_started(self, task: TaskState, place: Place) -> bool:
        """Whether the step has been sent to a host or to its tier."""
        key = (task.record.task_id, place.path)
        job = self._jobs.get(key)
        return key in self._errands or (job is not None and job.number is not None)

    def watch(self, task: TaskState, watcher: Callable[[Value], None]) -> None:
        """Pass on the live events of what the task has delegated to tiers."""
        for path in task.running:
            tier = self._errands.get((task.record.task_id, path))
            if tier is not None:
                tier.watch(f"{task.record.task_id.partition('/')[0]}/{path}", watcher)

    def tiers_of(self, id: str) -> list[Tier]:
        """The tier that a run "<task>/<path>", or a node above it, was delegated to; all, if its task has ended."""
        for (task_id, path), tier in self._errands.items():
            if f"{id}/".startswith(f"{task_id.partition('/')[0]}/{path}/"):
                return [tier]
        return list(self._tiers.values())

    async def forget(self, ids: list[str]) -> set[str]:
        """Have the tiers delete what they recorded of ended tasks; returns those that they cannot forget now."""
        busy: set[str] = set()
        for tier in self._tiers.values():
            busy |= await tier.forget([id for id in ids if id not in busy])
        return busy

    async def close(self, why: PodiumError) -> None:
        """Stop all children, the last started first."""
        await self._family.end(why)


def job_ref(place: Place) -> str:
    assert isinstance(place.node, Step)
    return place.node.step
