"""The processes of a cluster on Ray."""

from __future__ import annotations

import psutil

from podium.cluster.on_ray.process_locks import ProcessLocks


def pid_of(engine, address):
    """The process of one of our actors."""
    return ProcessLocks(engine.settings.data.resolve()).process_of(address)


def has_ended(pid):
    """Whether a process runs no code any more; perhaps nobody has asked for its end yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
