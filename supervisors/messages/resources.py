"""Messages from supervisors and the coordinator to the ResourceActor: permits, the ledger, circuit breakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, get_args

from ...protocols.limits import Amount
from ...protocols.values import Value
from .client import SetBreaker, SetLimits
from .door import Door, message, tagged

# permits


class Joined(NamedTuple):
    """Answer to `Join`: the supervisor is registered as a holder of permits."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]
    """Limits that are lowered now because of the load, with their lowered values."""


class Decided(NamedTuple):
    """Answer to `Acquire`."""

    granted: bool
    """False if the supervisor has the ledger on loan by now, so that it decides itself."""


GRANTED, ELSEWHERE = Decided(True), Decided(False)


class PlacesLacking(NamedTuple):
    """Answer to `AskPlaces`."""

    requests: int
    """Number of requests that could be granted now if there were more places."""


class ResourceStatus(NamedTuple):
    """State of all limits and circuit breakers."""

    limits: dict[str, Any]
    """By name: `limit` as it was set (None if it is not set, and waited for), `now` if it is lowered because of the
    load, and its use."""
    breakers: dict[str, object]
    throttle: dict[str, object]
    load: dict[str, float]


@tagged
class Lend(NamedTuple):
    """Lend the ledger to the supervisor. It is the only one that wants permits, and decides on them itself."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]
    meters: Any
    """Levels of the rates."""
    granted: Sequence[str]
    """Tickets that have been granted already."""


@tagged
class Recall(NamedTuple):
    """End the loan, because somebody else wants permits. The supervisor sends `Join` with its claims."""


@tagged
class Wanted(NamedTuple):
    """Tell holders whether somebody waits for permits. While somebody does, they return unused permits at once."""

    is_wanted: bool


@tagged
class LimitsChanged(NamedTuple):
    """Limits have been set, or lowered because of the load."""

    limits: Mapping[str, Amount]
    lowered: Mapping[str, int]


@tagged
class AskUse(NamedTuple):
    """Ask for the use of the limits by `ReportUse`."""


@message(reply=Joined)
class Join(NamedTuple):
    """Register as a holder of permits, with claims to those that are held already.

    Permits of earlier incarnations of the shard become void. A ledger on loan is returned."""

    shard: str
    start: Sequence[int]
    """Number of the start, as the coordinator counts starts: (its epoch, number)."""
    epoch: int
    join: int
    """Number of the join within this epoch."""
    claims: Sequence[Sequence[Value]]
    """Permits that are held, as rows of `Acquire`."""
    change: int
    places: Mapping[str, int]
    """Same as in `SetPlaces`."""
    meters: object
    """Levels of the rates, if a ledger is returned."""


@message(reply=Decided)
class Acquire(NamedTuple):
    """Ask for several permits, all at once. The answer comes when they are granted."""

    id: str
    """Ticket of the request. No ticket is used twice."""
    holder: Sequence[Value]
    """Row of `permit_queue.Holder`."""
    needs: Mapping[str, int]
    priority: int
    arrived_at: float
    order: int
    who: Sequence[str]
    """Row of `permit_queue.Who`."""


@message()
class Release(NamedTuple):
    """Return permits."""

    tickets: Sequence[str]


@message()
class Served(NamedTuple):
    """Withdraw requests that their holder has met with permits it held."""

    tickets: Sequence[str]


@message()
class Charge(NamedTuple):
    """Correct the rates, where more or less was used than was asked for."""

    who: Sequence[str]
    """Row of `permit_queue.Who`."""
    amounts: Mapping[str, float]


@message()
class SetPlaces(NamedTuple):
    """Report how many attempts the hosts of each protocol of a supervisor can run at once."""

    shard: str
    epoch: int
    change: int
    """Number of the change within this epoch, because messages may overtake each other."""
    places: Mapping[str, int]


@message(reply=PlacesLacking)
class AskPlaces(NamedTuple):
    """Ask how many requests wait for nothing but a place at the hosts of one protocol of a supervisor."""

    place: str
    """Name of these hosts, as in `SetPlaces`."""


@message()
class Renew(NamedTuple):
    """Renew the lease of the permits that the supervisor of a shard holds."""

    shard: str


@message(chunks=(Lend, Recall, Wanted, LimitsChanged, AskUse))
class WatchLedger(NamedTuple):
    """Offer to take the ledger on loan, and hear of each decision about it.

    The answer comes when the offer no longer counts."""

    shard: str
    epoch: int
    join: int


@message()
class ReportUse(NamedTuple):
    """Report the use of the limits, from the ledger on loan."""

    uses: Mapping[str, object]


@message()
class ForgetHolder(NamedTuple):
    """Free the permits of a supervisor that is gone for good, and of those nested in it."""

    shard: str
    start: Sequence[int]
    """Number of the last start that is gone. Later starts keep their permits."""


@message()
class CheckQuotas(NamedTuple):
    """Check the needs of a workflow. The answer is an error if one of them exceeds its limit."""

    quotas: Mapping[str, int]


@message(reply=ResourceStatus)
class DescribeResources(NamedTuple):
    """Ask for the state of limits and breakers."""


LedgerSaid: TypeAlias = Lend | Recall | Wanted | LimitsChanged | AskUse
LEDGER_SAID: Door[LedgerSaid] = Door(*get_args(LedgerSaid))

# circuit breakers


class BreakerState(NamedTuple):
    """State of one breaker. It is a row of `AllBreakers`."""

    name: str
    state: str
    generation: int
    left_s: float | None
    """Seconds for which the breaker stays open. None if it is not open, or was opened by hand."""
    why: str


class Probed(NamedTuple):
    """Answer to `Probe`."""

    generation: int | None
    """Generation of the breaker that lets the call through; None if the call is refused."""
    lease: str | None
    """Lease of the probe. None for a usual call."""


class CallsEnded(NamedTuple):
    """Outcome of some calls of one breaker that ended in the same way. It is a row of `ReportCalls`."""

    name: str
    generation: int
    lease: str | None
    failed: bool
    slow: bool
    calls: int
    """Number of calls. 0 returns a probe without an outcome."""


@tagged
class AllBreakers(NamedTuple):
    """Current states of all breakers."""

    base: int
    """Generation of the breakers that are not in `states`."""
    states: Sequence[Sequence[Value]]
    """Rows of `BreakerState`."""


@tagged
class BreakerChanged(NamedTuple):
    """The state of a breaker has changed."""

    state: Sequence[Value]
    """Row of `BreakerState`."""


@message(chunks=(AllBreakers, BreakerChanged))
class WatchBreakers(NamedTuple):
    """Declare the breakers of a supervisor's protocols, and hear of all changes.

    The answer comes when a later message of the same shard takes its place."""

    shard: str
    epoch: int
    number: int
    """Number of the message within this epoch."""
    policies: Mapping[str, object]
    """Breaker policies by protocol."""
    leases: Sequence[str]
    """All probes that the supervisor holds or has asked for."""


@message()
class ReportCalls(NamedTuple):
    """Report how calls ended."""

    calls: Sequence[Sequence[Value]]
    """Rows of `CallsEnded`."""


@message(reply=Probed)
class Probe(NamedTuple):
    """Ask for one more call through a breaker that is not closed."""

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
    | AskPlaces
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
