"""The figures of a running cluster in the text format of Prometheus, version 0.0.4.

Labels are names of workflows, protocols and limits, never of tasks, so there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ....protocols.printable import one_line
from ....supervisors.figures.counters import BOUNDS_S
from ....supervisors.figures.status import ClusterStatus, Counts, Durations, WorkflowStatus
from ....supervisors.shards import workflow_of


def exposition(status: ClusterStatus) -> list[str]:
    """Return the lines of the figures. `status` is the result of `engine.status()`."""
    lines: list[str] = []
    for family, kind, help_text, samples in _families(status):
        name = f"podium_{family}"
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{suffix}{_labels(labels)} {value:g}" for suffix, labels, value in samples]
    return lines


Sample = tuple[str, dict[str, str], float]
_OF_POOLS = {
    "hosts_up": "up",
    "hosts_min": "hosts_min",
    "hosts_max": "hosts_max",
    "jobs_running": "running",
    "jobs_queued": "queued",
}
"""Metrics of the hosts of a protocol, with the attributes of its `PoolStatus`."""


def _of(shard: str) -> dict[str, str]:
    """Return the labels of a shard. The first shard has the name of its workflow, and no label `shard`."""
    workflow = workflow_of(shard)
    return {"workflow": workflow} if shard == workflow else {"workflow": workflow, "shard": shard}


def _families(status: ClusterStatus) -> Iterator[tuple[str, str, str, list[Sample]]]:
    flows = {name: flow for name, flow in status.workflows.items() if flow.counts is not None}
    counted = {name: flow.counts for name, flow in status.workflows.items() if flow.counts is not None}
    served = {name: float(flow.state in ("up", "idle")) for name, flow in status.workflows.items()}
    up: list[Sample] = [("", _of(name), value) for name, value in served.items()]
    yield "workflow_up", "gauge", "1 if the workflow's supervisor runs, or rests until something comes.", up
    still: list[Sample] = [("", _of(name), float(flow.open or 0)) for name, flow in flows.items()]
    yield "tasks_open", "gauge", "Tasks accepted and not ended.", still
    yield from _of_waiting(flows, counted)
    for family, key in (("tasks_ended_total", "tasks"), ("steps_total", "steps")):
        samples: list[Sample] = [
            ("", {**_of(name), "outcome": outcome}, count)
            for name, counts in counted.items()
            for outcome, count in getattr(counts, key).items()
        ]
        yield family, "counter", "By outcome, since the supervisor started.", samples
    for family, key in (("task_seconds", "task_s"), ("permit_wait_seconds", "permit_s")):
        samples = [each for name, counts in counted.items() for each in _buckets(_of(name), getattr(counts, key))]
        yield family, "histogram", "Seconds, since the supervisor started.", samples
    samples = [
        each
        for name, counts in counted.items()
        for step, protocol, durations in counts.step_s
        for each in _buckets({**_of(name), "step": step, "protocol": protocol}, durations)
    ]
    yield "step_seconds", "histogram", "Seconds from when a step was due to its end, by place and protocol.", samples
    moves: list[Sample] = [
        ("", {**_of(name), "before": before, "after": after}, count)
        for name, counts in counted.items()
        for before, after, count in counts.transitions
    ]
    yield "request_transitions_total", "counter", "Of requests, from state to state.", moves
    samples = [
        each
        for name, counts in counted.items()
        for state, durations in counts.state_s.items()
        for each in _buckets({**_of(name), "state": state}, durations)
    ]
    yield "request_state_seconds", "histogram", "Seconds that requests were in a state.", samples
    for family, key in _OF_POOLS.items():
        samples = [
            ("", {**_of(name), "protocol": pool.protocol}, getattr(pool, key))
            for name, flow in flows.items()
            for pool in flow.pools
        ]
        yield family, "gauge", "By protocol.", samples
    for key in ("held", "waiting"):
        samples = [("", {"limit": name}, getattr(use, key)) for name, use in status.quotas.items()]
        yield f"permits_{key}", "gauge", "By limit.", samples
    states: list[Sample] = [
        ("", {"breaker": name}, float(breaker.state != "closed")) for name, breaker in status.breakers.items()
    ]
    yield "breaker_open", "gauge", "1 if the breaker does not let all calls through.", states
    lags: list[Sample] = [("", _of(name), flow.load.lag_s) for name, flow in flows.items() if flow.load is not None]
    yield "loop_lag_seconds", "gauge", "How late the supervisor's event loop was.", lags
    yield "throttle_ratio", "gauge", "What is left of the limits.", [("", {}, status.throttle.factor)]
    alerts: list[Sample] = [("", {"alert": each.name}, 1.0) for each in status.alerts]
    yield "alert_firing", "gauge", "Alerts whose rule holds.", alerts
    for key in ("cpu", "memory"):
        yield f"machine_{key}_ratio", "gauge", "Share in use.", [("", {}, getattr(status.load, key))]


def _of_waiting(
    flows: Mapping[str, WorkflowStatus], counted: Mapping[str, Counts]
) -> Iterator[tuple[str, str, str, list[Sample]]]:
    resting: list[Sample] = [("", _of(name), float(flow.waiting or 0)) for name, flow in flows.items()]
    yield "tasks_waiting", "gauge", "Open tasks that only wait for answers or for their time.", resting
    refused: list[Sample] = [
        ("", {**_of(name), "reason": reason}, count)
        for name, counts in counted.items()
        for reason, count in counts.answers_refused.items()
    ]
    yield "answers_refused_total", "counter", "By reason, since the supervisor started.", refused


def _buckets(labels: dict[str, str], durations: Durations) -> list[Sample]:
    total, samples = 0, []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], durations.counts, strict=True):
        total += count
        samples.append(("_bucket", {**labels, "le": bound}, float(total)))
    return [*samples, ("_sum", labels, durations.sum_s), ("_count", labels, float(total))]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = {k: one_line(v).replace("\\", r"\\").replace('"', r"\"") for k, v in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
