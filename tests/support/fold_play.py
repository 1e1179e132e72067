"""A task under the fold that a test moves by hand, and random trees for it."""

from __future__ import annotations

from hypothesis import strategies as st

from podium import Adaptive, Parallel, Rule, Sequence, Sleep, Step, Wait
from podium.protocols.outcomes import Failure, TaskRecord
from podium.protocols.recovery import USUAL
from podium.supervisors.tasks.events import (
    Answered,
    Cancelled,
    Dropped,
    Due,
    Held,
    Overdue,
    Redriven,
    StepBegan,
    StepFailed,
    StepFinished,
    TimedOut,
    Woke,
)
from podium.supervisors.tasks.fold import apply, begin
from podium.supervisors.tasks.state import Halt, Run
from tests import sample


def record(input=None):
    return TaskRecord("t-1", "w", "1", "h", input, "u", 0, None, "running", 100.0)


class Play:
    """A task under the fold, moved by hand."""

    def __init__(self, root, input=None):
        self.root, self.input, self.answers = root, input, 0
        self.task, effects = begin(record(input), root)
        self.events = []
        self.started = [effect.place.path for effect in effects if isinstance(effect, Run)]
        self.halted = []

    def _apply(self, event):
        self.events.append(event)
        self.effects = effects = apply(self.task, event)
        self.started = [effect.place.path for effect in effects if isinstance(effect, Run)]
        self.halted = [effect.place.path for effect in effects if isinstance(effect, Halt)]
        return self

    def done(self, path, output=None):
        return self._apply(StepFinished(path, output, 101.0))

    def failed(self, path, message="broken", retry_at=None, code="error", actions=USUAL):
        return self._apply(StepFailed(path, Failure(code, message), retry_at, 101.0, actions))

    def redriven(self, of=None):
        return self._apply(Redriven(of, "r", 101.0))

    def dropped(self):
        return self._apply(Dropped("d", 101.0))

    def cancel(self):
        return self._apply(Cancelled(101.0, undo=True))

    def began(self, path):
        return self._apply(StepBegan(path, 100.5))

    def due(self):
        return self._apply(Due(1.0, 100.0))

    def held(self, until=200.0):
        return self._apply(Held(until, 100.0))

    def overdue(self):
        return self._apply(Overdue(1.0, 101.0))

    def timed_out(self, path=""):
        return self._apply(TimedOut(path, 101.0))

    def answered(self, name, value=None, by="ann", id=None, path="", at=101.0):
        self.answers += 1
        return self._apply(Answered(name, id or f"a-{self.answers}", value, by, "driver", path, at))

    def woke(self, path, at=101.0):
        return self._apply(Woke(path, at))

    def input_of(self, path):
        return self.task.running[path].input

    @property
    def result(self):
        assert self.task.outcome is not None
        assert self.task.outcome.failure is None
        return self.task.outcome.output

    @property
    def failure(self):
        assert self.task.outcome is not None
        return self.task.outcome.failure


def step(name, **settings):
    return Step(sample.echo, name=name, **settings)


TREES = st.recursive(
    st.sampled_from(
        [
            Step(sample.echo),
            Step(sample.echo, undo=sample.echo),
            Step(sample.echo, total_timeout_s=3, fallback=[sample.add]),
            Wait("yes"),
            Wait("yes", timeout_s=3, on_timeout={"value": 0}),
            Wait("next", mailbox="each", timeout_s=3, on_timeout=Step(sample.echo), fallback=[sample.add]),
            Sleep(for_s=5),
            Sleep(for_s=5, undo=sample.echo),
        ]
    ),
    lambda nodes: st.one_of(
        st.lists(nodes, min_size=1, max_size=3).map(lambda parts: Sequence(*parts)),
        st.builds(
            Parallel,
            st.dictionaries(st.sampled_from("abc"), nodes, min_size=1, max_size=3),
            join=st.sampled_from(["all", "any", "settled"]),
            rest=st.sampled_from(["cancel", "wait"]),
            limit=st.none() | st.integers(1, 2),
            timeout_s=st.none() | st.just(3),
        ),
        st.lists(nodes, min_size=1, max_size=2).map(lambda parts: Sequence(*parts, timeout_s=3)),
        st.builds(lambda node: Parallel(each="[1, 2, 3]", do=node, limit=2, timeout_s=3, on_timeout="partial"), nodes),
        st.builds(
            lambda one, two: Adaptive(
                {"a": one, "b": two},
                start="a",
                rules=[Rule(after="a", when="visits.a < 2", to="a"), Rule(after="a", to="b"), Rule(to="end")],
            ),
            nodes,
            nodes,
        ),
    ),
    max_leaves=6,
)
