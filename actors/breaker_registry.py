"""The circuit breakers of the cluster, kept by the ResourceActor for all supervisors.

Supervisors have a view of every breaker. While a breaker is closed they let calls through by their view, and report
only how the calls ended. While a breaker is half-open they ask here for each call. A breaker is named after its
protocol (`model`), or after the protocol and a key (`model[large]`).

The messages are in supervisors/messages/resources.py.

States other than closed are on record in the journal, so a crash of the ResourceActor closes no breaker. They end with
the cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, assert_never

from ..protocols.errors import NotFound
from ..protocols.policy import Breaker as Policy
from ..protocols.values import Value
from ..supervisors.messages.client import BreakerStates, SetBreaker
from ..supervisors.messages.door import with_kind
from ..supervisors.messages.resources import (
    AllBreakers,
    BreakerChanged,
    BreakerState,
    CallsEnded,
    Probe,
    Probed,
    ReportCalls,
    WatchBreakers,
)
from ..supervisors.ports.journal import Journal, Note
from ..supervisors.ports.messaging import Incoming
from ..supervisors.ports.world import Level, World
from ..supervisors.running.breaker import Breaker, Call, Outcomes

KEEP_UNUSED_S = 600.0
"""Seconds for which a breaker without calls is remembered."""
_BREAKER = "breaker:"
_PER_EPOCH = 1 << 32


class BreakerRegistry:
    def __init__(self, world: World) -> None:
        self._world = world
        self._journal: Journal | None = None
        self._policies: dict[str, Policy] = {}
        """Breaker policies by protocol."""
        self._breakers: dict[str, Breaker] = {}
        self._views: dict[str, tuple[list[int], Incoming]] = {}
        """By shard: (epoch, number) of its last `WatchBreakers`, and that message, on which changes are told."""
        self._told: dict[str, int] = {}
        """By breaker: the last generation that was told to supervisors and written to the journal."""
        self._stored: dict[str, object] = {}
        """States from before a crash, by breaker, of protocols that no supervisor has declared since."""
        self._base = 0
        self._generations = itertools.count(1)

    def open(self, journal: Journal, notes: Mapping[str, Value], cold: bool) -> None:
        """Take over the states that an earlier incarnation recorded; if the cluster is new (`cold`), delete them."""
        self._journal, self._base = journal, journal.epoch * _PER_EPOCH
        self._generations = itertools.count(self._base + 1)
        stored = {name.removeprefix(_BREAKER): note for name, note in notes.items() if name.startswith(_BREAKER)}
        if cold:
            journal.write([Note(_BREAKER + name, None) for name in stored])
        else:
            self._stored = stored

    def receive(self, ask: Incoming, message: WatchBreakers | ReportCalls | Probe | SetBreaker) -> None:
        match message:
            case WatchBreakers():
                self._view(ask, message)
            case ReportCalls():
                for row in message.calls:
                    self._ended(CallsEnded(*row))
                ask.reply()
            case Probe():
                call = self._permit(message.name, message.lease)
                ask.reply(Probed(None, None) if call is None else Probed(call.generation, call.lease))
            case SetBreaker():
                self._by_hand(message.name, message.action)
                ask.reply(BreakerStates(self.to_wire()))
            case _:
                assert_never(message)

    def _view(self, ask: Incoming, watch: WatchBreakers) -> None:
        shard, version = watch.shard, [watch.epoch, watch.number]
        if (before := self._views.get(shard)) is not None:
            if before[0] > version:
                ask.reply()
                return
            before[1].reply()
        self._views[shard] = version, ask
        self._void(shard, set(watch.leases))
        for protocol, wire in watch.policies.items():
            self._policies[protocol] = policy = Policy.model_validate(wire)
            for name, breaker in self._breakers.items():
                if _protocol(name) == protocol:
                    breaker.policy = policy
        for name in [name for name in self._stored if _protocol(name) in watch.policies]:
            self._restore(name, self._stored.pop(name))
        ask.chunk(with_kind(AllBreakers(self._base, [self._state(name) for name in self._breakers])))

    @property
    def shards(self) -> list[str]:
        """Shards whose supervisors are told of changes."""
        return list(self._views)

    def forget(self, shard: str) -> None:
        """End the watch and free the probes of a shard whose supervisor is gone for good."""
        if before := self._views.pop(shard, None):
            before[1].reply()
        self._void(shard, set())

    def _void(self, shard: str, held: set[str]) -> None:
        """Free the probes of a shard that are not in `held`: their supervisor died, or an answer was lost."""
        for breaker in self._breakers.values():
            for lease in breaker.leases - held:
                if lease.startswith(f"{shard}@"):
                    breaker.release(lease)

    def _breaker(self, name: str) -> Breaker | None:
        """Return the breaker with this name; None if no supervisor has declared its protocol since the last start."""
        if name not in self._breakers and _protocol(name) in self._policies:
            generations = itertools.chain([self._base], self._generations)
            self._breakers[name] = Breaker(name, self._policies[_protocol(name)], generations)
            self._told[name] = self._base
        return self._breakers.get(name)

    def _permit(self, name: str, lease: str) -> Call | None:
        breaker = self._breaker(name)
        if breaker is None:
            return Call(name, self._base)
        call = breaker.permit(lease, self._world.monotonic())
        self._tell(name, breaker)
        return call

    def _ended(self, ended: CallsEnded) -> None:
        breaker = self._breaker(ended.name)
        if breaker is None:
            return
        if ended.calls:
            call = Call(ended.name, ended.generation, ended.lease)
            breaker.record(call, Outcomes(ended.failed, ended.slow, ended.calls), self._world.monotonic())
        breaker.release(ended.lease)
        self._tell(ended.name, breaker)

    def _by_hand(self, name: str, action: str) -> None:
        breaker = self._breaker(name)
        if breaker is None:
            known = ", ".join(self._policies) or "none"
            raise NotFound(what="breaker", name=name, hint=f"protocols that run and have one: {known}")
        now = self._world.monotonic()
        breaker.force_open(now) if action == "open" else breaker.reset(now)
        self._tell(name, breaker)

    def _restore(self, name: str, stored: Any) -> None:
        state, until, why = stored
        breaker, now = self._breaker(name), self._world.monotonic()
        assert breaker is not None
        if state == "forced_open":
            breaker.force_open(now)
        else:
            breaker.reopen(until - self._world.now(), why, now)

    def _tell(self, name: str, breaker: Breaker) -> None:
        """Tell all watching supervisors of a change of state, and write it to the journal."""
        if breaker.generation == self._told[name]:
            return
        self._told[name] = breaker.generation
        state = self._state(name)
        level: Level = "info" if breaker.state == "closed" else "warning"
        self._world.log(level, f"breaker {breaker.state.replace('_', ' ')}", breaker=name, reason=breaker.why or None)
        for _, ask in self._views.values():
            ask.chunk(with_kind(BreakerChanged(state)))
        if self._journal is not None:
            is_closed = breaker.state == "closed"
            until = self._world.now() + (state.left_s or 0.0)
            self._journal.write([Note(_BREAKER + name, None if is_closed else [breaker.state, until, breaker.why])])

    def _state(self, name: str) -> BreakerState:
        breaker = self._breakers[name]
        left_s = breaker.until - self._world.monotonic() if breaker.state == "open" else None
        return BreakerState(name, breaker.state, breaker.generation, left_s, breaker.why)

    def tidy(self) -> None:
        """Drop unused breakers that would let calls through. Else they would pile up, with one for each key."""
        now = self._world.monotonic()
        for name, breaker in list(self._breakers.items()):
            unused_s = now - max(breaker.since, breaker.last_call_at)
            waits_s = breaker.policy.open_s if breaker.state == "open" else 0.0
            if breaker.state != "forced_open" and not breaker.leases and unused_s > KEEP_UNUSED_S + waits_s:
                del self._breakers[name], self._told[name]
                if breaker.state != "closed" and self._journal is not None:
                    self._journal.write([Note(_BREAKER + name, None)])
                for _, ask in self._views.values():
                    ask.chunk(with_kind(BreakerChanged(BreakerState(name, "closed", self._base, None, ""))))

    def to_wire(self) -> dict[str, Any]:
        now = self._world.monotonic()
        return {name: breaker.to_wire(now) for name, breaker in sorted(self._breakers.items())}


def _protocol(name: str) -> str:
    return name.partition("[")[0]
