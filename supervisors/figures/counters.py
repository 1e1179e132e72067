"""The counters of one incarnation of a supervisor since its start, for `podium top` and metrics. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from functools import lru_cache
from typing import assert_never

from ...protocols.outcomes import TaskRecord
from ...protocols.probes import hit
from ...protocols.requests.machine import State
from ...protocols.tree import Step
from ..tasks.events import (
    Abandoned,
    Answered,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Event,
    Held,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    Skewed,
    StepAsked,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
    WaitBelow,
    WaitBelowOver,
    Woke,
)
from ..tasks.state import TaskState

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets of histograms, in seconds; one more bucket has no bound."""


_RUN = re.compile(r"#\d+|\[\d+\]")
"""Parts of a path that tell runs of one node apart: numbers of rounds, and indexes of items."""


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def to_wire(self) -> dict[str, object]:
        return {"counts": list(self.counts), "sum_s": self.sum_s}


class Counters:
    def __init__(self) -> None:
        self.tasks: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.task_s = Histogram()
        """Seconds from the acceptance to the end of tasks."""
        self.transitions: Counter[tuple[State, State]] = Counter()
        """Transitions of requests from one state to another."""
        self.state_s: defaultdict[State, Histogram] = defaultdict(Histogram)
        """Seconds that requests were in each state."""

        self.step_s: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        """Seconds from when a step was due to its end, all waits and attempts included.

        By path in the tree and protocol ("" for a nested Hierarchy).
        """

    def moved(self, before: State, after: State, seconds: float) -> None:
        """Count that a request has left the state `before` after `seconds`."""
        self.transitions[before, after] += 1
        self.state_s[before].observe(max(0.0, seconds))

    def happened(self, task: TaskState, event: Event) -> None:
        """Count an event that is about to be folded in."""
        self._time(task, event)
        match event:
            case StepFinished():
                self.steps["finished"] += 1
                hit("step finished")
            case StepFailed(retry_at=None):
                hit("step failed")
                self.steps["failed"] += 1
                self.steps["not_retried"] += bool(event.failure.note)
            case StepFailed():
                self.steps["retried"] += 1
                hit("step retried")
            case StepLost():
                self.steps["lost"] += 1
                hit("step lost")
            case StepAsked():
                self.steps["asked"] += 1
                hit("step asked")
            case TimedOut() | Overdue():
                self.steps["timed_out"] += 1
            case Cancelled():
                hit("cancelled")
            case (
                StepBegan()
                | Due()
                | Held()
                | Abandoned()
                | Redriven()
                | Dropped()
                | Emitted()
                | Relayed()
                | Restarted()
                | Skewed()
                | Answered()
                | WaitBelow()
                | WaitBelowOver()
                | Woke()
            ):
                pass
            case _:
                assert_never(event)

    def _time(self, task: TaskState, event: Event) -> None:
        if isinstance(event, StepFinished | TimedOut) or (isinstance(event, StepFailed) and event.retry_at is None):
            place = task.running.get(event.path)
            if place is not None:
                protocol = place.node.step if isinstance(place.node, Step) else ""
                self.step_s[_static(event.path), protocol].observe(max(0.0, event.at - place.opened_at))

    def ended(self, record: TaskRecord) -> None:
        self.tasks[record.status] += 1
        self.task_s.observe(max(0.0, (record.finished_at or record.accepted_at) - record.accepted_at))

    def to_wire(self) -> dict[str, object]:
        return {
            "tasks": dict(self.tasks),
            "steps": dict(self.steps),
            "task_s": self.task_s.to_wire(),
            "transitions": [[before, after, count] for (before, after), count in self.transitions.items()],
            "step_s": [[*what, histogram.to_wire()] for what, histogram in self.step_s.items()],
            "state_s": {state: histogram.to_wire() for state, histogram in self.state_s.items()},
        }


@lru_cache(maxsize=4096)
def _static(path: str) -> str:
    """Return the position in the tree: the path without rounds and items."""
    return _RUN.sub("", path)
