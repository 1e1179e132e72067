"""What supervisors and the coordinator say to the ResourceActor: about permits, the ledger, and circuit breakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, get_args

from ...protocols.limits import Amount
from ...protocols.values import Value
from .client import SetBreaker, SetLimits
from .door import Door, message, tagged

# permits


class Joined(NamedTuple):
    """The supervisor is known as a holder of permits from now on."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]
    """Limits that are lower at the moment, because of the load."""


class Decided(NamedTuple):
    """The answer to a wish for permits."""

    granted: bool
    """False if the wish is decided by the supervisor itself, which has the ledger on loan."""


GRANTED, ELSEWHERE = Decided(True), Decided(False)


class ResourceStatus(NamedTuple):
    """Limits and breakers as they are."""

    limits: dict[str, Any]
    """By name: `limit` as it was set (None if it is not set, and waited for), `now` if it is lowered because of the
    load, and its use."""
    breakers: dict[str, Any]
    throttle: dict[str, Any]
    load: dict[str, float]


@tagged
class Lend(NamedTuple):
    """The ledger is on loan to the supervisor: it alone wants permits, and decides by itself."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]
    meters: Any
    """What the rates are at."""
    granted: Sequence[str]
    """Tickets that are granted already."""


@tagged
class Recall(NamedTuple):
    """Somebody else wants permits: join again with what you hold."""


@tagged
class Wanted(NamedTuple):
    """Whether somebody waits for permits, so that nobody keeps what it does not use."""

    is_wanted: bool


@tagged
class LimitsChanged(NamedTuple):
    """Limits were set, or lowered because of the load."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]


@tagged
class AskUse(NamedTuple):
    """Say with `ReportUse` how the ledger that you have on loan is used."""


@message(reply=Joined)
class Join(NamedTuple):
    """Become a holder of permits, with what is held already. It voids what earlier incarnations of the shard held, and
    it returns a ledger that was on loan."""

    shard: str
    start: Sequence[int]
    """Number of the start, as the coordinator counts them: (its epoch, number)."""
    epoch: int
    join: int
    """Number of the join within this epoch."""
    claims: Sequence[Sequence[Value]]
    """Rows of `Acquire` for what is held."""
    change: int
    places: Mapping[str, int]
    """As of `SetPlaces`."""
    meters: Any
    """What the rates are at, of a ledger that is returned."""


@message(reply=Decided)
class Acquire(NamedTuple):
    """Wish for permits, all at once. The answer comes when they are granted."""

    id: str
    """Ticket of the wish, never used twice."""
    holder: Sequence[Value]
    """Row of `waiting.Holder`."""
    needs: Mapping[str, int]
    priority: int
    arrived_at: float
    order: int
    who: Sequence[str]
    """Row of `waiting.Who`."""


@message()
class Release(NamedTuple):
    """Give permits back."""

    tickets: Sequence[str]


@message()
class Served(NamedTuple):
    """These wishes were served with other permits of their holder."""

    tickets: Sequence[str]


@message()
class Charge(NamedTuple):
    """More, or less, of some rates was used than was asked for."""

    who: Sequence[str]
    """Row of `waiting.Who`."""
    amounts: Mapping[str, float]


@message()
class SetPlaces(NamedTuple):
    """How many runs the hosts of each protocol of a supervisor can have at once."""

    shard: str
    epoch: int
    change: int
    """Number of the change within this epoch: messages may overtake each other."""
    places: Mapping[str, int]


@message()
class Renew(NamedTuple):
    """Keep what the supervisor of a shard holds."""

    shard: str


@message(chunks=(Lend, Recall, Wanted, LimitsChanged, AskUse))
class WatchLedger(NamedTuple):
    """Offer to take the ledger on loan, and hear of what is decided about it. Answered when it counts no more."""

    shard: str
    epoch: int
    join: int


@message()
class ReportUse(NamedTuple):
    """How the ledger on loan is used, by limit."""

    uses: Mapping[str, Any]


@message()
class ForgetHolder(NamedTuple):
    """A supervisor is gone for good: free what it and those below it held."""

    shard: str
    start: Sequence[int]
    """Number of the last start that is gone; a later one keeps what it holds."""


@message()
class CheckQuotas(NamedTuple):
    """Refuse a workflow that needs permits which no limit allows."""

    quotas: Mapping[str, int]


@message(reply=ResourceStatus)
class DescribeResources(NamedTuple):
    """Say how limits and breakers are."""


LedgerSaid: TypeAlias = Lend | Recall | Wanted | LimitsChanged | AskUse
LEDGER_SAID: Door[LedgerSaid] = Door(*get_args(LedgerSaid))

# circuit breakers


class BreakerState(NamedTuple):
    """State of one breaker. It is a row of `AllBreakers`."""

    name: str
    state: str
    generation: int
    left_s: float | None
    """Seconds for which the breaker stays open; None if it is not open, or open by hand."""
    why: str


class Probed(NamedTuple):
    """Whether one more call may go through."""

    generation: int | None
    """Generation of the breaker that lets the call through; None if the call is refused."""
    lease: str | None
    """The lease of a probe; None for a usual call."""


class CallsEnded(NamedTuple):
    """How calls of one breaker ended, all in the same way. It is a row of `ReportCalls`."""

    name: str
    generation: int
    lease: str | None
    failed: bool
    slow: bool
    calls: int
    """How many; 0 gives a probe back without an outcome."""


@tagged
class AllBreakers(NamedTuple):
    """Every breaker, as it is now."""

    base: int
    """Generation of the breakers that are not named."""
    states: Sequence[Sequence[Value]]
    """Rows of `BreakerState`."""


@tagged
class BreakerChanged(NamedTuple):
    """A breaker has another state."""

    state: Sequence[Value]
    """Row of `BreakerState`."""


@message(chunks=(AllBreakers, BreakerChanged))
class WatchBreakers(NamedTuple):
    """Declare the breakers of a supervisor's protocols, and hear of all changes. Answered when a later one of the same
    shard takes its place."""

    shard: str
    epoch: int
    number: int
    """Number of the message within this epoch."""
    policies: Mapping[str, Any]
    """By protocol."""
    leases: Sequence[str]
    """All probes that the supervisor holds or has asked for."""


@message()
class ReportCalls(NamedTuple):
    """How calls ended."""

    calls: Sequence[Sequence[Value]]
    """Rows of `CallsEnded`."""


@message(reply=Probed)
class Probe(NamedTuple):
    """Ask whether one more call may go through a breaker that is not closed."""

    name: str
    lease: str


BreakersSaid: TypeAlias = AllBreakers | BreakerChanged
BREAKERS_SAID: Door[BreakersSaid] = Door(*get_args(BreakersSaid))

ForResources: TypeAlias = (
    Acquire
    | Release
    | Served
    | Charge
    | SetPlaces
    | Join
    | Renew
    | WatchLedger
    | ReportUse
    | ForgetHolder
    | CheckQuotas
    | SetLimits
    | DescribeResources
    | WatchBreakers
    | ReportCalls
    | Probe
    | SetBreaker
)
RESOURCES: Door[ForResources] = Door(*get_args(ForResources))
