"""Takes answers in: for tasks that wait, and for those that will.

An answer is durable before its sender hears of it. Time limits that are over come before it. So of an answer and a
time-out at the same moment the one that was recorded first counts, also if both came while the supervisor was down.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

from ...protocols.errors import AnswerRefused, FixTheCall, NotFound, PodiumError
from ...protocols.outcomes import OPEN
from ...protocols.probes import hit
from ...protocols.tree import Wait
from ..messages.client import Answer, Receipt
from ..messages.supervisor import AnswerRow, SettleWait
from ..open_tasks import OpenTasks
from ..ports.journal import Found, Journal
from ..ports.messaging import Incoming
from ..ports.world import Clocks
from ..running.timers import Timers
from ..settings import Governance
from ..tasks.events import Answered, TimedOut, readable_events
from ..tasks.judging import judged
from ..tasks.mail import mailbox, waits_for, waits_now
from ..tasks.state import TaskState
from ..upkeep.quarantine import Quarantine
from .resting import Resting


class Answers:
    def __init__(
        self,
        world: Clocks,
        journal: Journal,
        settings: Governance,
        open_tasks: OpenTasks,
        timers: Timers,
        quarantine: Quarantine,
        resting: Resting,
    ) -> None:
        self._world, self._journal, self._open_tasks, self._timers = world, journal, open_tasks, timers
        self._quarantine, self._resting, self._most_kept = quarantine, resting, settings.max_kept_answers
        self.refused: Counter[str] = Counter()
        """Number of refused answers by reason."""

    def take(self, ask: Incoming, answer: Answer) -> None:
        self._resting.awaken(answer.task_id, partial(self._take, ask, answer))

    def _take(self, ask: Incoming, answer: Answer, task: TaskState | None) -> None:
        if task is not None:
            self._timers.catch_up(task)
        if task is None or task.outcome is not None:
            self._journal.find([answer.task_id], [], partial(self._not_open, ask, answer))
            return
        try:
            receipt = self._recorded(task, answer)
        except PodiumError as error:
            self._refuse(ask, error)
        else:
            self._journal.write([], partial(ask.reply, receipt))

    def _recorded(self, task: TaskState, answer: Answer) -> Receipt:
        """Record an answer that counts. Raises the error that refuses it."""
        node = self._node(task, answer)
        box = mailbox(task, answer.name)
        if answer.id in box.came_at:
            hit("answer came again")
            return Receipt(box.came_at[answer.id], "", False)
        event = judged(task, node, answer, self._most_kept, self._world.now())
        before = list(task.waiting)
        self._open_tasks.take(task, event)
        over = [path for path in before if path not in task.waiting]
        hit("answer ends a wait" if over else "answer is kept")
        asking = [place.path for place, _ in waits_for(task, answer.name)]
        return Receipt(event.at, event.path or next(iter([*over, *asking]), ""), bool(over))

    def _node(self, task: TaskState, answer: Answer) -> Wait:
        """Return a wait of the name that is answered, of the workflow or of a step that asks now. Raises NotFound."""
        waits = {**waits_now(task), **self._open_tasks.plans[task.hash].waits}
        if answer.name not in waits:
            known = ", ".join(sorted(waits))
            hint = f"the workflow waits for {known}" if known else "the workflow waits for no answers"
            raise NotFound(what="wait", name=answer.name, hint=hint)
        return waits[answer.name]

    def _not_open(self, ask: Incoming, answer: Answer, found: list[Found]) -> None:
        if not found:
            ask.refuse(NotFound(what="task", name=answer.task_id))
        elif found[0].record.status in OPEN:
            why = self._quarantine.reason(answer.task_id) or found[0].record.status
            ask.refuse(FixTheCall(f"task {answer.task_id} cannot take answers now: {why}"))
        else:
            self._journal.entries(answer.task_id, partial(self._over, ask, answer, found[0].record.status))

    def _over(self, ask: Incoming, answer: Answer, status: str, bodies: list[bytes]) -> None:
        """Refuse an answer to a task that has ended, unless it came before and its sender has not heard of that."""
        came = (event for event in readable_events(bodies) if isinstance(event, Answered))
        at = next((event.at for event in came if (event.name, event.id) == (answer.name, answer.id)), None)
        if at is not None:
            hit("answer came again")
            ask.reply(Receipt(at, "", False))
            return
        problem = f"the task has ended: it is {status}"
        self._refuse(ask, AnswerRefused(task_id=answer.task_id, name=answer.name, reason="closed", problem=problem))

    def settle(self, ask: Incoming, decision: SettleWait) -> None:
        """Take in what the task above has decided about a wait of a nested run."""
        task = self._open_tasks.tasks.get(decision.run)
        if task is not None and decision.path in task.waiting:
            now = self._world.now()
            if decision.answers is None:
                self._open_tasks.take(task, TimedOut(decision.path, now))
            for row in decision.answers or ():
                self._open_tasks.take(task, replace(Answered(*AnswerRow(*row)), path=decision.path))
            hit("nested run told of its wait")
        self._journal.write([], ask.reply)

    def _refuse(self, ask: Incoming, error: PodiumError) -> None:
        hit("answer refused")
        self.refused[error.reason if isinstance(error, AnswerRefused) else error.code] += 1
        self._journal.write([], partial(ask.refuse, error))
