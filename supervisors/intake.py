"""Taking tasks in: checked, told apart from those that are known already, accepted together.

The same submission key with the same payload gives the task that it gave before; with another payload it is
refused. Keys belong to a user within a workflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, get_args

from ..protocols.errors import InvalidInput, KeyConflict, PodiumError
from ..protocols.outcomes import OPEN, Criticality, TaskRecord
from ..protocols.quantities import check_priority, check_seconds
from ..protocols.values import Value, digest
from .gate import Gate, Newcomer, Slots
from .plan import Plan
from .ports import Change, Found, Journal, World
from .quarantine import Quarantine
from .state import Effect, TaskState

SLICE = 128
"""Tasks that are made durable, and begin, together: the first run while the next are being taken in."""

Acks: TypeAlias = list[list[Value]]
"""In the order of the submissions: [task id, null], or [null, error]."""
_CRITICALITIES = get_args(Criticality)


@dataclass(slots=True)
class Submission:
    record: TaskRecord
    payload_digest: str
    again: bool
    """Whether the sender may have sent it before."""
    source: str | None
    """Who speaks: driver, cli, mcp; None if it belongs to a task that was accepted above."""
    criticality: Criticality
    timeout_s: float | None
    """What the task has from its acceptance to its end, if not what its workflow says."""
    error: PodiumError | None = None
    known: Found | None = None
    effects: list[Effect] = field(default_factory=list)


class Intake:
    def __init__(
        self,
        world: World,
        gate: Gate,
        journal: Journal,
        tasks: dict[str, TaskState],
        accept: Callable[[Plan, list[Submission]], list[Change]],
        carry_out: Callable[[TaskState, list[Effect]], None],
        quarantine: Quarantine,
        slots: Callable[[Plan, TaskRecord], list[Slots]],
    ) -> None:
        """`slots`: what tasks like this one hold as a whole."""
        self._world, self._journal, self._gate = world, journal, gate
        self._tasks, self._accept, self._carry_out = tasks, accept, carry_out
        self._quarantine, self._slots = quarantine, slots
        self._keys: dict[tuple[str, str], Found] = {}
        """Keys of tasks whose acceptance is not durable yet, so that the journal cannot know them."""

    def take(self, plan: Plan, wires: list[list[Value]], then: Callable[[Acks, list[TaskRecord]], None]) -> None:
        """Accept what is new and sound; `then` gets acknowledgements, and records that ended before, once durable."""
        submissions = [self._read_or_refused(plan, wire) for wire in wires]
        ids = [s.record.task_id for s in submissions if s.again]
        keys = [(s.record.user, s.record.key) for s in submissions if s.record.key is not None]
        if ids or keys:
            self._journal.find(ids, keys, partial(self._sort_out, plan, submissions, then))
        else:
            self._admit(plan, submissions, then)

    def _read_or_refused(self, plan: Plan, wire: list[Value]) -> Submission:
        """One that cannot be read is refused, and no other of those that came with it."""
        try:
            return self._read(plan, wire)
        except PodiumError as error:
            return self._refused(plan, error)
        except (TypeError, ValueError) as error:
            return self._refused(plan, InvalidInput(problem=f"not what a submission is made of: {error}", path="tasks"))

    def _refused(self, plan: Plan, error: PodiumError) -> Submission:
        return Submission(self._record(plan, "", None, "", 0, None), "", False, None, "critical", None, error)

    def _read(self, plan: Plan, wire: list[Value]) -> Submission:
        """[id, input, user, priority, key, again, source, criticality, timeout_s]."""
        id, input, user, priority, key, again, source, criticality, timeout_s = wire
        if not (isinstance(id, str) and isinstance(user, str) and isinstance(key, str | None)):
            raise InvalidInput(problem="id, user and key are texts", path="tasks")
        if source is not None and not user:
            raise InvalidInput(problem="an empty text is nobody", path="user")
        check_priority(priority)
        if timeout_s is not None:
            check_seconds(timeout_s, "timeout_s")
        if criticality not in _CRITICALITIES:
            raise InvalidInput(problem=f"'{criticality}' is none of {', '.join(_CRITICALITIES)}", path="tasks")
        record = self._record(plan, id, input, user, priority, key)
        payload_digest = digest(input) if key is not None else ""
        return Submission(record, payload_digest, again, source, criticality, timeout_s)

    def _record(self, plan: Plan, id: str, input: Value, user: str, priority: int, key: str | None) -> TaskRecord:
        return TaskRecord(
            task_id=id,
            workflow=plan.name,
            version=plan.version,
            hash=plan.hash,
            input=input,
            user=user,
            priority=priority,
            key=key,
            status="running",
            accepted_at=self._world.now(),
        )

    def _sort_out(
        self,
        plan: Plan,
        submissions: list[Submission],
        then: Callable[[Acks, list[TaskRecord]], None],
        found: list[Found],
    ) -> None:
        by_id = {each.record.task_id: each for each in found}
        by_key = {(each.record.user, each.record.key): each for each in found if each.record.key is not None}
        for submission in submissions:
            record = submission.record
            key = (record.user, record.key or "")
            if record.key is not None:
                submission.known = self._keys.get(key) or by_key.get((record.user, record.key))
            known = submission.known
            if known is not None and known.payload_digest != submission.payload_digest:
                submission.error = KeyConflict(key=str(record.key), task_id=known.record.task_id)
            elif known is None:
                submission.known = by_id.get(record.task_id)
                if submission.known is None and record.key is not None:
                    self._keys[key] = Found(record, submission.payload_digest)
        self._admit(plan, submissions, then)

    def _admit(self, plan: Plan, submissions: list[Submission], then: Callable[[Acks, list[TaskRecord]], None]) -> None:
        new = [s for s in submissions if not s.error and not s.known and s.record.task_id not in self._tasks]
        new = self._let_in(plan, [s for s in new if not self._is_deadly(s)])
        for start in range(0, len(new), SLICE):
            together = new[start : start + SLICE]
            self._journal.write(self._accept(plan, together), partial(self._durable, together))
        self._journal.write([], partial(_acknowledge, submissions, then))

    def _is_deadly(self, submission: Submission) -> bool:
        """Whether supervisors died at it before it was accepted; then it is refused."""
        submission.error = self._quarantine.refusal(submission.record.task_id)
        if submission.error is not None:
            self._keys.pop((submission.record.user, submission.record.key or ""), None)
        return submission.error is not None

    def _let_in(self, plan: Plan, new: list[Submission]) -> list[Submission]:
        """All of those that come from outside, or none. They were sent together, so they are of one kind."""
        outside = [each for each in new if each.source is not None]
        if not outside:
            return new
        who = Counter(Newcomer(each.record.user, _kinds(each.record)) for each in outside)
        world, first = self._world, outside[0]
        load, now, slots = world.load(), world.monotonic(), self._slots(plan, first.record)
        refusal = self._gate.refusal(who, str(first.source), first.criticality, load, slots, now)
        if refusal is None:
            return new
        for each in outside:
            each.error = refusal
            self._keys.pop((each.record.user, each.record.key or ""), None)
        return [each for each in new if each.error is None]

    def _durable(self, new: list[Submission]) -> None:
        for submission in new:
            record = submission.record
            if record.key is not None:
                self._keys.pop((record.user, record.key), None)
            task = self._tasks.get(record.task_id)
            if task is not None:
                self._carry_out(task, submission.effects)


def _kinds(record: TaskRecord) -> tuple[str, ...]:
    match record.input:
        case {"request": {"type": str(type)}}:
            return type, record.workflow
    return (record.workflow,)


def _acknowledge(submissions: list[Submission], then: Callable[[Acks, list[TaskRecord]], None]) -> None:
    acks: Acks = []
    ended = []
    for submission in submissions:
        known = submission.known.record if submission.known else submission.record
        if submission.error is not None:
            acks.append([None, submission.error.to_wire()])
        else:
            acks.append([known.task_id, None])
            if submission.known is not None and known.status not in OPEN:
                ended.append(known)
    then(acks, ended)
