"""The state of a cluster, as `engine.status()` gives it to people: workflows, limits, breakers, load and alerts.

On their way to a client these are plain data (`ClusterFigures` in supervisors/messages/client.py). `from_wire` reads
those, and ignores fields that a later Podium may add; `to_json` gives the same plain data again. Nothing here is kept
up to date: an object shows one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Self

from ...protocols.deprecation import deprecated
from ...protocols.limits import Amount
from ...protocols.printable import one_line
from ..ports.world import Load
from .alerts import Alert
from .counters import BOUNDS_S


class Shown:
    """A part of a status. Its fields are attributes; `to_json` gives them as plain data."""

    __slots__ = ()

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        return cls(**_known(cls, wire))

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {name: _plain(getattr(self, name)) for name in _names(type(self))}

    def __getitem__(self, key: str) -> Any:
        deprecated("a status by key", since="0.1", goes="0.2", instead=f"the attribute `{key}`, or `to_json()`")
        if key not in self.to_json():
            raise KeyError(key)
        return getattr(self, key)

    def get(self, key: str, default: object = None) -> Any:
        """The field with this name; deprecated."""
        deprecated("a status by key", since="0.1", goes="0.2", instead=f"the attribute `{key}`, or `to_json()`")
        return getattr(self, key) if key in self.to_json() else default


@dataclass(frozen=True, slots=True, repr=False)
class Durations(Shown):
    """A histogram of durations, counted since the supervisor started."""

    counts: tuple[int, ...]
    """The number of durations in each bucket. The upper bounds are 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
    10, 30, 60, 300 and 1800 seconds, and none for the last."""
    sum_s: float
    """The sum of all durations, in seconds."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Durations:
        return cls(tuple(wire["counts"]), wire["sum_s"])

    @property
    def count(self) -> int:
        """The number of all durations."""
        return sum(self.counts)

    def quantile_s(self, share: float) -> float | None:
        """The upper bound of the bucket that has the quantile, in seconds: 0.5 asks for the median.

        None if nothing was counted, or the bucket has no bound.
        """
        wanted, seen = share * self.count, 0
        for bound, count in zip(BOUNDS_S, self.counts, strict=False):
            seen += count
            if seen and seen >= wanted:
                return bound
        return None

    def __repr__(self) -> str:
        mean = f", {self.sum_s / self.count:.3g} s on average" if self.count else ""
        return f"<{self.count} durations{mean}>"


class StateChanges(NamedTuple):
    """The number of requests that went from one state to another."""

    before: str
    """The state that they left."""
    after: str
    """The state that they entered."""
    requests: int
    """The number of requests."""


class StepDurations(NamedTuple):
    """The durations of one step, from when it was due to its end, all waits and attempts included."""

    step: str
    """The path of the step in the tree, without rounds and items."""
    protocol: str
    """The protocol, as `module:name`; empty for a nested Hierarchy."""
    durations: Durations
    """The durations."""


@dataclass(frozen=True, slots=True, repr=False)
class Counts(Shown):
    """The counters of a supervisor since its start."""

    tasks: Mapping[str, int]
    """The number of ended tasks, by status."""
    steps: Mapping[str, int]
    """The number of `finished`, `asked`, `failed`, `retried`, `not_retried`, `lost` and `timed_out` steps."""
    task_s: Durations
    """The durations of tasks, from acceptance to end."""
    transitions: tuple[StateChanges, ...]
    """The changes of state of requests."""
    step_s: tuple[StepDurations, ...]
    """The durations of steps, by path and protocol."""
    state_s: Mapping[str, Durations]
    """The time that requests were in a state, by state."""
    permit_s: Durations
    """The time that steps waited for permits."""
    answers_refused: Mapping[str, int]
    """The number of refused answers, by reason."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Counts:
        return cls(
            tasks=wire["tasks"],
            steps=wire["steps"],
            task_s=Durations.from_wire(wire["task_s"]),
            transitions=tuple(StateChanges(*row) for row in wire["transitions"]),
            step_s=tuple(StepDurations(step, ref, Durations.from_wire(row)) for step, ref, row in wire["step_s"]),
            state_s={state: Durations.from_wire(each) for state, each in wire["state_s"].items()},
            permit_s=Durations.from_wire(wire["permit_s"]),
            answers_refused=wire["answers_refused"],
        )

    def __repr__(self) -> str:
        return f"<ended tasks: {_counted(self.tasks)}; steps: {_counted(self.steps)}>"


@dataclass(frozen=True, slots=True)
class PoolStatus(Shown):
    """The hosts of one protocol of a workflow, and the steps that they run."""

    protocol: str
    """The protocol, as `module:name`."""
    code: str
    """The beginning of the fingerprint of its code; empty if it has none."""
    hosts: int
    """The number of hosts there should be."""
    up: int
    """The number of hosts that run."""
    running: int
    """The number of steps at the hosts."""
    queued: int
    """The number of steps that wait for a host."""
    blocked: str | None
    """The reason why no host can start, or None."""
    hosts_min: int
    """The least number of hosts, of `replicas`."""
    hosts_max: int
    """The largest number of hosts, of `replicas`. Between the two, `hosts` follows the steps that wait."""


@dataclass(frozen=True, slots=True)
class NestedStatus(Shown):
    """The supervisor of a nested Hierarchy."""

    address: str
    """The actor's address."""
    up: bool
    """True if it runs."""


@dataclass(frozen=True, slots=True)
class VersionStatus(Shown):
    """A version of a workflow that its supervisor knows."""

    hash: str
    """The content hash of the version."""
    version: str
    """The workflow's `version`, a label for people."""
    in_force: bool
    """True for the version that new tasks get."""
    has_open_tasks: bool
    """True if a task of this version has not ended."""
    code: Mapping[str, str]
    """The beginnings of the fingerprints of the protocols' code, by protocol."""


WorkflowState = Literal["up", "idle", "starting", "down"]


@dataclass(frozen=True, slots=True, repr=False)
class WorkflowStatus(Shown):
    """One shard of a workflow, with its supervisor. Most fields are known only while the supervisor runs."""

    hash: str
    """The content hash of the version in force."""
    version: str
    """The `version` of that version, a label for people."""
    when_down: str
    """The workflow's `when_down`: `wait` or `fail`."""
    shards: int
    """The number of shards of the workflow."""
    quotas: bool
    """True if tasks of the workflow need permits or have breakers."""
    state: WorkflowState
    """The state of the supervisor. `idle` is one that rests until something comes; `down` one that died too often."""
    reason: str | None = None
    """The reason why the supervisor does not run, if there is one."""
    epoch: int | None = None
    """The number of the supervisor's incarnation; None if it does not run."""
    open: int | None = None
    """The number of tasks that have not ended; None if the supervisor does not run."""
    waiting: int | None = None
    """The number of those that only wait for answers or for their time; None if the supervisor does not run."""
    stalled: Mapping[str, str] = field(default_factory=dict)
    """The tasks that are set aside or stalled, with the reason, by task id."""
    faults: int | None = None
    """The number of faults of Podium itself since the supervisor started; None if it does not run."""
    users: Mapping[str, int] = field(default_factory=dict)
    """The number of open tasks, by user, of the users who have the most."""
    load: Load | None = None
    """The load of the machine and of the supervisor's event loop; None if it does not run."""
    versions: tuple[VersionStatus, ...] = ()
    """The versions that the supervisor knows."""
    restarts: int | None = None
    """The number of restarts of its hosts and nested supervisors; None if the supervisor does not run."""
    pools: tuple[PoolStatus, ...] = ()
    """The hosts, by protocol."""
    tiers: tuple[NestedStatus, ...] = ()
    """The supervisors of nested Hierarchies."""
    counts: Counts | None = None
    """The supervisor's counters; None if it does not run."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> WorkflowStatus:
        known = {"shards": 1, "reason": None} | _known(cls, wire)
        if wire["state"] == "up":
            known["load"] = Load(**wire["load"])
            known["versions"] = tuple(map(VersionStatus.from_wire, wire["versions"]))
            known["pools"] = tuple(map(PoolStatus.from_wire, wire["pools"]))
            known["tiers"] = tuple(map(NestedStatus.from_wire, wire["tiers"]))
            known["counts"] = Counts.from_wire(wire["counts"])
        return cls(**known)

    @property
    def hosts_up(self) -> int:
        """The number of hosts that run, of all protocols."""
        return sum(pool.up for pool in self.pools)

    @property
    def hosts(self) -> int:
        """The number of hosts there should be, of all protocols."""
        return sum(pool.hosts for pool in self.pools)

    @property
    def hosts_range(self) -> tuple[int, int]:
        """The least and the largest number of hosts of all protocols; equal if no `replicas` are a range."""
        return sum(pool.hosts_min for pool in self.pools), sum(pool.hosts_max for pool in self.pools)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data: with the reason, or with all that is known of a supervisor that runs."""
        names = _names(type(self))
        split = names.index("reason")
        shown = [*names[:split], *(names[split + 1 :] if self.state == "up" else ["reason"])]
        return {name: _plain(getattr(self, name)) for name in shown}

    def __repr__(self) -> str:
        if self.state != "up":
            return f"<workflow {self.state}{f': {self.reason}' if self.reason else ''}>"
        stalled = f", {len(self.stalled)} stalled" if self.stalled else ""
        return f"<workflow up: {self.open} open{stalled}, {self.hosts_up} of {self.hosts} hosts up>"


@dataclass(frozen=True, slots=True)
class LimitUse(Shown):
    """A limit, and its use."""

    limit: Amount | None
    """The limit as it was set; None if it is not set, but something waits for it."""
    held: int
    """The number of permits that are held."""
    waiting: int
    """The number of steps and tasks that wait for permits."""
    left: int | None = None
    """The amount of a rate that may be used now, negative if too much was used; None for permits."""
    now: int | None = None
    """The lowered limit, if it follows the load of the machine; else None."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, without `left` and `now` if they are None."""
        return {name: value for name, value in Shown.to_json(self).items() if name == "limit" or value is not None}


@dataclass(frozen=True, slots=True)
class BreakerStatus(Shown):
    """A circuit breaker."""

    state: Literal["closed", "open", "half_open", "forced_open"]
    """The state. `forced_open` is one that somebody opened by hand."""
    why: str
    """The reason of the state; empty if there is none."""
    since_s: float | None
    """The seconds since it is in this state; None if it never left the first."""
    left_s: float | None
    """The seconds until an open breaker tries calls again; else None."""
    calls: int
    """The number of calls in the window."""
    failed: int
    """The number of failed calls among them."""
    slow: int
    """The number of slow calls among them."""
    probing: int
    """The number of calls under way that try whether the service is back."""


@dataclass(frozen=True, slots=True)
class ThrottleChange(Shown):
    """A change of the share of the limits that the load of the machine leaves."""

    at: float
    """The time of the change, in UTC seconds."""
    factor: float
    """The share from then on."""
    reason: str
    """The reason in words."""


@dataclass(frozen=True, slots=True)
class ThrottleStatus(Shown):
    """The share of the limits that the load of the machine leaves."""

    factor: float
    """The share, 1.0 if nothing is lowered."""
    changes: tuple[ThrottleChange, ...]
    """The last twenty changes, the newest last."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ThrottleStatus:
        return cls(wire["factor"], tuple(map(ThrottleChange.from_wire, wire["changes"])))


@dataclass(frozen=True, slots=True, repr=False)
class ClusterStatus(Shown):
    """The state of a cluster at one moment.

    `to_json()` of this, and of each part of it, gives the same as plain data: what `podium status -o json` prints.
    """

    workflows: Mapping[str, WorkflowStatus]
    """The deployed workflows by name; further shards of one as `name~1`."""
    quotas: Mapping[str, LimitUse]
    """The limits with their use, by name."""
    breakers: Mapping[str, BreakerStatus]
    """The circuit breakers of protocols that were called, by name."""
    throttle: ThrottleStatus
    """The share of the limits that the load leaves."""
    load: Load
    """The load of the machine."""
    alerts: tuple[Alert, ...]
    """The alerts that fire now."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ClusterStatus:
        return cls(
            workflows={name: WorkflowStatus.from_wire(each) for name, each in wire["workflows"].items()},
            quotas=limit_uses(wire["quotas"]),
            breakers=breaker_states(wire["breakers"]),
            throttle=ThrottleStatus.from_wire(wire["throttle"]),
            load=Load(**wire["load"]),
            alerts=tuple(Alert(**each) for each in wire["alerts"]),
        )

    def __repr__(self) -> str:
        states = [each.state for each in self.workflows.values()]
        counted = _counted({state: states.count(state) for state in dict.fromkeys(states)})
        is_open = sum(each.open or 0 for each in self.workflows.values())
        alerts = "".join(f", alert {one_line(each.name)}" for each in self.alerts)
        return f"<cluster: workflows {counted}, {is_open} open tasks{alerts}>"


def limit_uses(wire: Mapping[str, Mapping[str, Any]]) -> dict[str, LimitUse]:
    """Read the limits with their use, by name."""
    return {name: LimitUse.from_wire(each) for name, each in wire.items()}


def breaker_states(wire: Mapping[str, Mapping[str, Any]]) -> dict[str, BreakerStatus]:
    """Read the circuit breakers, by name."""
    return {name: BreakerStatus.from_wire(each) for name, each in wire.items()}


def _names(cls: Any) -> list[str]:
    return [each.name for each in fields(cls)]


def _known(cls: type, wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a class that are in plain data."""
    return {name: wire[name] for name in _names(cls) if name in wire}


def _plain(value: object) -> object:
    match value:
        case Shown() | Alert():
            return value.to_json()
        case Load():
            return value._asdict()
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
