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
from ..ports.journal import Rests
from .events import Answered


class Time(NamedTuple):
    """A time limit, or a sleep, that has begun."""

    since: float
    """UTC seconds at which it began."""
    limit_s: float
    is_moment: bool = False
    """Whether it ends at a moment of the clock, wherever the clock is set. Else it ends when `limit_s` have passed."""

    @property
    def until(self) -> float:
        return self.since + self.limit_s

    def moved(self, by_s: float) -> Time:
        """Return the same time after the clock was set forward by `by_s` seconds."""
        return self._replace(since=self.since if self.is_moment else self.since + by_s)

    def left_s(self, now: float) -> float:
        """Seconds that are left, at least 0; of a time limit at most `limit_s`, even if the clock was set back."""
        left_s = max(0.0, self.until - now)
        return left_s if self.is_moment else min(left_s, self.limit_s)


def missing(what: str, place: NodeRun, why: Failure) -> Missing:
    return {what: {"step": place.path or place.name, "error": error_for_rules(why)}}


def with_more(one: Missing, more: Missing) -> Missing:
    """Merge two records of missing parts. A part that is missing several times keeps its last entry and `times`."""
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
    """The input before `with` was applied."""
    is_mapped: bool = False
    """Whether `with` was applied to `input`, if the node has one."""
    outcome: Outcome | None = None
    children: dict[str, NodeRun] = field(default_factory=dict)
    """Runs directly below that the mode still needs, by label."""
    memory: Any = None
    """State of the node's mode; no other code uses it."""
    outputs: dict[str, Value] = field(default_factory=dict)
    """Outputs of the finished nodes directly below, by name: `outputs` in the expressions of the nodes below."""
    fallbacks: int = 0
    """Number of the node's fallbacks that have been opened."""
    failed: bool = False
    """Whether the node itself failed, so that a successful outcome comes from a fallback or a constant."""
    actions: Actions = USUAL
    """Actions that follow a failure of this run."""
    degraded: Missing = field(default_factory=dict)
    """Parts known so far to be missing from the output of this run."""
    undoes: NodeRun | None = None
    """For an undo run: the node run that it undoes."""
    parked: Failure | None = None
    """For a parked run: the failure that somebody has to decide about."""
    began: bool = False
    """For an at-most-once step: whether it may have been sent to its host."""
    emitted: bool = False
    """Whether chunks of the current try of this attempt are on record."""
    heard: int = 0
    """For a nested Hierarchy: offset of the first event of the nested run that this task has not recorded yet."""
    stands_in_for: Failure | None = None
    """For a fallback: the failure of the parent node."""
    attempt: int = 1
    losses: int = 0
    """Number of hosts that died while this attempt ran."""
    opened_at: float = 0.0
    """UTC seconds at which this run became due: the time of the event that opened it."""
    time: Time | None = None
    """The time limit of this run, children included."""
    not_before: float = 0.0
    """UTC seconds at which the next attempt may start."""
    wait_s: float = 0.0
    """Seconds from the failure to the next attempt: an upper bound for the wait, in case the clock is set back."""

    def lacking(self) -> Missing:
        """Parts that are missing from any output built on this run's output."""
        if self.stands_in_for is None or self.node.missing is None:
            return self.degraded
        return with_more(self.degraded, missing(self.node.missing, self, self.stands_in_for))

    def is_leaf(self) -> bool:
        """Whether a protocol host or a nested supervisor runs this node, and not the fold."""
        return isinstance(self.node, Step) or (isinstance(self.node, Hierarchy) and self.parent is not None)

    def scope(self) -> dict[str, Value]:
        """Return all outputs that the nodes directly below can see; of equal names the nearest counts.

        A fallback is below the node that failed, so it sees the outputs of that node's children.
        """
        visible: dict[str, Value] = {}
        place: NodeRun | None = self
        while place is not None:
            visible = place.outputs | visible
            place = place.parent
        return visible

    def task_input(self) -> Value:
        """Return the value of `task` in expressions: the input of the whole tree."""
        place = self
        while place.parent is not None:
            place = place.parent
        return place.given

    def is_over(self) -> bool:
        """Whether this run, or a run around it, has its outcome."""
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
        """Cut the references between parents and children of an ended task, so that no garbage collection is needed."""
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


class _Nothing(dict[str, NodeRun]):
    """Stays empty. Most tasks never wait, and share it."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dataclass takes no default that has no hash


NOTHING_WAITS: dict[str, NodeRun] = _Nothing()


@dataclass(slots=True)
class Mailbox:
    """The answers that have come to one task under one name, and what waits have made of them."""

    answers: list[Answered] = field(default_factory=list)
    """All answers of a mailbox `once`; the answers of a mailbox `each` that no wait has taken."""
    came_at: dict[str, float] = field(default_factory=dict)
    """UTC seconds at which each answer has come, by its id."""
    has_met: bool = False
    """Whether a node has waited for it."""


@dataclass(slots=True)
class Told:
    """The memory of a step that has asked: how often, and what it was told last."""

    asks: int
    resume: Value
    answers: Value = None
    """The output of the wait for the last question; None as long as it waits."""

    def told(self) -> Value:
        return {"answers": self.answers, "resume": self.resume}


@dataclass(slots=True)
class Asked:
    """The question of a Wait, and the answers that it has so far."""

    shown: Value
    digest: str
    """Digest of the place and of what is shown. No two waits of a task have the same, but a redriven one has its own
    again."""
    answers: list[Answered] = field(default_factory=list)
    is_below: bool = False
    """Whether the node is in a nested run, which is told of the decision."""


def is_below(place: NodeRun) -> bool:
    """Whether a run that waits stands for a node of a nested run, about which this task decides."""
    return isinstance(place.memory, Asked) and place.memory.is_below


@dataclass(slots=True)
class Decided:
    """The memory of a nested run that waits: what was decided and it has not confirmed, by path of the wait.

    These are the answers; None stands for a time-out.
    """

    by_path: dict[str, list[Answered] | None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class TaskState:
    """The fold of one task's events."""

    record: TaskRecord
    root: NodeRun
    hash: str = ""
    """Hash of the workflow version that the task runs."""
    started_at: float = 0.0
    """UTC seconds at which the task was accepted, or since which it is not held any more."""
    order: int = 0
    """Order among tasks accepted at the same time: lower goes first."""
    running: dict[str, NodeRun] = field(default_factory=dict)
    """Steps that are due or running, by path, in the order in which they became due."""
    timed: dict[str, NodeRun] = field(default_factory=dict)
    """Open node runs with a time limit, by path."""
    parked: dict[str, NodeRun] = field(default_factory=dict)
    """Parked steps, which wait for somebody's decision, by path."""
    waiting: dict[str, NodeRun] = NOTHING_WAITS
    """Runs of Wait and Sleep that wait, by path, in the order in which they began."""
    mail: dict[str, Mailbox] | None = None
    """The mailboxes to which an answer has come, or for which a node has waited, by name. Most tasks have none."""
    done: list[NodeRun] = field(default_factory=list)
    """Finished node runs that can be undone, in the order in which they ended."""
    takes_back: tuple[str, ...] = ("undo",)
    """Names of the settings that may hold the undo step of a node; the first that the node has counts."""
    ending: Outcome | None = None
    """The outcome that the task will have when all undo steps have ended; None as long as it is not ending."""
    outcome: Outcome | None = None
    faults: list[Exception] = field(default_factory=list)
    """Internal faults in folding this task that are not reported yet."""
    cancelled: bool = False
    origin: str | None = None
    """Id of the first task in the chain of continued tasks."""
    continues: str | None = None
    """Id of the failed task that this task continues."""
    requests: frozenset[str] = frozenset()
    """Ids of the redrive and drop requests that were carried out."""
    time: Time | None = None
    """The time limit of the whole task."""
    entries: int = 0
    """Number of journal entries so far."""
    listed: dict[str, int] | None = None
    """Waits of the task that are on record in the inbox, by path, each with the number of answers that it has there."""
    rests: Rests | None = None
    """Until when the task rests, as it is on record."""
    told: int = 1
    """Number of client events on record, the acceptance included: the next one has this offset."""
    emitted_bytes: int = 0
    """Packed bytes of the recorded chunks, as `cost_of` counts them."""
    is_cut: bool = False
    """Whether no more chunks are recorded."""

    def rests_until(self) -> float:
        """UTC seconds of the first time limit or sleep that ends, `math.inf` without one."""
        ends = [place.time.until for place in self.timed.values() if place.time is not None]
        return min([*ends, math.inf if self.time is None else self.time.until])

    def due_at(self, place: NodeRun) -> float | None:
        """UTC seconds of the first time limit that ends: of this step, a node around it, or the task; None without."""
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
            return "parked" if self.parked else "waiting" if self.waiting and not self.running else "running"
        if self.cancelled:
            return "cancelled"
        return "failed" if self.outcome.failure else "completed"


# The classes below, and the other classes of which every step makes several objects, are not frozen: freezing trebles
# the cost of making an object. No code changes these objects all the same.


@dataclass(slots=True)
class Start:
    """Open a node below; `label` is unique among the runs below (`draft`, `draft#2`, `[17]`)."""

    label: str
    name: str
    node: Node
    input: Value


@dataclass(slots=True)
class Stop:
    """Cancel the node run with this label, and everything below it."""

    label: str


@dataclass(slots=True)
class Finish:
    outcome: Outcome


@dataclass(slots=True)
class Await:
    """Let the node wait: for answers, or until its time is over."""


@dataclass(slots=True)
class Again:
    """Run the step again that has asked, with the outcome of the wait for its answer."""

    outcome: Outcome


Move: TypeAlias = Start | Stop | Finish | Await | Again


@dataclass(slots=True)
class Run:
    """Effect: run this step, not before `not_before`."""

    place: NodeRun


@dataclass(slots=True)
class Halt:
    """Effect: stop this step; its later messages are dropped."""

    place: NodeRun


@dataclass(slots=True)
class Alarm:
    """Effect: set the timer for the time limit of this node run, or of the task if `place` is None."""

    place: NodeRun | None


@dataclass(slots=True)
class Awaits:
    """Effect: this node run waits now."""

    place: NodeRun


@dataclass(slots=True)
class Awaited:
    """Effect: this node run does not wait any more. Without an outcome it was stopped."""

    place: NodeRun


@dataclass(slots=True)
class Tell:
    """Effect: tell the nested run of this node run what was decided about one of its waits."""

    place: NodeRun
    wait: str


Effect: TypeAlias = Run | Halt | Alarm | Awaits | Awaited | Tell
