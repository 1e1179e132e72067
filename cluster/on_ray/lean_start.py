"""Starts a Ray cluster without the helpers that Podium does not use.

`ray.init` starts three helpers, which keep two processors busy: the autoscaler's monitor (one machine does not scale),
the log monitor (it sends logs to drivers, and Podium's want none) and the API server (without its dashboard it reports
usage statistics, which are off). Without them the cluster starts in three quarters of the time, with three processes
less. A user who wants them calls `ray.init` first. Podium then uses that cluster as it is.

Importing this module imports ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import node


class _LeanNode(node.Node):
    def start_monitor(self) -> None:
        """Start no autoscaler."""

    def start_log_monitor(self) -> None:
        """Start no log monitor, which would send logs to drivers."""

    def start_api_server(self, **_: object) -> None:
        """Start no API server, which would report usage statistics."""


@contextmanager
def lean() -> Iterator[None]:
    """Make `ray.init` start a lean cluster within this context."""
    usual = node.Node
    vars(node)["Node"] = _LeanNode
    try:
        yield
    finally:
        vars(node)["Node"] = usual
