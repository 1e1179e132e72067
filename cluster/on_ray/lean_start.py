"""Starting a Ray cluster without what Podium has no use for.

`ray.init` starts three helpers on two processors' time: the autoscaler's monitor (one machine does not scale), the log
monitor (it carries logs to drivers, and ours asks for none) and the API server (without its dashboard it reports usage
statistics, which are off). Left out, the cluster stands a quarter sooner and takes three processes less. Whoever wants
them starts Ray first; then everything about it is theirs.

Importing this module imports ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import node


class _LeanNode(node.Node):
    def start_monitor(self) -> None:
        """No autoscaler."""

    def start_log_monitor(self) -> None:
        """No logs carried to drivers."""

    def start_api_server(self, **_: Any) -> None:
        """No usage statistics."""


@contextmanager
def lean() -> Iterator[None]:
    """While this is open, `ray.init` starts a lean cluster."""
    usual = node.Node
    vars(node)["Node"] = _LeanNode
    try:
        yield
    finally:
        vars(node)["Node"] = usual
