"""Followers and watchers of tasks: each hears everything once, in order, whenever it came and however it leaves."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.errors import Overloaded
from podium.protocols.outcomes import Failure
from podium.supervisors.messages.client import ClientEvent
from podium.supervisors.tasks.events import StepFinished
from podium.supervisors.watching import watchers as module
from podium.supervisors.watching.watchers import Attendance, Watch, Watchers
from tests.support.fold_play import Play, record, step
from tests.support.ports import Ask


def ended(id, result=None):
    return dataclasses.replace(record(), task_id=id, status="completed", result=result, finished_at=105.0)


def event(offset, kind="finished", step="a", attempt=1, value=None):
    return ClientEvent(kind, 100.0, step, attempt, value, offset)


def caught_up(watchers, since=0, cls=Watch):
    watch = cls(Ask(), since)
    watchers.add(watch, "t-1")
    watchers.caught_up(watch, [], 0)
    return watch


# followers


def test_a_follower_hears_of_each_end_and_is_answered_after_the_last():
    watchers, ask = Watchers(), Ask()
    watchers.follow(ask, ["t-3", "t-7"])
    watchers.ended(ended("t-7", 7), 4)
    watchers.ended(ended("t-9", 9), 4)
    assert [(chunk[1], chunk[3]) for chunk in ask.chunks] == [("t-7", 7)] and not ask.answers
    watchers.ended(ended("t-3", 3), 4)
    assert [chunk[1] for chunk in ask.chunks] == ["t-7", "t-3"] and ask.answers == [()]
    watchers.ended(ended("t-3", 3), 4)
    assert len(ask.chunks) == 2


def test_who_follows_nothing_is_answered_at_once():
    ask = Ask()
    Watchers().follow(ask, [])
    assert ask.answers == [()]


def test_a_follower_that_leaves_takes_nothing_from_another():
    watchers, leaves, stays = Watchers(), Ask(), Ask()
    for ask in (leaves, stays):
        watchers.follow(ask, ["t-1", "t-2"])
    watchers.ended(ended("t-1"), 4)
    leaves.cancel()
    watchers.ended(ended("t-2"), 4)
    assert (len(leaves.chunks), leaves.answers) == (1, [()])
    assert (len(stays.chunks), stays.answers) == (2, [()])


# watchers


@given(
    entries=st.integers(0, 12), joins=st.integers(0, 12), reads=st.integers(0, 12), since=st.integers(0, 14),
    ends=st.booleans(),
)  # fmt: skip
def test_a_watcher_hears_each_recorded_event_once_whenever_it_comes(entries, joins, reads, since, ends):
    """Entry n of the journal has the event of offset n. It joins before one entry, and has read the past behind one."""
    joins = min(joins, entries)
    reads = max(joins, min(reads, entries))
    watchers, watch = Watchers(), Watch(Ask(), since)
    told = [event(n) for n in range(entries + 1)]
    for n in range(joins + 1, entries + 1):
        if n == joins + 1:
            watchers.add(watch, "t-1")
        watchers.tell("t-1", told[n], n)
        if n == reads:
            watchers.caught_up(watch, told[: n + 1], n)
    if joins == entries:
        watchers.add(watch, "t-1")
    if ends:
        watchers.ended(ended("t-1"), entries + 1)
    if watch.behind is not None:
        watchers.caught_up(watch, told[: reads + 1], reads)
    assert [each.offset for each in watch.ask.chunks] == list(range(since, entries + 1 + ends))
    assert watch.ask.answers == [()] * ends


def test_live_events_wait_for_the_past_and_a_start_that_both_have_is_told_once():
    watchers, watch = Watchers(), Watch(Ask())
    watchers.add(watch, "t-1")
    watchers.tell("t-1", event(None, "log", value="before"))
    watchers.tell("t-1", event(None, "started", "b", 2))
    assert watch.ask.chunks == []
    past = [event(0, "accepted"), event(None, "started", "b", 2), event(None, "started", "c", 1)]
    watchers.caught_up(watch, past, 1)
    kinds = [(each.kind, each.step) for each in watch.ask.chunks]
    assert kinds == [("accepted", "a"), ("started", "c"), ("log", "a"), ("started", "b")]


@pytest.mark.parametrize("is_behind", [False, True], ids=["it does not fetch", "its past is not read yet"])
def test_a_watcher_too_far_behind_is_refused_and_others_are_not(monkeypatch, is_behind):
    monkeypatch.setattr(module, "MAX_BACKLOG", 5)
    watchers, slow = Watchers(), Watch(Ask())
    watchers.add(slow, "t-1")
    quick = caught_up(watchers)
    if not is_behind:
        watchers.caught_up(slow, [], 0)
    for n in range(10):
        slow.ask.backlog = n
        watchers.tell("t-1", event(n), n + 1)
    assert isinstance(slow.ask.answers[0], Overloaded) and slow.ask.answers[0].retry_after_s > 0
    assert len(slow.ask.chunks) == (0 if is_behind else 6)
    assert [each.offset for each in quick.ask.chunks] == list(range(10))
    assert watchers.is_watched("t-1")


def test_a_watcher_that_leaves_is_answered_and_forgotten():
    watchers = Watchers()
    watch = caught_up(watchers)
    watch.ask.cancel()
    assert watch.ask.answers == [()] and not watchers.is_watched("t-1")
    watchers.tell("t-1", event(3), 3)
    watchers.ended(ended("t-1"), 4)
    assert watch.ask.chunks == []


def test_the_supervisor_above_gets_what_it_records_and_how_the_run_ended():
    watchers = Watchers()
    watch = caught_up(watchers, cls=Attendance)
    for n, kind in enumerate(["accepted", "finished", "chunk", "retrying", "log", "cut", "lost", "timed_out"]):
        watchers.tell("t-1", event(n, kind), n)
    watchers.tell("t-1", event(8, "timed_out", step=""), 8)
    watchers.tell("t-1", event(None, "chunk"))
    assert [each.kind for each in watch.ask.chunks] == ["chunk", "retrying", "cut", "lost", "timed_out"]
    failed = dataclasses.replace(ended("t-1"), status="failed", failure=Failure("error", "no"))
    watchers.ended(failed, 9)
    (answer,) = watch.ask.answers
    assert (answer.status, answer.failure["message"]) == ("failed", "no")


def test_events_are_translated_only_for_who_is_there():
    watchers, task = Watchers(), Play(step("a")).task
    finished = [StepFinished("", 5, 101.0)]
    assert watchers.see(task, finished) == []
    caught_up(watchers)
    (seen,) = watchers.see(task, finished)
    assert (seen.kind, seen.value, seen.offset) == ("finished", 5, task.told)
