"""Defines a mode: three functions that decide what runs below a node. Each mode has a file of its own.

The fold calls these functions with the run of a node of that kind, and carries out the moves that they return. A mode
keeps its state in `NodeRun.memory`. It may also change `children` and `outputs` of the node run, and nothing else. It
reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..state import Move, NodeRun


class Mode(NamedTuple):
    """The functions of one kind of node that governs others."""

    opening: Callable[[NodeRun], list[Move]]
    """Returns the moves when the node is opened."""
    following: Callable[[NodeRun, NodeRun], list[Move]]
    """Returns the moves when the second argument, a run directly below the node, has its outcome."""
    timed_out: Callable[[NodeRun], list[Move]] | None = None
    """Returns the moves when the node's time limit is over. None: everything below stops and the node fails."""
