"""A step that has asked waits for the answer below it, and runs again when the answer is there."""

from __future__ import annotations

from ..state import Again, Move, NodeRun
from .mode import Mode


def opening(_place: NodeRun) -> list[Move]:
    raise AssertionError("a host runs a step")


def following(_place: NodeRun, child: NodeRun) -> list[Move]:
    assert child.outcome is not None
    return [Again(child.outcome)]


MODE = Mode(opening, following)
