"""Puts the states of a task on the blocks of its tree. A node that ran many times gets the worst state of its runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ....protocols.outcomes import TaskRecord
from ....supervisors.tasks.history import StepRow
from .blocks import Block, State

WORDS: dict[State, tuple[str, str]] = {
    "failed": ("✗", "failed"),
    "parked": ("‖", "parked"),
    "retrying": ("↻", "to be tried again"),
    "waiting": ("…", "waiting"),
    "open": ("▶", "due or running"),
    "cancelled": ("⊘", "cancelled"),
    "completed": ("✓", "done"),
}
"""Mark and word of each state, in the order in which they are shown."""
_UNDER_WAY: tuple[State, ...] = ("parked", "retrying", "waiting", "open")
_ITEM, _AGAIN = re.compile(r"\[\d+\]"), re.compile(r"#\d+")


def place_of(path: str) -> str:
    """Return the place in the tree of a run with this path."""
    return _AGAIN.sub("", _ITEM.sub("[]", path))


def put_states(root: Block, rows: Iterable[StepRow], record: TaskRecord) -> None:
    """Give each block its state, and a line on the states of its runs if there are several."""
    runs: dict[str, Counter[State]] = {}
    for row in rows:
        state: State = "open" if row.status == "running" else row.status
        runs.setdefault(place_of(row.path), Counter())[state] += 1
    failed_at = place_of(record.failure.step) if record.status == "failed" and record.failure else None
    _put(root, runs, failed_at)


def _put(block: Block, runs: dict[str, Counter[State]], failed_at: str | None) -> set[State]:
    """Put states on a block. Return the states of all runs of it and in it, without those of its stand-ins."""
    inside = {state for child in block.children for state in _put(child, runs, failed_at)}
    for stand_in in block.instead:
        _put(stand_in, runs, failed_at)
    own = runs.get(block.path)
    if own:
        block.state = next(state for state in WORDS if own[state])
        if own.total() > 1:
            block.about.append(_counted(own))
    elif not block.is_leaf:
        block.state = _around(inside, block, failed_at)
    for name in block.undoes:
        taken = runs.get(f"{block.path}:{name}")
        if taken:
            block.undoes[name] += f" ({_counted(taken)})"
    return inside | set(own or ())


def _counted(runs: Counter[State]) -> str:
    if runs.total() == 1:
        return WORDS[next(iter(runs))][1]
    done = f"{runs['completed']} of {runs.total()} done"
    return ", ".join([done, *(f"{runs[state]} {WORDS[state][1]}" for state in _others(runs))])


def _others(runs: Counter[State]) -> Iterator[State]:
    return (state for state in WORDS if runs[state] and state != "completed")


def _around(states: set[State], block: Block, failed_at: str | None) -> State:
    """Return the state of a node with children. No event names the node itself, so its state follows from theirs.

    A child may fail without a failure of the node.
    """
    under_way: State | None = next((state for state in _UNDER_WAY if state in states), None)
    if under_way:
        return under_way
    if failed_at is not None and any(inner.path == failed_at for inner in block.walk()):
        return "failed"
    return next((state for state in ("completed", "cancelled", "failed") if state in states), "")
