"""The open tasks of one supervisor, and the loop around the fold: event → journal → effects.

A part of the supervisor that learns of an event of a task calls `take`. The event is folded in at once and made durable
with the next commit. Its effects follow only then: no step that depends on an event starts, and no watcher is told of
the event, before it is durable. A task that has ended takes no more events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, assert_never

from ..protocols.outcomes import Outcome
from .admission.admission import Admission
from .faults import Faults, shielded
from .figures.counters import Counters
from .figures.lifecycle import Lifecycle
from .messages.client import ClientEvent
from .messages.host import StepResult
from .messages.supervisor import RunEnded
from .ports.journal import Change, Entry, Journal, Standing
from .ports.world import Clocks
from .settings import Governance
from .tasks.client_events import parked_event, waiting_value
from .tasks.entries import entry_of, standing
from .tasks.events import Event, StepBegan, StepFailed
from .tasks.fold import apply
from .tasks.plan import Plan
from .tasks.state import Alarm, Awaited, Awaits, Effect, Halt, NodeRun, Run, TaskState, Tell
from .watching.watchers import Watchers

_OF_WAITS = (Awaits, Awaited)


class RunsSteps(Protocol):
    """Starts the steps of a task as soon as the task holds the permits that its workflow needs."""

    def run(self, task: TaskState, place: NodeRun, recovered: bool = False) -> None: ...

    def settle(self, task: TaskState) -> None:
        """Let go of permits that the task no longer needs. Called after the effects of each event."""


class HaltsSteps(Protocol):
    def halt(self, task: TaskState, place: NodeRun) -> None:
        """Stop the step of this node run; its later messages are dropped."""

    def tell(self, task: TaskState, place: NodeRun, wait: str) -> None:
        """Tell the nested run of this node run what was decided about one of its waits."""


class SetsTimers(Protocol):
    def set(self, task: TaskState, place: NodeRun | None) -> None:
        """Set the timer for the time limit of a node run, or of the whole task if `place` is None."""


class ReadsResults(Protocol):
    def event_of(self, task: TaskState, place: NodeRun, result: StepResult | RunEnded) -> Event:
        """Return the event that the result of an attempt is for the task."""


class CollectsEmissions(Protocol):
    def taken(self, task: TaskState) -> list[Event]:
        """Take out the emitted chunks of the task's steps that are not recorded yet, as events."""


class ChecksClock(Protocol):
    set_by_s: float
    """Seconds by which the clock has been set in all."""

    def check(self) -> None:
        """Move the times of all tasks if the system clock was set since the last check."""


class LeavesOnDisk(Protocol):
    def settle(self, task: TaskState) -> None:
        """Note whether a task rests. Called after the effects of each event."""


class OpenTasks:
    """The state that the parts of a supervisor share: its open tasks, their plans, and the loop around the fold.

    The parts that carry out effects (`admission`, `dispatcher`, `timers`, …) are set before the first task.
    """

    admission: RunsSteps
    dispatcher: HaltsSteps
    timers: SetsTimers
    retries: ReadsResults
    emissions: CollectsEmissions
    clock: ChecksClock
    resting: LeavesOnDisk

    def __init__(
        self, world: Clocks, journal: Journal, settings: Governance, plans: Mapping[str, Plan], watchers: Watchers
    ) -> None:
        """`plans` are the workflow versions that the supervisor governs, by hash."""
        self._world, self._journal, self._max_bytes = world, journal, settings.max_value_bytes
        self.plans, self.watchers = plans, watchers
        self.tasks: dict[str, TaskState] = {}
        """Tasks that have not ended, by task id."""
        self.gate, self.tally, self.faults = Admission(settings), Counters(), Faults()
        self._lifecycle = Lifecycle(self.tally)
        self._accepted = 0
        self.ended_count = 0
        """Tasks that have ended since this supervisor started."""

    def keep(self, task: TaskState) -> None:
        """Add a task to the open tasks."""
        self.tasks[task.record.task_id] = task
        self._accepted += 1
        task.order = self._accepted
        self._count(task)
        self._lifecycle.opened(task, self.plans[task.hash].has_stages, self._world.now())

    def take(self, task: TaskState, event: Event) -> None:
        """Fold the event in and record it, after the chunks that the task's steps have emitted before it."""
        self.clock.check()
        if task.outcome is None:
            self._record(task, [*self.emissions.taken(task), event])

    def flush(self, task: TaskState) -> None:
        """Record the chunks that the task's steps have emitted, so that watchers are told of them."""
        emitted = self.emissions.taken(task)
        if task.outcome is None and emitted:
            self._record(task, emitted)

    def step_ended(self, task: TaskState, place: NodeRun, result: StepResult | RunEnded) -> None:
        """Take in the result of a step, from a host or from a nested supervisor. A stale result is ignored."""
        self.clock.check()
        if task.running.get(place.path) is not place:
            return
        try:
            event = self.retries.event_of(task, place, result)
        except Exception as error:
            failure = self.faults.note(f"a result of {place.path}", error)
            event = StepFailed(place.path, failure, None, self._world.now())
        self.take(task, event)

    def step_begins(self, task: TaskState, place: NodeRun, go: Callable[[], None]) -> None:
        """Record that an at-most-once step is about to be sent to a host; `go` is called when that is durable."""
        if task.running.get(place.path) is place:
            began = StepBegan(place.path, self._world.now())
            apply(task, began)
            self._journal.write([self.entry(task, [began])], go)

    def entry(self, task: TaskState, events: list[Event]) -> Entry:
        """Make the task's next journal entry from these events. It holds the outcome too if the task has ended."""
        now = events[-1].at if events else self._world.now()
        return entry_of(task, events, now, self._max_bytes)

    def standing(self, task: TaskState) -> Standing | None:
        """Return how a task stands if that is not on record; None if it is. The caller writes it."""
        stands = standing(task, self.clock.set_by_s)
        if stands is not None:
            self._count(task)
        return stands

    def _count(self, task: TaskState) -> None:
        """Count a task as open as long as it does not rest."""
        if task.rests is None and task.status != "waiting":
            self.gate.opened(task.record)
        else:
            self.gate.ended(task.record)

    def let_go(self, task: TaskState) -> None:
        """Let a task go from memory that rests. All that was written of it is durable."""
        del self.tasks[task.record.task_id]
        self.gate.ended(task.record)
        self._lifecycle.let_go(task)
        task.root.let_go()

    def _record(self, task: TaskState, events: list[Event]) -> None:
        doing = self._journal.doing
        doing.begin(task.record.task_id, task.entries)
        try:
            self._fold_in(task, events)
        except Exception as error:
            self._fail(task, error)
        doing.end()

    def _fold_in(self, task: TaskState, events: list[Event]) -> None:
        told = self.watchers.see(task, events)
        effects: list[Effect] = []
        for event in events:
            self.tally.happened(task, event)
            effects = apply(task, event)
        if task.faults:
            self.faults.of(task)
        self._lifecycle.happened(task, event.at)
        entry = self.entry(task, events)
        changes: list[Change] = [entry]
        before = task.record.status
        stands = self.standing(task)
        if stands is not None:
            changes.append(stands)
            if stands.status == "parked" != before:
                self.watchers.tell(task.record.task_id, parked_event(self._world.now()))
        then = partial(self.carry_out, task, effects)
        self._journal.write(changes, partial(self._tell_all, task, told, entry.n, then) if told else then)

    def _fail(self, task: TaskState, error: Exception) -> None:
        """Fail the task because folding or packing its events raised an internal fault."""
        failure = self.faults.note(f"task {task.record.task_id}", error)
        effects: list[Effect] = [Halt(place) for place in task.running.values()]
        task.running.clear()
        task.outcome = Outcome(failure=failure)
        self._journal.write([self.entry(task, [])], partial(self.carry_out, task, effects))

    def _tell_all(self, task: TaskState, told: list[ClientEvent], n: int, then: Callable[[], None]) -> None:
        for event in told:
            shielded("telling watchers", self.watchers.tell, task.record.task_id, event, n)
        then()

    def carry_out(self, task: TaskState, effects: list[Effect]) -> None:
        """Carry out the effects of events that are durable now, and drop the task from the open tasks if it ended."""
        doing = self._journal.doing
        doing.begin(task.record.task_id, task.entries)
        for effect in effects:
            try:
                self._carry_out_one(task, effect)
            except Exception as error:
                self._effect_failed(task, effect, error)
        if "/" in task.record.task_id and any(isinstance(effect, _OF_WAITS) for effect in effects):
            self.watchers.tell_waits(task, self._world.now())
        if task.outcome is not None and self.tasks.pop(task.record.task_id, None) is not None:
            self.gate.ended(task.record)
            self.tally.ended(task.record)
            self.ended_count += 1
            shielded("telling how a task ended", self.watchers.ended, task.record, task.told)
            task.root.let_go()
        self.admission.settle(task)
        self.resting.settle(task)
        doing.end()

    def _carry_out_one(self, task: TaskState, effect: Effect) -> None:
        match effect:
            case Run():
                if task.running.get(effect.place.path) is effect.place:
                    self.admission.run(task, effect.place)
            case Halt():
                self.dispatcher.halt(task, effect.place)
            case Alarm():
                self.timers.set(task, effect.place)
            case Awaits():
                if effect.place.path in task.waiting:
                    self.watchers.live(task, effect.place, "waiting", self._world.now(), waiting_value(effect.place))
            case Tell():
                self.dispatcher.tell(task, effect.place, effect.wait)
            case Awaited():
                outcome = effect.place.outcome
                if outcome is not None and outcome.failure is None:
                    self.watchers.live(task, effect.place, "finished", self._world.now(), outcome.output)
            case _:
                assert_never(effect)

    def _effect_failed(self, task: TaskState, effect: Effect, error: Exception) -> None:
        """Report an internal fault in carrying out an effect; a step that could not be started fails with it."""
        failure = self.faults.note(f"task {task.record.task_id}, {type(effect).__name__}", error)
        if isinstance(effect, Run) and task.running.get(effect.place.path) is effect.place:
            self.take(task, StepFailed(effect.place.path, failure, None, self._world.now()))
