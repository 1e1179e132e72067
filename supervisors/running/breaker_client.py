"""A supervisor's client of the circuit breakers: it lets jobs through or refuses them, and reports how they ended.

The ResourceActor keeps the breakers for all supervisors (`actors/breaker_registry.py`). Each supervisor has a view of
them. While a breaker is closed, jobs pass by that view, without a round trip; their outcomes are reported soon after.
While it is open, jobs are refused here. Jobs that wait already are refused when it opens. When the open time is over,
the client asks the ResourceActor for each job, and the answer says whether the job is a probe.

While the ResourceActor is away, the last view holds, and jobs that have to ask wait for its return.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, assert_never

from ...protocols.errors import PodiumError
from ...protocols.outcomes import Failure
from ...protocols.policy import Breaker, counts_as_failed
from ...protocols.values import Value
from ..messages.host import StepResult
from ..messages.resources import (
    BREAKERS_SAID,
    AllBreakers,
    BreakerChanged,
    BreakerState,
    CallsEnded,
    Probe,
    Probed,
    ReportCalls,
    WatchBreakers,
)
from ..ports.messaging import Connection, Reply
from ..ports.world import World
from .breaker import Call
from .placement import Job

TELL_WITHIN_S = 0.1
"""Longest delay, in seconds, before successful outcomes are reported. Failed and slow ones are reported at once."""
_RECONNECT_S = 0.2
JOIN_AGAIN_S = 1.0
"""Seconds before joining again, so that an overtaken supervisor does not ask again and again."""


class _View(NamedTuple):
    state: str
    generation: int
    until: float
    """Monotonic time until which an open breaker refuses calls."""
    why: str


class _Wish(NamedTuple):
    protocol: str
    go: Callable[[], None]
    refuse: Callable[[Failure], None]


class BreakerClient:
    def __init__(self, world: World, address: str, shard: str, epoch: int, lease_s: float) -> None:
        self._world, self._address = world, address
        self._shard, self._epoch, self._lease_s = shard, epoch, lease_s
        self._policies: dict[str, Breaker] = {}
        self._on_open: list[Callable[[str], None]] = []
        self._line: Connection | None = None
        self._base: int | None = None
        """The generation of breakers that are not in `_views`; None until the ResourceActor has sent all states."""
        self._views: dict[str, _View] = {}
        self._passes: dict[str, Call] = {}
        """The current calls of closed breakers, by breaker: a cache for `lets_through`."""
        self._asking: dict[Job, _Wish] = {}
        """Jobs that wait to be let through."""
        self._numbers = itertools.count(1)
        self._joins = 0
        self._leases: set[str] = set()
        """Leases that are asked for or held. On a join the ResourceActor frees all other leases of this shard."""
        self._ended: Counter[tuple[Call, bool, bool]] = Counter()
        """Outcomes that are not reported yet."""
        self._tells_in_s: float | None = None

    def has(self, job: Job) -> bool:
        """Whether the job waits to be let through."""
        return job in self._asking

    def declare(self, protocol: str, policy: Breaker, on_open: Callable[[str], None]) -> None:
        """Guard the calls of a protocol. `on_open` is called with the name of each breaker that opens."""
        if self._policies.get(protocol) != policy:
            self._policies[protocol] = policy
            if self._line is None:
                self._world.call_later(0.0, self._connect)
            else:
                self._join(self._line)
        self._on_open.append(on_open)

    def lets_through(self, protocol: str, job: Job) -> bool:
        """Whether a job may go at once because its breaker is closed. If not, call `admit`."""
        name = _name(protocol, job)
        call = self._passes.get(name)
        if call is None:
            view = self._view(name)
            if view is None or view.state != "closed":
                return False
            call = self._passes[name] = Call(name, view.generation)
        job.call = call
        return True

    def admit(self, protocol: str, job: Job, go: Callable[[], None], refuse: Callable[[Failure], None]) -> None:
        """Call `go` or `refuse` for a job: now, or when the ResourceActor has answered."""
        if self.lets_through(protocol, job):
            go()
            return
        name, now = _name(protocol, job), self._world.monotonic()
        view = self._view(name)
        if view is not None and view.state in ("open", "forced_open") and now < view.until:
            refuse(self._refusal(name, view))
        else:
            self._asking[job] = _Wish(protocol, go, refuse)
            self._ask(name, job)

    def withdraw(self, job: Job) -> bool:
        """Drop a job that is not wanted any more; returns whether it was waiting here."""
        return self._asking.pop(job, None) is not None

    def ended(self, protocol: str, job: Job, result: StepResult) -> None:
        """Count the result of a job that its host has reported."""
        call, job.call = job.call, None
        if call is None:
            return
        policy = self._policies[protocol]
        failed = result.status != "ok" and counts_as_failed(policy, Failure.from_wire(result.value))
        if failed is None or job.dropped:
            self._release(call)
            return
        if call.lease is not None:
            self._leases.discard(call.lease)
        slow = policy.slow_s is not None and (result.took_s or 0.0) > policy.slow_s
        self._ended[call, failed, slow] += 1
        self._tell_within(0.0 if failed or slow or call.lease else TELL_WITHIN_S)

    def gone(self, job: Job) -> None:
        """Free the call of a job that will not run, or whose outcome is unknown."""
        call, job.call = job.call, None
        if call is not None:
            self._release(call)

    def _release(self, call: Call) -> None:
        if call.lease is not None:
            self._leases.discard(call.lease)
            self._report([CallsEnded(*call, failed=False, slow=False, calls=0)])

    def _view(self, name: str) -> _View | None:
        if self._base is None:
            return None
        return self._views.get(name) or _View("closed", self._base, 0.0, "")

    def _refusal(self, name: str, view: _View) -> Failure:
        left_s = view.until - self._world.monotonic()
        when = f"; it lets some through in {max(left_s, 0.0):.0f} s" if view.state == "open" else ""
        return Failure("breaker_open", f"the breaker of '{name}' refuses calls: {view.why}{when}")

    # asking

    def _ask(self, name: str, job: Job) -> None:
        if self._line is None or self._base is None:
            return  # the client asks after it has joined and has the states of all breakers
        lease = f"{self._shard}@{self._epoch}/{next(self._numbers)}"
        self._leases.add(lease)
        self._line.send(Probe(name, lease), partial(self._answered, name, job, lease))

    def _answered(self, name: str, job: Job, lease: str, reply: Reply) -> None:
        probed = Probed(None, None) if reply.error is not None else reply.read(Probed)
        call = None if probed.generation is None else Call(name, probed.generation, probed.lease)
        if call is None or call.lease is None:
            self._leases.discard(lease)
        if reply.error is not None:
            return  # the client asks again after reconnecting
        waiting = self._asking.pop(job, None)
        if waiting is None:
            if call is not None:
                self._release(call)
            return
        if call is not None:
            job.call = call
            waiting.go()
        else:
            view = self._view(name)
            assert view is not None
            waiting.refuse(self._refusal(name, view))

    # messages of the registry

    def _connect(self) -> None:
        if self._line is None:
            self._line = self._world.line(self._address)
            self._line.watch(self._lost, self._lease_s)
            self._join(self._line)

    def _join(self, line: Connection) -> None:
        policies = {protocol: policy.model_dump(mode="json") for protocol, policy in self._policies.items()}
        self._joins += 1
        watch = WatchBreakers(self._shard, self._epoch, self._joins, policies, sorted(self._leases))
        line.send(watch, partial(self._not_told, line, self._joins), self._hear)

    def _not_told(self, line: Connection, join: int, reply: Reply) -> None:
        """Join again later if the registry has ended the watch, because it counted this supervisor as gone.

        A watch that a later join of this client replaced ends, too; then `_join_again` does nothing.
        """
        if reply.error is None:
            self._world.call_later(JOIN_AGAIN_S, partial(self._join_again, line, join))

    def _join_again(self, line: Connection, join: int) -> None:
        if self._line is line and self._joins == join:
            self._join(line)

    def _lost(self, _error: PodiumError) -> None:
        self._line = None
        self._world.call_later(_RECONNECT_S, self._connect)

    def _hear(self, chunk: list[Value]) -> None:
        said = BREAKERS_SAID.read_chunk(chunk)
        match said:
            case AllBreakers():
                self._take_in_all(said.base, [BreakerState(*row) for row in said.states])
            case BreakerChanged():
                self._take_in(BreakerState(*said.state))
            case _:
                assert_never(said)

    def _take_in_all(self, base: int, states: list[BreakerState]) -> None:
        self._base = base
        self._passes.clear()
        self._views = {state.name: self._read(state) for state in states}
        for job, wish in list(self._asking.items()):
            del self._asking[job]
            self.admit(wish.protocol, job, wish.go, wish.refuse)
        for name in self._views:
            self._look(name)

    def _take_in(self, state: BreakerState) -> None:
        self._passes.pop(state.name, None)
        self._views[state.name] = view = self._read(state)
        if (view.state, view.generation) == ("closed", self._base):
            del self._views[state.name]
        self._look(state.name)

    def _read(self, state: BreakerState) -> _View:
        now = self._world.monotonic()
        until = float("inf") if state.state == "forced_open" else now + (state.left_s or 0.0)
        return _View(state.state, state.generation, until, state.why)

    def _look(self, name: str) -> None:
        view = self._views.get(name)
        if view is not None and view.state in ("open", "forced_open"):
            for on_open in self._on_open:
                on_open(name)

    def refused(self, protocol: str, name: str, jobs: Iterable[Job]) -> list[tuple[Job, Failure]]:
        """Return those of a pool's waiting jobs that are refused because the breaker `name` has opened."""
        failure = self._refusal(name, self._views[name])
        return [(job, failure) for job in jobs if _name(protocol, job) == name]

    # reporting

    def _tell_within(self, delay_s: float) -> None:
        if self._tells_in_s is None or delay_s < self._tells_in_s:
            self._tells_in_s = delay_s
            self._world.call_later(delay_s, self._tell)

    def _tell(self) -> None:
        self._tells_in_s = None
        ended, self._ended = self._ended, Counter()
        if ended:
            self._report([CallsEnded(*call, failed, slow, count) for (call, failed, slow), count in ended.items()])

    def _report(self, calls: list[CallsEnded]) -> None:
        if self._line is not None:
            self._line.send(ReportCalls(calls), _ignore)


def _name(protocol: str, job: Job) -> str:
    return f"{protocol}[{job.key}]" if job.key else protocol


def _ignore(_reply: Reply) -> None:
    """Ignore a reply that carries nothing. If the ResourceActor is lost, `_lost` is called."""
