"""The sequential mode: nodes run one after another. The output of each is the input of the next; a failure ends it."""

from __future__ import annotations

from ....protocols.tree import Sequence
from ..state import Finish, Move, NodeRun, Start
from .mode import Mode


def opening(place: NodeRun) -> list[Move]:
    place.memory = 0
    return [_start(place, 0, place.input)]


def following(place: NodeRun, child: NodeRun) -> list[Move]:
    outcome = child.outcome
    assert outcome is not None
    if outcome.failure is not None:
        return [Finish(outcome)]
    place.outputs[child.name] = outcome.output
    del place.children[child.name]
    place.memory += 1
    node = place.node
    assert isinstance(node, Sequence)
    if place.memory == len(node.sequence):
        return [Finish(outcome)]
    return [_start(place, place.memory, outcome.output)]


def _start(place: NodeRun, index: int, input: object) -> Move:
    node = place.node
    assert isinstance(node, Sequence)
    child = node.sequence[index]
    assert child.name is not None
    return Start(child.name, child.name, child, input)


MODE = Mode(opening, following)
