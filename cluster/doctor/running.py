"""Asks a running cluster for its state, for `podium doctor`, in a child process that can be ended.

A broken cluster may keep a client that joins it waiting for ever, and people run the doctor when things are broken.
"""

from __future__ import annotations

import json
import subprocess
import sys

from ...protocols.errors import JournalFailed
from ...supervisors.figures.status import ClusterStatus
from ..client.holdups import holdups
from ..config import environment_of
from ..running import cluster_of
from ..store.address import StoreAddress
from .findings import Finding

ANSWER_S = 30.0
"""Longest wait for the cluster's status, in seconds. Joining takes two."""
_DEPLOY = "when that is mended, deploy it again: start its driver, or podium submit with its file"


def running_findings(place: StoreAddress) -> list[Finding]:
    """Return findings of workflows that are down or cannot start. Empty if no cluster on Ray runs."""
    try:
        cluster = cluster_of(place)
    except JournalFailed:
        return []  # the checks of the database say why
    if cluster is None or cluster["kind"] != "ray":
        return []
    status = _status(place)
    if isinstance(status, str):
        return [Finding("cluster", "problem", place.place, status, "podium down, then podium up: tasks are kept")]
    return findings_of(status)


def findings_of(status: ClusterStatus) -> list[Finding]:
    return [
        Finding("workflow", "problem", shard, why, _remedy(status, shard)) for shard, why in holdups(status.workflows)
    ]


def _remedy(status: ClusterStatus, shard: str) -> str:
    is_down = status.workflows[shard].state == "down"
    return _DEPLOY if is_down else "it starts by itself when that is mended"


def _status(place: StoreAddress) -> ClusterStatus | str:
    """Return the status of the cluster, or a sentence that says why it cannot be asked."""
    command, environment = [sys.executable, "-m", "podium", "status", "-o", "json"], environment_of(place)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=environment)
        return ClusterStatus.from_wire(json.loads(done.stdout)["running"])
    except subprocess.TimeoutExpired:
        return f"the cluster runs, and gives no answer in {ANSWER_S:g} s"
    except (ValueError, KeyError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        return f"the cluster runs, and cannot be asked: {last[0]}"
