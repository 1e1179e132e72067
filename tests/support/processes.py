"""The processes of a cluster on Ray."""

from __future__ import annotations

from podium.cluster.on_ray.process_locks import ProcessLocks


def pid_of(engine, address):
    """The process of one of our actors."""
    return ProcessLocks(engine.settings.data.resolve()).process_of(address)
