"""The dispatcher turns effects into running work: pools of hosts run steps, nested supervisors run nested Hierarchies.

It also waits until a retry is due. It owns the pools and the nested supervisors, and decides nothing about tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from functools import partial
from typing import Protocol

from ...protocols.conditions import ExpressionFailed, key_of
from ...protocols.errors import PodiumError
from ...protocols.outcomes import Failure
from ...protocols.tree import Hierarchy, Step
from ...protocols.values import Value
from ..children.children import Child
from ..children.nested import NestedRun, NestedSupervisor
from ..messages.client import ClientEvent, Submission
from ..messages.host import Run, StepResult, StepSaid, failed
from ..messages.supervisor import AnswerRow, RunEnded, SettleWait
from ..open_tasks import ChecksClock
from ..ports.world import Timer
from ..shards import tier_shard
from ..tasks.plan import Build, Plan, TierPlan, code_for
from ..tasks.state import NodeRun, TaskState
from .elastic import ElasticPool
from .placement import Job
from .pool import Pool, PoolContext


class StepNews(Protocol):
    """The callbacks of the dispatcher about steps."""

    def begins(self, task: TaskState, place: NodeRun, go: Callable[[], None]) -> None:
        """An at-most-once step is about to be sent to a host: record that, and call `go` when it is durable."""

    def ended(self, task: TaskState, place: NodeRun, result: StepResult | RunEnded) -> None:
        """A host or a nested supervisor has answered with a result."""

    def started(self, task: TaskState, place: NodeRun) -> None:
        """The step was sent to a host or to its nested supervisor."""

    def said(self, task: TaskState, place: NodeRun, said: StepSaid) -> None:
        """The step emitted a chunk or logged a line."""

    def lost(self, task: TaskState, place: NodeRun) -> None:
        """The host died while the step ran; the step will run again."""

    def said_below(self, task: TaskState, place: NodeRun, event: ClientEvent) -> None:
        """The nested run of this node run has recorded an event that the task has to record, too."""

    def waits_below(self, task: TaskState, place: NodeRun, rows: list[Value]) -> None:
        """These are all open waits of the nested run of this node run: rows of path and question."""


class TierSetups(Protocol):
    def tier_setup(self, tier: TierPlan) -> Mapping[str, object]:
        """Return the setup for starting a nested supervisor, with every definition of it that is known now."""


class Dispatcher:
    """Runs steps and reports how they ended. It decides nothing about tasks."""

    def __init__(self, means: PoolContext, news: StepNews, setups: TierSetups, clock: ChecksClock) -> None:
        self._news, self._setups, self._clock = news, setups, clock
        self._means = means
        self._world, self._settings, self._family = means.world, means.settings, means.family
        self._pools: dict[Build, Pool] = {}
        self._tiers: dict[str, NestedSupervisor] = {}
        self._jobs: dict[NodeRun, Job] = {}
        self._nested_runs: dict[tuple[str, str], NestedSupervisor] = {}
        self._waits: dict[NodeRun, Timer] = {}
        self._code = means.code
        self._leaving: set[str] = set()
        """Labels of retired pools whose hosts are being ended."""
        self.children_changed: Callable[[], None] = lambda: None
        """Called after a pool was made outside `prepare`."""

    def hold_back(self, is_high: bool) -> None:
        """Give no job to a host as long as `is_high`: too much waits to become durable."""
        self._means.pressure.is_high = is_high
        for pool in () if self._means.pressure else self._pools.values():
            pool.feed()

    def begin_no_more(self) -> None:
        """Give no job to a host any more, here or below, because this supervisor ends soon."""
        self._means.pressure.ends_soon = True
        for tier in self._tiers.values():
            tier.begin_no_more()

    def leave(self, left_s: Mapping[str, float]) -> None:
        """Take work away from the actors at these addresses; their machines are taken away in so many seconds."""
        for tier in self._tiers.values():
            tier.leaves = tier.leaves or tier.address in left_s
        has_left = [pool.leave(left_s) for pool in self._pools.values()]
        if any(has_left):
            self.children_changed()

    @property
    def is_at_work(self) -> bool:
        """Whether a step is at a host, or a nested run under way."""
        return bool(self._nested_runs) or self._has_jobs

    @property
    def runs_steps(self) -> bool:
        """Whether a step is at a host, here or, as far as is known, below. For the time after `begin_no_more`."""
        return self._has_jobs or any(tier.may_run_steps for tier in self._tiers.values())

    @property
    def _has_jobs(self) -> bool:
        return any(host.jobs for pool in self._pools.values() for host in pool.every_host)

    def prepare(self, plan: Plan, code: Mapping[str, bytes]) -> None:
        """Make the pools and nested supervisors of a plan. Their actors start with the first work, or with `start`."""
        self._code.update(code)
        self._family.govern(self._settings.restarts.declared(plan.supervision))
        search_path = list(plan.definition.get("search_path") or [])
        for ref in plan.refs:
            if plan.build(ref) not in self._pools:
                self._new_pool(plan, ref)
            for build, pool in self._pools.items():
                if build.ref == ref:
                    pool.use_code(self._carried(build, plan.build(ref)), search_path)
        for build, pool in self._pools.items():
            if pool.blocked and build.ref not in plan.refs:
                pool.use_code(self._code.get(build.carried), search_path)
        for tier in plan.tiers:
            if tier.name not in self._tiers:
                self._tiers[tier.name] = self._new_tier(tier)
        self._family.adopt(self._children(plan))

    def _new_pool(self, plan: Plan, ref: str) -> Pool:
        """Make the pool of a protocol, with a label that no other pool has.

        So its hosts have addresses of their own, even if another protocol has the same name, or other code is in use.
        """
        build, declared = plan.build(ref), plan.declarations[ref]
        labels = {pool.label for pool in self._pools.values()} | self._leaving
        labels |= {*self._tiers, *(tier.name for tier in plan.tiers)}
        names = (f"{declared.name}~{n}" if n > 1 else declared.name for n in itertools.count(1))
        label = next(name for name in names if name not in labels)
        made = Pool if declared.least_hosts == declared.most_hosts else ElasticPool
        pool = self._pools[build] = made(self._means, declared, self, label, build.code)
        return pool

    def _carried(self, build: Build, newest: Build) -> bytes | None:
        """Return the code for the hosts of a build; if it is lost, the code of the newest build."""
        return self._code.get(build.carried) or self._code.get(newest.carried)

    async def retire(self, plans: Iterable[Plan], why: PodiumError) -> None:
        """End the idle pools that none of these plans needs.

        If a task of their version comes later, the pool is made anew, at other addresses as long as the old hosts are
        not gone.
        """
        needed = {plan.build(ref) for plan in plans for ref in plan.refs}
        idle = [build for build, pool in self._pools.items() if build not in needed and pool.is_idle]
        gone = [self._pools.pop(build) for build in idle]
        labels = {pool.label for pool in gone}
        self._leaving |= labels
        await self._family.retire([host for pool in gone for host in pool.hosts], why)
        self._leaving -= labels

    def _pool(self, plan: Plan, ref: str) -> Pool:
        """Return the pool of a protocol in this version. It is made anew if it was retired."""
        build = plan.build(ref)
        if build not in self._pools:
            pool = self._new_pool(plan, ref)
            pool.use_code(self._carried(build, build), list(plan.definition.get("search_path") or []))
            self._family.adopt(pool.hosts)
            self.children_changed()
        return self._pools[build]

    async def start(self, plan: Plan, in_force: bool) -> None:
        """Start every actor of the plan, in order. Raises SpawnFailed for the first that does not start.

        Hosts of other versions with waiting jobs are started, too: code that they could not find may be there now.
        """
        for pool in self._pools.values():
            if not pool.is_idle and not pool.blocked:
                pool.start_hosts()
        await self._family.start(self._lasting_children(plan))
        for tier in plan.tiers:
            await self._tiers[tier.name].deploy(tier.definition, code_for([tier.definition], self._code), in_force)

    async def start_in_turn(self, plan: Plan) -> None:
        """Start the actors of the plan one after the other.

        Actors that work waits for start by themselves. An actor that does not start counts as a failed child.
        """
        for child in self._lasting_children(plan):
            await self._family.start_alone(child)

    async def wake_busy_tiers(self, shard: str) -> None:
        """Start the nested supervisors with open runs; the runs have to be cancelled if the task above has ended."""
        for name in sorted(self._tiers):
            if await self._world.open_count(tier_shard(shard, name)) > 0:
                self._family.start_soon([self._tiers[name]])

    def _children(self, plan: Plan) -> list[Child]:
        children: list[Child] = []
        for name in plan.children:
            children += [self._tiers[name]] if name in self._tiers else self._pools[plan.build(name)].hosts
        return children

    def _lasting_children(self, plan: Plan) -> list[Child]:
        """Return the children that start with their workflow. Further hosts start when there is work for them."""
        children: list[Child] = []
        for name in plan.children:
            children += [self._tiers[name]] if name in self._tiers else self._pools[plan.build(name)].lasting
        return children

    def _new_tier(self, tier: TierPlan) -> NestedSupervisor:
        address = f"{self._world.address}/{tier.name}"
        return NestedSupervisor(
            self._world, address, partial(self._setups.tier_setup, tier), self._settings.lease_s, self._family
        )

    @property
    def child_addresses(self) -> list[str]:
        hosts = [host.address for pool in self._pools.values() for host in pool.every_host]
        return hosts + [tier.address for tier in self._tiers.values()]

    @property
    def pools(self) -> list[dict[str, Value]]:
        return [pool.describe() for pool in self._pools.values()]

    def describe(self) -> dict[str, Value]:
        return {
            "restarts": self._family.restarts,
            "pools": self.pools,
            "tiers": [{"address": tier.address, "up": tier.is_up} for tier in self._tiers.values()],
        }

    def run(self, plan: Plan, task: TaskState, place: NodeRun, recovered: bool = False) -> None:
        """Run the current attempt of a step, not before `not_before`."""
        delay_s = 0.0
        if place.wait_s > 0:
            self._clock.check()
            delay_s = min(place.not_before - self._world.now(), place.wait_s)
        if delay_s > 0:
            again = partial(self._run_now, plan, task, place, recovered)
            self._waits[place] = self._world.call_later(delay_s, again)
        else:
            self._run_now(plan, task, place, recovered)

    def _run_now(self, plan: Plan, task: TaskState, place: NodeRun, recovered: bool) -> None:
        self._waits.pop(place, None)
        if not isinstance(place.node, Step):
            assert isinstance(place.node, Hierarchy)
            self._delegate(plan.tier(place.node), task, place, recovered)
            return
        settings = plan.settings_in(place.node, task.record)
        try:
            key = key_of(settings.limit_key, place.input) if settings.limit_key else ""
        except ExpressionFailed as error:
            self._news.ended(task, place, failed(Failure("invalid_input", f"limit_key: {error}").to_wire()))
            return
        pool = self._pool(plan, settings.ref)
        job = self._jobs[place] = Job(task, place, settings, key, place.losses, pool=pool)
        pool.submit(job)

    # callbacks of the pools

    def begins(self, job: Job, go: Callable[[], None]) -> None:
        self._news.begins(job.task, job.place, go)

    def started(self, job: Job) -> None:
        self._news.started(job.task, job.place)

    def said(self, job: Job, said: StepSaid) -> None:
        self._news.said(job.task, job.place, said)

    def lost(self, job: Job) -> None:
        self._news.lost(job.task, job.place)

    def result(self, job: Job, result: StepResult) -> None:
        self._jobs.pop(job.place, None)
        self._news.ended(job.task, job.place, result)

    def _delegate(self, plan: TierPlan, task: TaskState, place: NodeRun, recovered: bool) -> None:
        record = task.record
        id = f"{record.task_id.partition('/')[0]}/{place.path}"
        tier = self._tiers[plan.name]
        self._nested_runs[record.task_id, place.path] = tier
        nested = NestedRun(
            run=Submission(id, place.input, record.user, record.priority, None, recovered, None, "critical", None),
            hash=str(plan.definition["hash"]),
            on_event=lambda event: self._news.said_below(task, place, event),
            on_result=lambda result: self._nested_run_ended(task, place, result),
            on_waits=lambda rows: self._news.waits_below(task, place, rows),
            heard=place.heard,
            continues=f"{task.continues.partition('/')[0]}/{place.path}" if task.continues else None,
        )
        tier.submit(nested)
        self._news.started(task, place)

    def expect(self, plan: Plan, task: TaskState, place: NodeRun) -> None:
        """Announce that the nested run of this node run will be submitted later, so that its supervisor keeps it."""
        if isinstance(place.node, Hierarchy):
            tier = self._tiers[plan.tier(place.node).name]
            self._nested_runs[task.record.task_id, place.path] = tier
            tier.expect(f"{task.record.task_id.partition('/')[0]}/{place.path}")

    def _nested_run_ended(self, task: TaskState, place: NodeRun, result: RunEnded) -> None:
        self._nested_runs.pop((task.record.task_id, place.path), None)
        self._news.waits_below(task, place, [])
        self._news.ended(task, place, result)

    def halt(self, task: TaskState, place: NodeRun) -> None:
        """Stop the step of this node run; its later messages are dropped."""
        timer = self._waits.pop(place, None)
        if timer is not None:
            timer.cancel()
        job = self._jobs.pop(place, None)
        if job is not None and job.pool is not None:
            job.pool.cancel(job)
        tier = self._nested_runs.pop((task.record.task_id, place.path), None)
        if tier is not None:
            tier.cancel(f"{task.record.task_id.partition('/')[0]}/{place.path}")

    def tell(self, task: TaskState, place: NodeRun, wait: str) -> None:
        """Tell the nested run of this node run what was decided about one of its waits."""
        tier = self._nested_runs.get((task.record.task_id, place.path))
        if tier is None or place.memory is None or wait not in place.memory.by_path:
            return
        answers = place.memory.by_path[wait]
        rows = None if answers is None else [AnswerRow(*astuple(answer)) for answer in answers]
        tier.settle(SettleWait(f"{task.record.task_id.partition('/')[0]}/{place.path}", wait, rows))

    def message(self, job: Job, lane: int | None, ticket: str | None) -> Run:
        record, place, settings = job.task.record, job.place, job.settings
        due_at, left_s = job.task.due_at(place), None
        if due_at is not None:
            self._clock.check()
            left_s = (job.task.due_at(place) or due_at) - self._world.now()
        task_id = record.task_id.partition("/")[0]
        origin = task_id if job.task.origin is None else job.task.origin.partition("/")[0]
        who = (task_id, place.path, place.attempt, record.user)
        told = None if place.memory is None else place.memory.told()
        return Run(*who, place.input, settings.timeout_s, settings.idle_timeout_s, left_s, origin, lane, ticket, told)

    def is_started(self, task: TaskState, place: NodeRun) -> bool:
        """Whether the step was sent to a host or to its nested supervisor."""
        job = self._jobs.get(place)
        is_sent = job is not None and job.number is not None
        return is_sent or (task.record.task_id, place.path) in self._nested_runs

    def has(self, task: TaskState, place: NodeRun) -> bool:
        """Whether the step is at a host or a nested supervisor, in a backlog, or waits until it may be tried."""
        job = self._jobs.get(place)
        if job is not None:
            return job.pool is not None and job.pool.has(job)
        return place in self._waits or (task.record.task_id, place.path) in self._nested_runs

    def watch(self, task: TaskState, watcher: Callable[[ClientEvent], None]) -> None:
        """Have the live events of the task's nested runs passed to `watcher`."""
        for path in task.running:
            tier = self._nested_runs.get((task.record.task_id, path))
            if tier is not None:
                tier.watch(f"{task.record.task_id.partition('/')[0]}/{path}", watcher)

    def tiers_of(self, id: str) -> list[NestedSupervisor]:
        """Return the nested supervisor that has the run "<task>/<path>", or a run above it; all if it is not known."""
        for (task_id, path), tier in self._nested_runs.items():
            if f"{id}/".startswith(f"{task_id.partition('/')[0]}/{path}/"):
                return [tier]
        return list(self._tiers.values())

    async def forget(self, ids: list[str]) -> set[str]:
        """Have nested supervisors delete the runs of ended tasks; returns the ids of tasks that cannot be deleted."""
        busy: set[str] = set()
        for tier in self._tiers.values():
            busy |= await tier.forget([id for id in ids if id not in busy])
        return busy

    async def close(self, why: PodiumError) -> None:
        """Stop all children, in the reverse of the order of starting."""
        await self._family.end(why)
