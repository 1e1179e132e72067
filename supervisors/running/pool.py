"""The pool of the hosts of one protocol. It sends jobs to hosts by priority, and takes back the jobs of a dead host.

A job waits in the backlog and not at the host. A host gets only as many jobs ahead of their turn as it works off in
`lookahead_s`. A job that needs permits goes ahead of its turn only in a lane (`supervisors/running/lanes.py`).

A job whose host died is queued again, and the attempt is not counted. But the job may be the cause of the death. So the
death counts as a loss of each job that ran. A job with losses runs beside fewer and fewer other jobs, and at last
alone; so the cause is told from the bystanders. After more than `max_losses` losses a job fails as `host_lost`. Deaths
that a job probably caused do not count towards the restart intensity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ...protocols.errors import ENVIRONMENT_FAILED, ComeBack, FixTheCall, PeerLost, PodiumError, SpawnFailed, Unknown
from ...protocols.outcomes import Failure
from ...protocols.probes import hit
from ...protocols.protocol import Declaration
from ...protocols.values import Value
from ..children.children import Children
from ..limits.permit_client import PermitClient
from ..limits.permit_queue import Who
from ..messages.host import STEP_SAID, Run, StepResult, StepSaid, failed
from ..ports.messaging import Reply
from ..ports.world import Environment, Needs, Timer, World
from ..settings import Governance
from ..upkeep.blocked import CODE_CHARS
from .backlog import Backlog
from .breaker_client import BreakerClient
from .lanes import Lanes
from .placement import Host, Job, running

MARGIN_S = 5.0
"""Seconds before the end of a machine at which the last steps there are given up, so that all can stop in order."""
LOOK_S = 0.25
"""Seconds between two looks whether steps run."""
RETRY_ENVIRONMENT_S = 300.0
"""Seconds after which hosts are started again whose environment could not be prepared."""


class JobEvents(Protocol):
    """The callbacks of a pool about its jobs."""

    def message(self, job: Job, lane: int | None, ticket: str | None) -> Run:
        """Make the message that sends the job to a host."""

    def begins(self, job: Job, go: Callable[[], None]) -> None:
        """An at-most-once job is about to be sent: record that, and call `go` when it is durable."""

    def started(self, job: Job) -> None:
        """The job was sent to a host."""

    def said(self, job: Job, said: StepSaid) -> None:
        """The job emitted a chunk or logged a line."""

    def result(self, job: Job, result: StepResult) -> None:
        """The job has ended with a result."""

    def lost(self, job: Job) -> None:
        """The host died while the job ran; the job will run again."""


@dataclass(slots=True)
class Pressure:
    """The reasons for which no job goes to a host."""

    is_high: bool = False
    """Whether too much waits to become durable."""
    ends_soon: bool = False
    """Whether the supervisor ends soon."""

    def __bool__(self) -> bool:
        return self.is_high or self.ends_soon


@dataclass(frozen=True, slots=True)
class PoolContext:
    """The parts of a supervisor that all its pools share."""

    world: World
    settings: Governance
    permits: PermitClient
    guard: BreakerClient
    family: Children
    pressure: Pressure = field(default_factory=Pressure)
    code: dict[str, bytes] = field(default_factory=dict)
    """The code that clients brought: pickles by `carried_key`, and packages (`PACKAGE`)."""


class Pool:
    def __init__(
        self, means: PoolContext, declared: Declaration, listener: JobEvents, label: str, fingerprint: str
    ) -> None:
        """`label` is unique among the pools of this supervisor; `fingerprint` is that of the pool's code."""
        self.label, self._fingerprint = label, fingerprint
        self._world, self._settings = means.world, means.settings
        self._permits, self._family, self._guard = means.permits, means.family, means.guard
        self._declared, self._listener, self._pressure = declared, listener, means.pressure
        self._brought = means.code
        self._backlog = Backlog(label, self._permits, self._settings, self)
        self._lanes = Lanes(self._world, self._permits, self._backlog, self)
        self._most = declared.most_hosts
        self.hosts = [self._new_host(f"{means.world.address}/{label}-{n}") for n in range(self._most)]
        self._numbers = itertools.count(self._most)
        self._leaving: list[Host] = []
        """Hosts whose machine will be taken away. They get no more jobs, and others have taken their places."""
        self._up = 0
        """Number of hosts that run."""
        self._code: bytes | None = None
        self._search_path: list[str] = []
        self._code_from = 0
        """Number of calls of `use_code` so far: it tells the deployments of code apart."""
        self._succeeded_at = -math.inf
        if declared.breaker is not None:
            self._guard.declare(declared.name, declared.breaker, self._breaker_opened)
        self.blocked: str | None = None
        """The reason why no host can start until the workflow is deployed again, or None."""
        self._may_retry = False
        """Whether the reason may pass by itself."""
        self._retry: Timer | None = None
        """The timer for the next try, while one is pending."""

    def _new_host(self, address: str) -> Host:
        return Host(self, address, self._declared.concurrency, self._settings.lookahead_s)

    def describe(self) -> dict[str, Value]:
        return {
            "protocol": self._declared.ref,
            "code": self._fingerprint[:CODE_CHARS],
            "hosts": self.wanted,
            "up": self._up,
            "running": sum(len(host.jobs) for host in self.every_host),
            "queued": len(self._backlog),
            "blocked": self.blocked,
            "hosts_min": self._declared.least_hosts,
            "hosts_max": self._most,
        }

    @property
    def wanted(self) -> int:
        """The number of hosts that there should be."""
        return self._most

    @property
    def lasting(self) -> list[Host]:
        """The hosts that run all the time, from the deployment of their workflow or the first step on."""
        return self.hosts

    @property
    def is_idle(self) -> bool:
        return not self._backlog and not self._leaving and not any(host.jobs for host in self.hosts)

    @property
    def every_host(self) -> list[Host]:
        return [*self.hosts, *self._leaving]

    def use_code(self, code: bytes | None, search_path: list[str]) -> None:
        """Set the code and the folders from which hosts load the protocol when they start next."""
        self._code, self._search_path = code, search_path
        self._code_from += 1
        self.blocked = None

    def submit(self, job: Job) -> None:
        self._admit(job, self._enqueue)

    def _admit(self, job: Job, go: Callable[[Job], None]) -> None:
        """Call `go` if the protocol's breaker lets the job through, else refuse the job; perhaps later."""
        if self._declared.breaker is None or self._guard.lets_through(self._declared.name, job):
            go(job)
        else:
            self._guard.admit(self._declared.name, job, partial(go, job), partial(self._refuse, job))

    def _refuse(self, job: Job, failure: Failure) -> None:
        self._listener.result(job, failed(failure.to_wire()))

    def _breaker_opened(self, name: str) -> None:
        for job, failure in self._guard.refused(self._declared.name, name, self._backlog):
            self._backlog.withdraw(job)
            self._guard.gone(job)
            self._refuse(job, failure)
        self.feed()

    def _enqueue(self, job: Job) -> None:
        if self._up < self._most and self._can_start():
            self.start_hosts()
        host = None if job.settings.quotas or self._backlog else self._free_host(job)
        if host is not None:
            self._give(host, job)  # nobody waits, so there is no order to keep
        else:
            self._wait(job)

    def start_hosts(self) -> None:
        """Start the hosts that there is work for, in the background."""
        self._family.start_soon(self.hosts)

    def _wait(self, job: Job) -> None:
        self._backlog.add(job)
        if job.settings.quotas:
            self.feed()
            self._lanes.look_ahead_soon(self.hosts)
        elif self._backlog.first() is job:
            self.feed()  # the job that was first before has been tried already

    def has(self, job: Job) -> bool:
        """Whether the job is at a host, in the backlog, or waits for a breaker."""
        at_host = job.host is not None and job in job.host.jobs
        return at_host or self._backlog.has(job) or self._guard.has(job)

    def cancel(self, job: Job) -> None:
        """Stop the job. Its result is not reported; its permits come back when its code has ended."""
        job.dropped = True
        if self._guard.withdraw(job):
            return
        if job.host is None:
            self._backlog.withdraw(job)
            self._guard.gone(job)
            self.feed()
        elif job.number is None:
            self._drop_unsent(job, job.host)
        elif job.host.line is not None:
            job.host.line.cancel(job.number)

    # jobs

    def feed(self) -> None:
        while (job := self._backlog.first()) is not None:
            host = self._free_host(job)
            if host is None:
                return
            self._give(host, self._backlog.take_first())

    def _free_host(self, job: Job) -> Host | None:
        """Return the host with the most room for this job, or None if no host has room."""
        if self._pressure:
            return None
        best, most = None, 0
        for host in self.hosts:
            if host.line is not None:
                room = self._room(host, job)
                if room > most:
                    best, most = host, room
        return best

    def _room(self, host: Host, job: Job) -> int:
        """Number of further jobs like this one that `host` may get now; may be negative."""
        if job.losses or host.suspects:
            hit("suspect runs beside fewer")
            losses = max(other.losses for other in (job, *host.jobs))
            share = 1 - losses / max(losses, self._settings.max_losses)
            return max(1, math.floor(math.pow(self._declared.concurrency, share))) - len(host.jobs)
        if job.settings.at_most_once:
            return self._declared.concurrency - len(host.jobs)
        if job.settings.quotas:
            return self._declared.concurrency - len(host.jobs) + sum(lane.ahead for lane in host.lanes.values())
        return host.most - len(host.jobs)

    def _give(self, host: Host, job: Job) -> None:
        """Send a job to a host, with the permits that the job has."""
        ticket, job.ticket = job.ticket, None
        if ticket is not None:
            job.lane = self._lanes.enter(host, ticket)
            self._lanes.look_ahead_soon(self.hosts)
        self.send(host, job, ticket)

    def send(self, host: Host, job: Job, ticket: str | None) -> None:
        host.jobs[job] = None
        host.suspects += job.losses > 0
        job.host = host
        if job.lane is not None:
            job.lane.jobs += 1
        if job.settings.at_most_once:
            job.ticket = ticket
            self._listener.begins(job, partial(self._send_once, host, job, host.turn))
        else:
            self._send_now(host, job, ticket)

    def _send_once(self, host: Host, job: Job, turn: int) -> None:
        """Send an at-most-once job, now that it is durable that the job may have run."""
        if job.host is host and host.turn == turn and host.line is not None:
            ticket, job.ticket = job.ticket, None
            self._send_now(host, job, ticket)

    def _drop_unsent(self, job: Job, host: Host) -> None:
        """Drop an at-most-once job that waits until its start is durable."""
        ticket, job.ticket = job.ticket, None
        lane = job.lane
        self._leave(job, host)
        self._guard.gone(job)
        if lane is not None and ticket is not None:
            self._lanes.permit_back(host, lane, ticket)
        self.feed()

    def _send_now(self, host: Host, job: Job, ticket: str | None) -> None:
        lane = None if job.lane is None else job.lane.number
        assert host.line is not None
        listener = self._listener
        answered, said = partial(self._answered, job, ticket), partial(self._said, job)
        try:
            job.number = host.line.send(listener.message(job, lane, ticket), answered, said)
        except PodiumError as error:
            self._answered(job, ticket, Reply(error=error))
        else:
            listener.started(job)

    def _said(self, job: Job, chunk: list[Value]) -> None:
        self._listener.said(job, STEP_SAID.read_chunk(chunk))

    def has_room_ahead(self, host: Host) -> bool:
        is_sound = host.line is not None and not host.suspects and not host.is_stuck
        return is_sound and not self._pressure and len(host.jobs) < host.most

    def _answered(self, job: Job, ticket: str | None, reply: Reply) -> None:
        """Handle the answer of a host. `ticket` is that of the permits that the job was sent with."""
        host = job.host
        if host is None or isinstance(reply.error, Unknown):
            return  # `end_host` queues it again
        lane = job.lane
        self._leave(job, host)
        if isinstance(reply.error, FixTheCall | ComeBack):  # not sent: too large, or too many wait
            failure = Failure(reply.error.code, str(reply.error), type(reply.error).__name__)
            result = failed(failure.to_wire(), permit=ticket)
        elif reply.error is not None:
            result = StepResult("fail", Failure("internal", str(reply.error)).to_wire(), stuck=True)
        else:
            result = reply.read(StepResult)
            self._succeeded_at = self._world.monotonic()
        if job.call is not None:
            self._guard.ended(self._declared.name, job, result)
        if result.took_s is not None:
            host.measure(result.took_s)
        if result.stuck:
            host.is_stuck = True
            self._world.log("warning", "host is stuck", host=host.address, task=job.task.record.task_id)
            self._world.background(self._world.kill(host.address), f"replace {host.address}")
        elif lane is not None and result.permit is not None:
            self._lanes.permit_back(host, lane, result.permit)
        if result.used:
            self._settle(job, result.used)
        if not job.dropped:
            self._listener.result(job, result)
        self.feed()
        self._lanes.look_ahead_soon(self.hosts)

    def _settle(self, job: Job, used: Mapping[str, float]) -> None:
        """Charge the difference between what a run used of its rates and what it was granted."""
        who = Who("", self.label, job.task.record.user, "", job.key)
        needs = job.settings.quotas
        self._permits.charge(who, {quota: amount - needs.get(quota, 0) for quota, amount in used.items()})

    def _leave(self, job: Job, host: Host) -> None:
        """Remove a job from a host."""
        del host.jobs[job]
        host.suspects -= job.losses > 0
        if job.lane is not None:
            job.lane.jobs -= 1
        job.host = job.lane = job.number = None

    # hosts

    async def start_host(self, host: Host) -> None:
        host.turn += 1
        await self._spawn(host, self._needs())

    async def _spawn(self, host: Host, needs: Needs) -> None:
        """Start the actor of a host, and connect to it, unless the host is ended meanwhile. Raises SpawnFailed."""
        turn, declared = host.turn, self._declared
        setup = {
            "ref": declared.ref,
            "name": declared.name,
            "concurrency": declared.concurrency,
            "grace_s": self._settings.grace_s,
            "max_value_bytes": self._settings.max_value_bytes,
            "inline_bytes": self._settings.inline_bytes,
            "max_blob_bytes": self._settings.max_blob_bytes,
            "blobs_timeout_s": self._settings.blobs_timeout_s,
            "config": self._settings.config,
            "secrets": dict(self._settings.secrets),
            "log_bytes": self._settings.log_bytes,
            "log_files": self._settings.log_files,
            "code": self._code,
            "code_from": self._code_from,
            "search_path": self._search_path,
        }
        try:
            await self._world.spawn("host", host.address, setup, needs)
        except SpawnFailed as error:
            if host.turn != turn:
                return
            if not error.is_of_code:
                raise
            if self._code_from != setup["code_from"]:
                await self.start_host(host)  # deployed again meanwhile
                return
            self._block(error)
            raise
        if host.turn == turn:
            self.blocked = None
            self._connect(host)

    def _block(self, error: SpawnFailed) -> None:
        """Note why no host can start. An environment is tried again after a while, if jobs wait then or come later."""
        self.blocked = error.reason
        self._may_retry = error.kind == ENVIRONMENT_FAILED
        if self._may_retry and self._retry is None:
            self._retry = self._world.call_later(RETRY_ENVIRONMENT_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self.blocked is not None and self._backlog:
            self.start_hosts()

    def _can_start(self) -> bool:
        return self.blocked is None or (self._may_retry and self._retry is None)

    def _needs(self) -> Needs:
        declared = self._declared
        environment = None
        if declared.runtime_env is not None:
            packages = {key: self._brought[key] for key in declared.runtime_env.packages if key in self._brought}
            environment = Environment(declared.runtime_env.to_ray(), packages, self._settings.runtime_env_timeout_s)
        resources = declared.num_cpus, declared.num_gpus, declared.resources
        return Needs(*resources, spread=declared.spread, environment=environment)

    def _connect(self, host: Host) -> None:
        host.line, host.is_stuck = self._world.line(host.address), False
        host.line.watch(partial(self._lost, host), self._settings.lease_s, partial(self._may_compute, host))
        self._count_places()
        self.feed()

    def _may_compute(self, host: Host, silent_s: float) -> bool:
        """Whether a running job may hold the interpreter's lock, so that the host cannot answer, for `silent_s`."""
        limits = [job.settings.timeout_s for job in running(host)]
        return any(limit_s is None or silent_s <= limit_s + self._settings.grace_s for limit_s in limits)

    def _count_places(self) -> None:
        self._up = sum(host.line is not None for host in self.hosts)
        self._permits.set_places(self.label, self._up * self._declared.concurrency)

    def _lost(self, host: Host, error: PodiumError) -> None:
        hit("host lost at work" if host.jobs else "host lost idle")
        host.line = None
        self._count_places()
        excused = host.is_stuck or self._charge(host)
        if host not in self._leaving:
            self._family.failed(host, error, counted=not excused)

    def _charge(self, host: Host) -> bool:
        """Count the death of a host as a loss of every job that ran; returns whether a job is the likely cause.

        That is so if one of the jobs had losses before, or if a host answered within the last `restart_period_s`.
        """
        ran = [job for job in running(host) if job.number is not None][: self._declared.concurrency]
        is_usual = self._world.monotonic() - self._succeeded_at < self._settings.restart_period_s
        likely = bool(ran) and (is_usual or any(job.losses for job in ran))
        for job in ran:
            host.suspects += job.losses == 0
            job.losses += 1
            if not job.dropped:
                self._listener.lost(job)
        return likely

    def leave(self, left_s: Mapping[str, float]) -> bool:
        """Give the places of these hosts to others, as their machines are taken away in so many seconds.

        Returns whether there is such a host here.
        """
        leaving = [host for host in self.hosts if host.address in left_s and host.line is not None]
        for host in leaving:
            hit("host leaves")
            other = self._new_host(f"{self._world.address}/{self.label}-{next(self._numbers)}")
            self.hosts[self.hosts.index(host)] = other
            self._leaving.append(host)
            self._family.replace(host, other)
            self._family.start_soon([other])
            self._world.background(self._see_off(host, left_s[host.address]), f"see {host.address} off")
        self._count_places()
        return bool(leaving)

    async def _see_off(self, host: Host, left_s: float) -> None:
        """End a host when its jobs have ended, or shortly before its machine is gone. Then its jobs run elsewhere."""
        give_up_at = self._world.monotonic() + max(0.0, left_s - MARGIN_S)
        while host.jobs and host.line is not None and self._world.monotonic() < give_up_at:
            await self._world.sleep(LOOK_S)
        if host.jobs:
            hit("step preempted")
            self._world.log("info", "steps preempted", host=host.address, steps=len(host.jobs))
        await self._family.retire([host], PeerLost(address=host.address, reason="preempted: its machine is taken away"))
        self._leaving.remove(host)

    async def end_host(self, host: Host, error: PodiumError) -> None:
        """End a host. Its permits and its jobs are freed only when the host is certainly dead."""
        host.turn += 1
        line, host.line = host.line, None
        self._count_places()
        if line is not None:
            hit("host stopped with others")
            line.close()
            await self._world.stop(host.address)
        else:
            await self._world.kill(host.address)
        self._lanes.end(host)
        for job in list(host.jobs):
            was_sent, job.ticket = job.number is not None, None
            self._leave(job, host)
            self._guard.gone(job)
            if job.dropped:
                hit("dropped job lost")
            else:
                self._requeue(job, error, was_sent)

    def _requeue(self, job: Job, error: PodiumError, was_sent: bool) -> None:
        hit("job queued again")
        if job.settings.at_most_once and was_sent:
            message = f"its host was lost while it ran, and it is to run at most once: {error}"
            self._listener.result(job, failed(Failure("uncertain", message).to_wire()))
        elif job.losses > self._settings.max_losses:
            message = f"lost {job.losses} hosts of '{self._declared.name}' while it ran; the last: {error}"
            self._listener.result(job, failed(Failure("host_lost", message).to_wire()))
        else:
            self._admit(job, self._wait)
