"""Planted bugs in waiting: answers, time, rest, and waits in nested Hierarchies. See mutants.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

from podium.cluster.store.memory.journal import MemoryJournal
from podium.protocols.errors import AnswerRefused, PodiumError
from podium.supervisors.open_tasks import OpenTasks
from podium.supervisors.running import timers
from podium.supervisors.running.timers import Timers
from podium.supervisors.tasks import fold, judging, mail
from podium.supervisors.tasks.events import WaitBelowOver
from podium.supervisors.tasks.folding import Folding
from podium.supervisors.tasks.state import Time
from podium.supervisors.waiting.answers import Answers
from podium.supervisors.waiting.resting import Resting
from podium.supervisors.watching.live import Live
from tests.supervisors.waiting import test_answers, test_asking, test_delay, test_resting, test_waits_below


def take_answers_of_anybody() -> Any:
    return patch.object(judging, "_check_sender", lambda *_: None)


def take_answers_that_do_not_fit() -> Any:
    return patch.object(judging, "_check_value", lambda *_: None)


def record_answers_that_come_too_late() -> Any:
    return patch.object(judging, "_once", lambda *_: "")


def lose_answers_that_come_early() -> Any:
    def put(task: Any, answer: Any) -> None:
        if any(mail.waits_for(task, answer.name)):
            original(task, answer)

    original = mail.put
    return patch.object(fold, "put", put)


def tell_senders_before_their_answer_is_durable() -> Any:
    def take(answers: Answers, ask: Any, answer: Any, task: Any) -> None:
        try:
            ask.reply(answers._recorded(task, answer))
        except PodiumError as error:
            answers._refuse(ask, error)

    return patch.object(Answers, "_take", take)


def refuse_what_came_before_the_task_ended() -> Any:
    def over(answers: Answers, ask: Any, answer: Any, status: str, _bodies: Any) -> None:
        error = AnswerRefused(task_id=answer.task_id, name=answer.name, reason="closed", problem=f"it is {status}")
        answers._refuse(ask, error)

    return patch.object(Answers, "_over", over)


def let_answers_win_over_a_time_that_is_over() -> Any:
    """Answers come first, and the timers of what was woken for them later."""
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(Timers, "catch_up", lambda *_: None))
    stack.enter_context(patch.object(Timers, "resume", lambda *_: None))
    return stack


def move_moments_with_the_clock() -> Any:
    return patch.object(Time, "moved", lambda time, by_s: time._replace(since=time.since + by_s))


def keep_durations_when_the_clock_is_set() -> Any:
    """Tasks that rest on disk do not hear that the clock was set."""

    def loaded(resting: Resting, found: Any) -> Any:
        rests = found.rests._replace(clock_s=resting._clock.set_by_s)
        return original(resting, type(found)(found.task, rests))

    original = Resting._loaded
    return patch.object(Resting, "_loaded", loaded)


def never_look_who_is_due() -> Any:
    async def look(resting: Resting) -> None:
        resting._is_looking = False

    return patch.object(Resting, "_look", look)


def let_tasks_go_that_have_moved() -> Any:
    def let_go(resting: Resting, task: Any, _entries: int) -> None:
        if resting._open_tasks.tasks.get(task.record.task_id) is task:
            resting._open_tasks.let_go(task)
            resting.on_disk[task.record.hash] += 1

    return patch.object(Resting, "_let_go", let_go)


def leave_tasks_at_rest_that_go_on() -> Any:
    def stand(journal: MemoryJournal, change: Any) -> None:
        before = journal._disk.resting.get(change.task_id)
        original(journal, change)
        if before is not None and change.task_id in journal._disk.tasks:
            journal._disk.resting.setdefault(change.task_id, before)

    original = MemoryJournal._stand
    return patch.object(MemoryJournal, "_stand", stand)


def count_tasks_that_rest_as_open() -> Any:
    return patch.object(OpenTasks, "_count", lambda tasks, task: tasks.gate.opened(task.record))


def let_nested_runs_decide_by_themselves() -> Any:
    return patch.object(timers, "Wait", int)


def tell_a_nested_run_only_once() -> Any:
    def waits_below(live: Live, task: Any, place: Any, rows: Any) -> None:
        with patch.object(live.dispatcher, "tell", lambda *_: None):
            original(live, task, place, rows)

    original = Live.waits_below
    return patch.object(Live, "waits_below", waits_below)


def forget_what_waits_below() -> Any:
    def take(tasks: OpenTasks, task: Any, event: Any) -> None:
        if not isinstance(event, WaitBelowOver):
            original(tasks, task, event)

    original = OpenTasks.take
    return patch.object(OpenTasks, "take", take)


def start_at_once_what_is_for_later() -> Any:
    return patch.object(Folding, "hold", lambda *_: None)


def start_what_is_for_later_beside_its_wait() -> Any:
    """The steps that began at acceptance are not taken back."""

    def hold(folding: Folding, until: float) -> None:
        begun = dict(folding.task.running)
        original(folding, until)
        folding.task.running.update(begun)

    original = Folding.hold
    return patch.object(Folding, "hold", hold)


def count_the_time_of_a_late_task_from_its_acceptance() -> Any:
    def start(folding: Folding, gate: Any) -> None:
        limit = gate.memory
        original(folding, gate)
        folding.task.time = limit

    original = Folding.start
    return patch.object(Folding, "start", start)


MUTANTS: dict[Callable[[], Any], str] = dict.fromkeys(
    (
        take_answers_of_anybody,
        take_answers_that_do_not_fit,
        record_answers_that_come_too_late,
        lose_answers_that_come_early,
        refuse_what_came_before_the_task_ended,
        let_answers_win_over_a_time_that_is_over,
        move_moments_with_the_clock,
        keep_durations_when_the_clock_is_set,
        never_look_who_is_due,
        let_tasks_go_that_have_moved,
        leave_tasks_at_rest_that_go_on,
        count_tasks_that_rest_as_open,
        let_nested_runs_decide_by_themselves,
        tell_a_nested_run_only_once,
        forget_what_waits_below,
        start_at_once_what_is_for_later,
        start_what_is_for_later_beside_its_wait,
        count_the_time_of_a_late_task_from_its_acceptance,
    ),
    "waiting",
) | {tell_senders_before_their_answer_is_durable: "storms"}


def waiting(
    tests_in: Callable[..., Iterator[tuple[str, Callable[[], Any]]]],
) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield from tests_in(test_answers, test_asking, test_delay, test_resting, test_waits_below)
    for most in (0, 100):
        yield f"in time {most}", partial(test_delay.test_tasks_start_at_their_time, most, True)
    for moment in (59.9, 60.0, 60.1):
        test = test_answers.test_an_answer_and_a_time_out_at_the_same_moment_have_one_outcome_which_the_sender_is_told
        yield f"at {moment}", partial(test, moment)
    for most in (0, 100):
        for by_s in (5_000.0, -5_000.0):
            test = test_resting.test_setting_the_clock_moves_moments_and_leaves_durations
            yield f"clock {by_s} {most}", partial(test, most, by_s)
    for victim in (None, *test_waits_below.SUPERVISORS, "everything"):
        yield (
            f"killed {victim}",
            partial(test_waits_below.test_a_wait_in_a_nested_hierarchy_is_answered_by_its_task, victim),
        )
    for victim in (None, *test_waits_below.SUPERVISORS):
        yield (
            f"late {victim}",
            partial(test_waits_below.test_a_wait_below_times_out_once_and_the_sender_is_told, victim),
        )
