"""The lease of a machine in a cluster of many: how long it may work, which others are lost, and who is the home.

These are the decisions of a keeper, without any I/O. On Ray a small process on each machine carries them out
(cluster/on_ray/keeper.py), in a simulation a coroutine does (cluster/simulation/machines.py). Times are in seconds of
a clock that never jumps, and goes on while the machine sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

RENEWALS = 3
"""Number of times that a lease is renewed in its length."""
RETRY_S = 0.2
"""Time between two attempts to reach the database while it is away, in seconds."""
GRACE_SHARE = 0.2
"""Share of a lease that passes after its end until its machine may be declared lost. In it the last process ends."""
PROOF_SHARE = 0.8
"""Share of a lease for which a refused connection shows that nobody can declare this machine lost: whoever does must
have renewed for a whole lease before, without a break."""
LOOK_S = 1.0
"""Time between two looks at our processes on this machine, in seconds."""
IDLE_LEASES = 2.0
"""Time without any process of ours here after which the keeper ends, in leases."""
MISSING_S = 3.0
"""Time without a coordinator at its home after which another is started, in seconds. Ray restarts one that crashed."""
GONE_S = 15.0
"""Time without a coordinator after which a cluster that ends with its driver has ended, in seconds."""
NONE_S = 60.0
"""Time without a coordinator after which a lasting cluster has ended, in seconds: perhaps Ray is gone as a whole."""
START_S = 120.0
"""Longest time that the first coordinator may take to start, in seconds."""
AVOIDED_S = 30.0
"""Time for which nothing is started on a machine that was lost, in seconds. Ray has mostly noticed it after 15 s."""


class Neighbour(NamedTuple):
    """A machine of the present cluster."""

    id: str
    host: str
    node: str
    is_lost: bool
    left_s: float
    """Seconds until it may be declared lost."""


class News(NamedTuple):
    """The state of the cluster at a renewal."""

    home: str
    machines: list[Neighbour]


@dataclass(frozen=True, slots=True)
class Lost:
    """A machine that is lost: nothing runs there any more."""

    node: str
    """Ray's id of the machine."""
    at: float
    """Time at which the keeper heard of it."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """The state of a machine, as its keeper tells it to all our processes there."""

    id: str
    """Id of this machine in the cluster."""
    host: str
    node: str
    generation: int
    until: float
    """Time until which no other machine can declare this one lost; 0 if it has no lease yet."""
    keeper: int = 0
    """Process id of the keeper."""
    home: str = ""
    """Id of the machine that the coordinator belongs to."""
    coordinator_is_missing: bool = False
    """Whether this machine is the home, and no coordinator runs here. Then our processes here start one."""
    lost: dict[str, Lost] = field(default_factory=dict)
    """The machines lost so far, by id."""
    machines: dict[str, str] = field(default_factory=dict)
    """The machines that have a lease, with Ray's ids of them, as of `heard_at`."""
    heard_at: float = 0.0
    """Time at which the last renewal was sent that succeeded."""
    over: str = ""
    """The reason why this machine is no part of the cluster any more; "" if it is."""

    def has_gone(self, id: str, since: float) -> bool:
        """Whether a machine that was there at `since` is lost, or has left after all our processes there had ended."""
        return id in self.lost or (id != "" and self.heard_at > since and id not in self.machines)

    def avoided(self, now: float) -> set[str]:
        """Return Ray's ids of the machines on which nothing should be started now."""
        return {lost.node for lost in self.lost.values() if now - lost.at < AVOIDED_S}


class MachineLease:
    """The lease of one machine, from its keeper's point of view."""

    def __init__(
        self, state: MachineState, lease_s: float, is_lasting: bool, now: float, may_be_home: bool = True
    ) -> None:
        """Begin to decide, now.

        Args:
            is_lasting: whether another machine becomes the home if the present one is lost, so that all goes on.
            may_be_home: whether this machine may become it.
        """
        self.state = state
        self.over = ""
        """The reason why the keeper ends; "" if it does not."""
        self.ends_cluster = False
        """Whether the cluster ends with this keeper, because it has no coordinator any more."""
        self._lease_s, self._is_lasting, self._may_be_home = lease_s, is_lasting, may_be_home
        self._steady_since = self._used_at = now
        self._coordinator_seen = False
        self._missing_since: float | None = None

    # renewals

    def may_declare(self, now: float) -> bool:
        """Whether this machine may declare others lost. It must have renewed for a lease without a break: else nobody
        could renew just now, and the others come back in a moment."""
        return now - self._steady_since > self._lease_s

    def heard(self, began: float, news: News | None) -> bool:
        """Take the news of a renewal that began at `began`; returns whether this machine is to try to be the home."""
        if news is None:
            self.end("another cluster has taken over, or this machine was declared lost")
            return False
        lost = {each.id: Lost(each.node, began) for each in news.machines if each.is_lost}
        present = {each.id: each.node for each in news.machines if not each.is_lost}
        was_home = self.state.home
        self.state = replace(
            self.state,
            until=began + self._lease_s,
            home=news.home,
            lost={**lost, **self.state.lost},
            machines=present,
            heard_at=began,
        )
        if was_home not in ("", news.home) and news.home == self.state.id:
            self.became_home()  # the one before has handed it over
        has_home = any(each.id == news.home and not each.is_lost for each in news.machines)
        if not news.home:
            self.end("the cluster has ended")
        elif not has_home and not self._is_lasting:
            self.end("the machine of the driver, whose cluster it is, is lost")
        return self._may_be_home and not has_home and not self.over

    def became_home(self) -> None:
        self._coordinator_seen = True  # none is starting here
        self.state = replace(self.state, home=self.state.id, coordinator_is_missing=True)

    def failed(self, began: float, now: float, is_down: bool) -> None:
        """Take it that a renewal failed. `is_down`: the database serves nobody, so nobody can declare a machine lost
        yet."""
        self._steady_since = now
        if self.state.until and is_down:
            self.state = replace(self.state, until=max(self.state.until, began + PROOF_SHARE * self._lease_s))

    def next_renewal_s(self, news: News | None) -> float:
        """Return the seconds until the next renewal: soon, if another machine may be declared lost soon."""
        if news is None:
            return 0.0
        ends_s = [each.left_s for each in news.machines if not each.is_lost and each.id != self.state.id]
        return max(RETRY_S, min([self._lease_s / RENEWALS, *ends_s]))

    # this machine

    def next_look_s(self, now: float) -> float:
        return max(0.0, min(LOOK_S, self.state.until - now)) if self.state.until else LOOK_S

    def look(self, now: float, is_used: bool, has_coordinator: bool, is_drained: bool = False) -> None:
        """Take what runs on this machine at present, and see whether the keeper has to end.

        `is_drained`: the machine will be taken away, so nothing is started here any more. Others may wait for the end
        of what ran here, so the keeper ends at once with that.
        """
        if self.state.until and now > self.state.until:
            self.end("its lease could not be renewed")
        if is_used:
            self._used_at = now
        elif is_drained or now - self._used_at > IDLE_LEASES * self._lease_s:
            self.end("nothing runs here")
        self._look_for_coordinator(now, has_coordinator)

    def _look_for_coordinator(self, now: float, has_coordinator: bool) -> None:
        """Note whether this machine is the home and has no coordinator. A cluster that ends with its driver ends."""
        is_home = self.state.home == self.state.id
        if not is_home or has_coordinator:
            self._coordinator_seen, self._missing_since = is_home, None
            is_missing = False
        else:
            self._missing_since = self._missing_since or now
            most_s = START_S if not self._coordinator_seen else MISSING_S if self._is_lasting else GONE_S
            is_missing = self.state.coordinator_is_missing or now - self._missing_since > most_s
        if is_missing and not self._is_lasting:
            self.end("its driver is gone")
        elif is_missing and now - (self._missing_since or 0.0) > NONE_S:
            self.end("no coordinator could be started")
            self.ends_cluster = True
        elif is_missing != self.state.coordinator_is_missing:
            self.state = replace(self.state, coordinator_is_missing=is_missing)

    def end(self, reason: str) -> None:
        self.over = self.over or reason
