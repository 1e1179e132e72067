"""Takes submissions in: checks them, finds those that are known already, and accepts the rest together.

The same submission key with the same payload gives the same task again. With another payload it is refused. A key
belongs to one user within one workflow. The journal is authoritative for keys; keys of tasks that are not durable yet
are kept in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, get_args

from ...protocols.errors import AcceptanceUnknown, InvalidInput, KeyConflict, Overloaded, PodiumError
from ...protocols.outcomes import OPEN, Criticality, TaskRecord
from ...protocols.quantities import check_priority, check_seconds, check_start
from ...protocols.values import Value, digest
from ..messages.client import Ack, Submission
from ..open_tasks import OpenTasks
from ..ports.journal import Found, Journal
from ..ports.world import World
from ..seldom import Seldom
from ..tasks.plan import Plan
from ..upkeep.quarantine import Quarantine
from .accepting import Accepting, Candidate
from .admission import Newcomer
from .task_permits import TaskPermits

SLICE = 128
"""Number of tasks that are made durable, and begin, together: the first run while the next are taken in."""

Then: TypeAlias = Callable[[list[Ack], list[TaskRecord]], None]
"""Callback with the acks of the submissions, in their order, and the records of known tasks that had ended before."""
AWAY_RETRY_S = 1.0
"""Seconds after which a task that met a store which is away may be submitted again."""
TELL_EVERY_S = 10.0
"""Seconds between two log lines about refusals for the same reason."""
_CRITICALITIES = get_args(Criticality)


class Intake:
    def __init__(
        self,
        world: World,
        journal: Journal,
        open_tasks: OpenTasks,
        quarantine: Quarantine,
        admission: TaskPermits | None,
    ) -> None:
        """`admission` knows the permits that whole tasks hold; None if they are no reason to refuse a task."""
        self._world, self._journal, self._open_tasks = world, journal, open_tasks
        self._gate, self._tasks, self._accepting = open_tasks.gate, open_tasks.tasks, Accepting(journal, open_tasks)
        self._quarantine, self._admission = quarantine, admission
        self._seldom = Seldom(TELL_EVERY_S)
        self._keys: dict[tuple[str, str], Found] = {}
        """Tasks with a key whose acceptance is not durable yet, by (user, key): the journal may not find them."""
        self._waiting: dict[int, tuple[list[Candidate], Then]] = {}
        """Submissions without an answer, by the identity of their candidates."""

    def take(self, plan: Plan, rows: Sequence[Sequence[Value]], then: Then) -> None:
        """Accept the new and valid submissions of these rows; `then` is called when they are durable."""
        candidates = [self._read_or_refused(plan, row) for row in rows]
        if self._journal.is_away and self._turn_away(candidates):
            _acknowledge(candidates, then)
            return
        self._waiting[id(candidates)] = candidates, then
        ids = [s.record.task_id for s in candidates if s.again]
        keys = [(s.record.user, s.record.key) for s in candidates if s.record.key is not None]
        if ids or keys:
            self._journal.find(ids, keys, partial(self._sort_out, plan, candidates))
        else:
            self._admit(plan, candidates)

    def answer_those_who_wait(self) -> None:
        """Tell senders outside that nobody knows whether their tasks are accepted: the store is away for long.

        The tasks stay on their way. They are accepted when the store is back, unless this supervisor dies before. So
        they cannot be refused, and the same key gives the same task later. Nested runs go on waiting: the task above
        has no other way on.
        """
        for candidates, then in list(self._waiting.values()):
            if any(each.source is None and each.error is None for each in candidates):
                continue
            del self._waiting[id(candidates)]
            then([_unknown(each) for each in candidates], [])

    def _answer(self, candidates: list[Candidate]) -> None:
        waiting = self._waiting.pop(id(candidates), None)
        if waiting is not None:
            _acknowledge(*waiting)

    def _turn_away(self, candidates: list[Candidate]) -> bool:
        """Refuse new submissions while the store is away; returns whether all are refused.

        A submission that was sent before may have been accepted. So it waits until the store can be asked.
        """
        for each in candidates:
            if each.source is not None and not each.again and each.error is None:
                each.error = Overloaded(reason="the store of tasks cannot be reached", retry_after_s=AWAY_RETRY_S)
        return all(each.error is not None for each in candidates)

    def _read_or_refused(self, plan: Plan, row: Sequence[Value]) -> Candidate:
        """Read one submission; if it cannot be read, it alone is refused."""
        try:
            return self._read(plan, Submission(*row))
        except PodiumError as error:
            return self._refused(plan, error)
        except (TypeError, ValueError) as error:
            return self._refused(plan, InvalidInput(problem=f"not what a submission is made of: {error}", path="tasks"))

    def _refused(self, plan: Plan, error: PodiumError) -> Candidate:
        return Candidate(self._record(plan, "", None, "", 0, None), "", False, None, "critical", None, error=error)

    def _read(self, plan: Plan, submitted: Submission) -> Candidate:
        id, input, user, priority, key, again, source, criticality, timeout_s, delay_s, not_before = submitted
        if not (isinstance(id, str) and isinstance(user, str) and isinstance(key, str | None)):
            raise InvalidInput(problem="id, user and key are texts", path="tasks")
        if "\0" in id or "\0" in user or (key is not None and "\0" in key):
            raise InvalidInput(problem="a NUL character is in the user or the key", path="tasks")
        if source is not None and not user:
            raise InvalidInput(problem="an empty text is nobody", path="user")
        check_priority(priority)
        if timeout_s is not None:
            check_seconds(timeout_s, "timeout_s")
        check_start(delay_s, not_before)
        if criticality not in _CRITICALITIES:
            raise InvalidInput(problem=f"'{criticality}' is none of {', '.join(_CRITICALITIES)}", path="tasks")
        record = self._record(plan, id, input, user, priority, key)
        payload_digest = digest(input) if key is not None else ""
        return Candidate(record, payload_digest, again, source, criticality, timeout_s, delay_s, not_before)

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
        candidates: list[Candidate],
        found: list[Found],
    ) -> None:
        by_id = {each.record.task_id: each for each in found}
        by_key = {(each.record.user, each.record.key): each for each in found if each.record.key is not None}
        for candidate in candidates:
            if candidate.error is not None:
                continue  # it is refused, and its key is free
            record = candidate.record
            key = (record.user, record.key or "")
            if record.key is not None:
                candidate.known = self._keys.get(key) or by_key.get((record.user, record.key))
            known = candidate.known
            if known is not None and known.payload_digest != candidate.payload_digest:
                candidate.error = KeyConflict(key=str(record.key), task_id=known.record.task_id)
            elif known is None:
                candidate.known = by_id.get(record.task_id)
                if candidate.known is None and record.key is not None:
                    self._keys[key] = Found(record, candidate.payload_digest)
        self._admit(plan, candidates)

    def _admit(self, plan: Plan, candidates: list[Candidate]) -> None:
        new = [s for s in candidates if not s.error and not s.known and s.record.task_id not in self._tasks]
        new = self._let_in(plan, [s for s in new if not self._is_deadly(s)])
        for start in range(0, len(new), SLICE):
            together = new[start : start + SLICE]
            self._journal.write(self._accepting.accept(plan, together), partial(self._durable, together))
        self._journal.write([], partial(self._answer, candidates))

    def _is_deadly(self, candidate: Candidate) -> bool:
        """Refuse a submission at which supervisors died before it was accepted; returns whether it is refused."""
        candidate.error = self._quarantine.refusal(candidate.record.task_id)
        if candidate.error is not None:
            self._keys.pop((candidate.record.user, candidate.record.key or ""), None)
        return candidate.error is not None

    def _let_in(self, plan: Plan, new: list[Candidate]) -> list[Candidate]:
        """Return the submissions that may be accepted: all that come from outside, or none of these.

        Submissions from outside were sent together, so they have one source and one criticality.
        """
        outside = [each for each in new if each.source is not None]
        if not outside:
            return new
        who = Counter(Newcomer(each.record.user, _kinds(each.record)) for each in outside)
        world, first = self._world, outside[0]
        load, now = world.load(), world.monotonic()
        slots = [] if self._admission is None else self._admission.slots(plan, first.record)
        refusal = self._gate.refusal(who, str(first.source), first.criticality, load, slots, now)
        if refusal is None:
            return new
        if told := self._seldom.count(refusal.reason, len(outside), now):
            self._world.log("warning", "tasks refused", count=told, reason=refusal.reason)
        for each in outside:
            each.error = refusal
            self._keys.pop((each.record.user, each.record.key or ""), None)
        return [each for each in new if each.error is None]

    def _durable(self, new: list[Candidate]) -> None:
        for candidate in new:
            record = candidate.record
            if record.key is not None:
                self._keys.pop((record.user, record.key), None)
            task = self._tasks.get(record.task_id)
            if task is not None:
                self._open_tasks.carry_out(task, candidate.effects)


def _kinds(record: TaskRecord) -> tuple[str, ...]:
    match record.input:
        case {"request": {"type": str(type)}}:
            return type, record.workflow
    return (record.workflow,)


def _unknown(candidate: Candidate) -> Ack:
    error = candidate.error or AcceptanceUnknown(task_id=candidate.record.task_id, retry_after_s=AWAY_RETRY_S)
    return Ack(None, error.to_wire())


def _acknowledge(candidates: list[Candidate], then: Then) -> None:
    acks: list[Ack] = []
    ended = []
    for candidate in candidates:
        known = candidate.known.record if candidate.known else candidate.record
        if candidate.error is not None:
            acks.append(Ack(None, candidate.error.to_wire()))
        else:
            acks.append(Ack(known.task_id, None))
            if candidate.known is not None and known.status not in OPEN:
                ended.append(known)
    then(acks, ended)
