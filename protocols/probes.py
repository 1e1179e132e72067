"""Probes: the rare edges of the engine's states, each named at the place in the code where it is taken.

A storm of faults that never takes an edge proves nothing about it. So the test bed listens here and counts, and a long
run fails if an edge was never taken (tests/support/edges.py). Elsewhere nobody listens, and a probe does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Edge = Literal[
    "frame sent again",
    "frame came again",
    "lost by silence",
    "results came early",
    "fenced",
    "committed, not acknowledged",
    "task accepted",
    "task accepted pending",
    "task running",
    "task completed",
    "task cancelled",
    "step finished",
    "step failed",
    "step retried",
    "step lost",
    "cancelled",
    "host lost idle",
    "host lost at work",
    "host stopped with others",
    "more hosts",
    "host not needed",
    "job queued again",
    "dropped job lost",
    "suspect runs beside fewer",
    "restart excused",
    "failed during a restart",
    "supervisor gave up",
    "tier lost",
    "tier stopped with others",
    "nested run cancelled",
    "ResourceActor lost",
    "wish withdrawn",
    "idle permits are there",
    "idle permits dropped",
    "waits in a lane",
    "waits in a reuse window",
    "permit passed on",
    "permit goes back",
    "permit sent again",
    "permit sent in vain",
    "joined with claims",
    "books lent",
    "books returned",
    "books lost",
    "grants held back",
    "silent holder forgotten",
    "supervisor lost",
    "coordinator started",
    "open tasks taken over",
    "tier drops a task",
    "client lost it before the acknowledgement",
    "client lost it while following",
    "client lost it while watching",
    "committed while out of reach",
    "machine lost",
    "machine ends itself",
    "another home",
    "started elsewhere",
    "died in its start",
    "host leaves",
    "supervisor leaves",
    "coordinator leaves",
    "home handed over",
    "step preempted",
    "task waiting",
    "step asked",
    "nested run told of its wait",
    "answer is kept",
    "answer ends a wait",
    "answer came again",
    "answer refused",
    "resting task let go",
    "resting task taken back",
    "blob doomed",
    "blob spared",
    "blob deleted",
    "blob stored under another generation",
    "blob store away",
]
"""An edge of the engine's states. `books` are the delegated ledger; a `tier` is a nested supervisor."""

_listener: Callable[[Edge], None] | None = None


def listen(listener: Callable[[Edge], None] | None) -> None:
    """Call `listener` for each edge that is taken in this process from now on; None ends that."""
    global _listener
    _listener = listener


def hit(edge: Edge) -> None:
    """Tell the listener, if there is one, that an edge is taken."""
    if _listener is not None:
        _listener(edge)
