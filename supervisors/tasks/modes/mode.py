"""What a mode is: the answers to three questions about a node with others below it. Each mode has a file of its own.

The fold asks with a `NodeRun` of a node of that kind, and carries the moves out. A mode keeps what it has to remember
in `NodeRun.memory`. It changes nothing else, and looks at no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..state import Move, NodeRun


class Mode(NamedTuple):
    """One kind of node that governs others."""

    opening: Callable[[NodeRun], list[Move]]
    """What starts when the node is opened."""
    following: Callable[[NodeRun, NodeRun], list[Move]]
    """What follows when the run below it, the second argument, has its outcome."""
    timed_out: Callable[[NodeRun], list[Move]] | None = None
    """What follows when its time is up. Without this, everything below is stopped, and the node fails as `timeout`."""
