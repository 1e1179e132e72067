"""The settings of governance, handed down from the client's configuration (cluster/config.py documents them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..protocols.large import INLINE_BYTES, MAX_BLOB_BYTES
from ..protocols.values import MAX_VALUE_BYTES
from .limits.throttle import Thresholds
from .restarts import RestartPolicy


@dataclass(frozen=True, slots=True)
class Governance:
    max_open_tasks: int = 1_000_000
    """Most open (accepted and unfinished) tasks per workflow; one more is refused as Overloaded."""
    max_open_per_user: int = 1_000_000
    """Most open tasks per workflow and user."""
    max_memory: float = 0.9
    """Share of the machine's memory in use above which new tasks are refused."""
    max_cpu: float | None = None
    """Share of the machine's processors in use above which new tasks are refused; None for no bound."""
    max_slots: float | None = None
    """Share of the permits held by whole tasks above which new tasks are refused; None: new tasks wait instead."""
    rates: Mapping[str, str] = field(default_factory=lambda: {"cli": "50/s burst 500", "mcp": "10/s burst 50"})
    """Rate of new tasks for each user, by source of the task."""
    throttle: bool = False
    """Whether the limits follow the load of the machine; `Thresholds` says by how much and when."""
    throttle_high: float = 0.8
    throttle_low: float = 0.3
    throttle_floor: float = 0.6
    throttle_step: float = 0.1
    throttle_samples: int = 5
    throttle_full_lag_s: float = 0.5
    max_losses: int = 5
    """Hosts that one attempt may lose before its step fails as `host_lost`."""
    max_value_bytes: int = MAX_VALUE_BYTES
    inline_bytes: int = INLINE_BYTES
    max_blob_bytes: int = MAX_BLOB_BYTES
    blob_grace_s: float = 86_400.0
    blobs_timeout_s: float = 30.0
    retry_reserve: float = 30.0
    """Retries that a protocol may always make, in addition to its share of retries."""
    grace_s: float = 1.5
    """Seconds that cancelled work may take to end before its host is replaced."""
    lookahead_s: float = 0.05
    """Seconds of work that are sent to a host ahead of its turn, so that the host never waits for the next frame."""
    lease_s: float = 30.0
    """Seconds of silence after which an actor counts as lost."""
    rest_after_s: float = 900.0
    """Seconds without open tasks and messages after which a workflow is passivated (its actors end); 0 for never."""
    host_idle_s: float = 60.0
    """Seconds for which a host was not needed before it ends, where `replicas` is a range."""
    keep_finished_s: float = 7 * 86_400.0
    """Seconds after its end at which a finished task is deleted."""
    keep_finished_tasks: int = 1_000_000
    """Most finished tasks kept per workflow; the oldest are deleted first."""
    max_kept_answers: int = 1_000
    """Most answers of one name that a task keeps although no node has waited for them yet."""
    max_waiting_in_memory: int = 10_000
    """Most tasks of a supervisor that stay in memory while they only wait."""
    age_s: float = 30.0
    """Seconds of waiting that weigh as much as one level of priority."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Fair shares by user; a user that is not named has 1.0."""
    alerts: Mapping[str, str] = field(default_factory=dict)
    """Alert rules over the figures of the cluster, by name."""
    on_alert: str | None = None
    """Command that is run with each alert."""
    alert_every_s: float = 10.0
    max_emitted_bytes: int = 4 * 1024 * 1024
    """Most bytes of emitted chunks that are recorded for one task."""
    max_unsaved_mb: float = 64.0
    """Size in MiB of the events that may wait to become durable before a supervisor starts no further step."""
    log_mb: float = 10.0
    """Size in MiB at which the log of a protocol is rotated; 0 keeps no log."""
    log_files: int = 5
    """Number of rotated logs that are kept."""
    config: Mapping[str, object] = field(default_factory=dict)
    """The value of `ctx.config` in protocols."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Places of the secrets that protocols may reveal, by name."""
    runtime_env_timeout_s: float = 600.0
    """Seconds in which the environment of a host has to be ready."""
    restart_intensity: int = 10
    top_restart_intensity: int = 3
    restart_period_s: float = 60.0

    @property
    def max_unsaved_bytes(self) -> int:
        return round(self.max_unsaved_mb * 1024 * 1024)

    @property
    def log_bytes(self) -> int:
        return round(self.log_mb * 1024 * 1024)

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(**{each.name: getattr(self, f"throttle_{each.name}") for each in fields(Thresholds)})

    @property
    def restarts(self) -> RestartPolicy:
        """The restart policy for the children of a supervisor, unless the workflow sets another."""
        return RestartPolicy(self.restart_intensity, self.restart_period_s)

    @property
    def top_restarts(self) -> RestartPolicy:
        """The restart policy for each child of the coordinator."""
        return RestartPolicy(self.top_restart_intensity, self.restart_period_s)

    def to_wire(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Governance:
        return cls(**{field.name: wire[field.name] for field in fields(cls) if field.name in wire})
