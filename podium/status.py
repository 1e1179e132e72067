"""The classes of `engine.status()`, which gives a `ClusterStatus`: the state of a cluster at one moment."""

from .supervisors.figures.alerts import Alert
from .supervisors.figures.status import (
    BreakerStatus,
    ClusterStatus,
    Counts,
    Durations,
    LimitUse,
    NestedStatus,
    PoolStatus,
    StateChanges,
    StepDurations,
    ThrottleChange,
    ThrottleStatus,
    VersionStatus,
    WorkflowStatus,
)
from .supervisors.ports.world import Load

__all__ = [
    "Alert",
    "BreakerStatus",
    "ClusterStatus",
    "Counts",
    "Durations",
    "LimitUse",
    "Load",
    "NestedStatus",
    "PoolStatus",
    "StateChanges",
    "StepDurations",
    "ThrottleChange",
    "ThrottleStatus",
    "VersionStatus",
    "WorkflowStatus",
]
