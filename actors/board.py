"""The board: the circuit breakers of the cluster, kept by the ResourceActor for all supervisors.

Supervisors have a view of every breaker, and let calls through by it while it is closed; they only report how calls
ended. While one is half-open they ask for each call. A breaker is named after its protocol, `model`, or after that and
its key, `model[large]`.

Messages:
    breakers {shard, version, policies, leases}: answered when a later one of that shard replaces it; the version is its
        epoch and a number, the leases are all that it holds or has asked for. Chunks are first ["all", generation of
        breakers not named, [state, …]], then ["state", state] for each change, a state being [name, state, generation,
        seconds for which it stays open or None, why].
    calls [[name, generation, lease, failed, slow, count], …]: how calls ended; a count of 0 gives a probe back.
    probe [name, lease]: whether one more call may go through: [generation, lease or None], or None.
    breaker [name, "open" | "reset"]: by hand.

States other than closed are journalled, so a crash of the ResourceActor closes nothing. They end with the cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ..protocols.errors import NotFound
from ..protocols.policy import Breaker as Policy
from ..protocols.values import Value
from ..supervisors.breaker import Breaker, Call, Outcomes
from ..supervisors.ports import Ask, Journal, Note, World

KEEP_UNUSED_S = 600.0
"""How long a breaker is remembered when no more calls come."""
_BREAKER = "breaker:"
_PER_EPOCH = 1 << 32


class Board:
    def __init__(self, world: World) -> None:
        self._world = world
        self._journal: Journal | None = None
        self._policies: dict[str, Policy] = {}
        """By protocol."""
        self._breakers: dict[str, Breaker] = {}
        self._views: dict[str, tuple[list[int], Ask]] = {}
        """By shard: (epoch, number) of what it said last, and where changes are told."""
        self._told: dict[str, int] = {}
        """By breaker: the last generation that supervisors know, and the journal."""
        self._stored: dict[str, Any] = {}
        """From before a crash, of protocols that nobody has declared since."""
        self._base = 0
        self._generations = itertools.count(1)

    def open(self, journal: Journal, notes: Mapping[str, Value], cold: bool) -> None:
        """Take over what an earlier incarnation journalled, unless the cluster is new."""
        self._journal, self._base = journal, journal.epoch * _PER_EPOCH
        self._generations = itertools.count(self._base + 1)
        stored = {name.removeprefix(_BREAKER): note for name, note in notes.items() if name.startswith(_BREAKER)}
        if cold:
            journal.write([Note(_BREAKER + name, None) for name in stored])
        else:
            self._stored = stored

    def receive(self, ask: Ask) -> None:
        match ask.kind:
            case "breakers":
                self._view(ask, **ask.payload)
            case "calls":
                for call in ask.payload:
                    self._ended(*call)
                ask.reply()
            case "probe":
                call = self._permit(*ask.payload)
                ask.reply(None if call is None else [call.generation, call.lease])
            case "breaker":
                self._by_hand(*ask.payload)
                ask.reply(self.to_wire())

    def _view(self, ask: Ask, shard: str, version: list[int], policies: Mapping[str, Any], leases: list[str]) -> None:
        if (before := self._views.get(shard)) is not None:
            if before[0] > version:
                ask.reply()
                return
            before[1].reply()
        self._views[shard] = version, ask
        self._void(shard, set(leases))
        for protocol, wire in policies.items():
            self._policies[protocol] = policy = Policy.model_validate(wire)
            for name, breaker in self._breakers.items():
                if _protocol(name) == protocol:
                    breaker.policy = policy
        for name in [name for name in self._stored if _protocol(name) in policies]:
            self._restore(name, self._stored.pop(name))
        ask.chunk(["all", self._base, [self._state(name) for name in self._breakers]])

    @property
    def shards(self) -> list[str]:
        """Whose supervisors are told of changes."""
        return list(self._views)

    def forget(self, shard: str) -> None:
        """A shard whose supervisor is gone for good."""
        if before := self._views.pop(shard, None):
            before[1].reply()
        self._void(shard, set())

    def _void(self, shard: str, held: set[str]) -> None:
        """Free the probes of a shard that it does not know of: it died, or the answer was lost."""
        for breaker in self._breakers.values():
            for lease in breaker.leases - held:
                if lease.startswith(f"{shard}@"):
                    breaker.release(lease)

    def _breaker(self, name: str) -> Breaker | None:
        """None if no supervisor has declared its protocol, since this actor started."""
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

    def _ended(self, name: str, generation: int, lease: str | None, failed: bool, slow: bool, count: int) -> None:
        breaker = self._breaker(name)
        if breaker is None:
            return
        if count:
            call = Call(name, generation, lease)
            breaker.record(call, Outcomes(failed, slow, count), self._world.monotonic())
        breaker.release(lease)
        self._tell(name, breaker)

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
        """Everybody of a change, and the journal."""
        if breaker.generation == self._told[name]:
            return
        self._told[name] = breaker.generation
        state = self._state(name)
        for _, ask in self._views.values():
            ask.chunk(["state", state])
        if self._journal is not None:
            is_closed = breaker.state == "closed"
            until = self._world.now() + (state[3] or 0.0)
            self._journal.write([Note(_BREAKER + name, None if is_closed else [breaker.state, until, breaker.why])])

    def _state(self, name: str) -> list[Value]:
        breaker = self._breakers[name]
        left_s = breaker.until - self._world.monotonic() if breaker.state == "open" else None
        return [name, breaker.state, breaker.generation, left_s, breaker.why]

    def tidy(self) -> None:
        """Forget breakers that nobody uses, and that would let calls through: there may be one for each key."""
        now = self._world.monotonic()
        for name, breaker in list(self._breakers.items()):
            unused_s = now - max(breaker.since, breaker.last_call_at)
            waits_s = breaker.policy.open_s if breaker.state == "open" else 0.0
            if breaker.state != "forced_open" and not breaker.leases and unused_s > KEEP_UNUSED_S + waits_s:
                del self._breakers[name], self._told[name]
                if breaker.state != "closed" and self._journal is not None:
                    self._journal.write([Note(_BREAKER + name, None)])
                for _, ask in self._views.values():
                    ask.chunk(["state", [name, "closed", self._base, None, ""]])

    def to_wire(self) -> dict[str, Any]:
        now = self._world.monotonic()
        return {name: breaker.to_wire(now) for name, breaker in sorted(self._breakers.items())}


def _protocol(name: str) -> str:
    return name.partition("[")[0]
