"""The state of one task, and the moves by which the four modes change it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ...protocols.outcomes import Failure, Missing, Outcome, TaskRecord, error_for_rules
from ...protocols.recovery import USUAL, Actions
from ...protocols.tree import Hierarchy, Node, Step
from ...protocols.values import Value


class Time(NamedTuple):
    """A time that runs out."""

    since: float
    """UTC seconds."""
    limit_s: float

    @property
    def until(self) -> float:
        return self.since + self.limit_s

    def moved(self, by_s: float) -> Time:
        """The same, after the clock was set forward by so much."""
        return Time(self.since + by_s, self.limit_s)

    def left_s(self, now: float) -> float:
        """Seconds from now; a clock that was set back gives no more than there were."""
        return max(0.0, min(self.until - now, self.limit_s))


def missing(what: str, place: NodeRun, why: Failure) -> Missing:
    return {what: {"step": place.path or place.name, "error": error_for_rules(why)}}


def with_more(one: Missing, more: Missing) -> Missing:
    """Both. Of what is missing in several places the last is told, with how many there are (`times`)."""
    both = dict(one)
    for what, why in more.items():
        times = int(both.get(what, {}).get("times", what in both)) + int(why.get("times", 1))
        both[what] = {**why, "times": times} if times > 1 else why
    return both


@dataclass(slots=True, eq=False)
class NodeRun:
    """One run of one node in one task. `path` is unique in the task, loops and rounds included."""

    path: str
    name: str
    """The node's name among its siblings."""
    node: Node
    parent: NodeRun | None
    input: Value = None
    given: Value = None
    """What its input was before its `with`."""
    is_mapped: bool = False
    """Whether `input` is what its `with` made of that."""
    outcome: Outcome | None = None
    children: dict[str, NodeRun] = field(default_factory=dict)
    """Runs below that their mode still needs, by label."""
    memory: Any = None
    """The mode's own."""
    outputs: dict[str, Value] = field(default_factory=dict)
    """What `outputs` means in expressions below this place: finished siblings by name."""
    fallbacks: int = 0
    """How many of the node's fallbacks have been opened."""
    failed: bool = False
    """Whether it failed itself, so that its outcome is of what stood in for it."""
    actions: Actions = USUAL
    """What follows its failure."""
    degraded: Missing = field(default_factory=dict)
    """What its output lacks, as far as it goes."""
    undoes: NodeRun | None = None
    """Of what takes a node back: that node."""
    parked: Failure | None = None
    """Why it waits for somebody to decide."""
    began: bool = False
    """Of an at-most-once step: whether it may have been sent to its host."""
    emitted: bool = False
    """Whether something is recorded that the run under way has emitted."""
    heard: int = 0
    """Of a nested Hierarchy: offset in the record of its run up to which this task's record has it."""
    stands_in_for: Failure | None = None
    """Of a fallback: the failure of its parent."""
    attempt: int = 1
    losses: int = 0
    """Hosts that died while this attempt ran."""
    opened_at: float = 0.0
    """UTC seconds at which it became due: the time of the event that led here."""
    time: Time | None = None
    """What it has for everything in it."""
    not_before: float = 0.0
    """UTC seconds at which the next attempt may start."""
    wait_s: float = 0.0
    """How long that was from the failure: a clock that was set back makes nobody wait longer."""

    def lacking(self) -> Missing:
        """What an output made with this one's lacks."""
        if self.stands_in_for is None or self.node.missing is None:
            return self.degraded
        return with_more(self.degraded, missing(self.node.missing, self, self.stands_in_for))

    def is_leaf(self) -> bool:
        """Whether something outside runs it: a protocol host, or the supervisor of a nested Hierarchy."""
        return isinstance(self.node, Step) or (isinstance(self.node, Hierarchy) and self.parent is not None)

    def scope(self) -> dict[str, Value]:
        """All outputs visible to what is directly below, the nearest of each name. What stands in for a node is below
        it, so it sees what was done in it."""
        visible: dict[str, Value] = {}
        place: NodeRun | None = self
        while place is not None:
            visible = place.outputs | visible
            place = place.parent
        return visible

    def task_input(self) -> Value:
        """What `task` means in expressions: what the whole tree was given."""
        place = self
        while place.parent is not None:
            place = place.parent
        return place.given

    def is_over(self) -> bool:
        """Whether it, or a node around it, has its outcome."""
        place: NodeRun | None = self
        while place is not None:
            if place.outcome is not None:
                return True
            place = place.parent
        return False

    def is_within(self, other: NodeRun) -> bool:
        place: NodeRun | None = self
        while place is not None and place is not other:
            place = place.parent
        return place is other

    def let_go(self) -> None:
        """The task has ended: as long as places above and below hold each other, only Python's collector ends them."""
        for child in self.children.values():
            child.let_go()
        self.children.clear()
        self.memory = None

    def open_leaves(self) -> Iterator[NodeRun]:
        if self.outcome is None and self.is_leaf():
            yield self
        for child in self.children.values():
            if child.outcome is None:
                yield from child.open_leaves()


@dataclass(slots=True, eq=False)
class TaskState:
    """The fold of one task's events."""

    record: TaskRecord
    root: NodeRun
    hash: str = ""
    """Of the version that it goes by."""
    order: int = 0
    """Of tasks accepted in the same instant."""
    running: dict[str, NodeRun] = field(default_factory=dict)
    """Steps to be run or running, by path, in the order in which they were started."""
    timed: dict[str, NodeRun] = field(default_factory=dict)
    """Open nodes that have to end in time, by path."""
    parked: dict[str, NodeRun] = field(default_factory=dict)
    """Steps that wait for somebody to decide, by path."""
    done: list[NodeRun] = field(default_factory=list)
    """What can be taken back, in the order in which it ended."""
    takes_back: tuple[str, ...] = ("undo",)
    """Which of the steps of a node do that: the first of these that it has."""
    ending: Outcome | None = None
    """How it will end when everything is taken back; None as long as nothing is."""
    outcome: Outcome | None = None
    faults: list[Exception] = field(default_factory=list)
    """Faults of ours while it was folded, until they are reported."""
    cancelled: bool = False
    origin: str | None = None
    """The first of the tasks that this one continues."""
    continues: str | None = None
    """The task whose failure it was started from."""
    requests: frozenset[str] = frozenset()
    """Those that decided about parked steps."""
    time: Time | None = None
    """What it has from its acceptance to its end."""
    entries: int = 0
    """Journal entries so far."""
    told: int = 1
    """Events that are recorded for watchers: the next has this offset. The first is the acceptance."""
    emitted_bytes: int = 0
    """Of what is recorded of `ctx.emit`, packed."""
    is_cut: bool = False
    """Whether no more of it is recorded."""

    def due_at(self, place: NodeRun) -> float | None:
        """When the step at this place, a node around it, or the task runs out of time, in UTC seconds."""
        if self.time is None and not self.timed:
            return None
        until = math.inf if self.time is None or self.ending is not None else self.time.until
        node: NodeRun | None = place
        while node is not None:
            if node.time is not None and node.path in self.timed:
                until = min(until, node.time.until)
            node = node.parent
        return None if until == math.inf else until

    @property
    def status(self) -> str:
        if self.outcome is None:
            return "parked" if self.parked else "running"
        if self.cancelled:
            return "cancelled"
        return "failed" if self.outcome.failure else "completed"


# What follows, and the other classes of which every step makes several, is not frozen: freezing trebles the cost of
# making one. Nobody changes them all the same.


@dataclass(slots=True)
class Start:
    """Open a node below; `label` tells its runs apart (`draft`, `draft#2`, `[17]`)."""

    label: str
    name: str
    node: Node
    input: Value


@dataclass(slots=True)
class Stop:
    """Cancel the run under `label`, with everything below it."""

    label: str


@dataclass(slots=True)
class Finish:
    outcome: Outcome


Move: TypeAlias = Start | Stop | Finish


@dataclass(slots=True)
class Run:
    """Effect: have the step at this place run, not before its time."""

    place: NodeRun


@dataclass(slots=True)
class Halt:
    """Effect: stop the step at this place; nothing that it still says counts."""

    place: NodeRun


@dataclass(slots=True)
class Alarm:
    """Effect: the time of the node at this place has begun; of the task, without a place."""

    place: NodeRun | None


Effect: TypeAlias = Run | Halt | Alarm
