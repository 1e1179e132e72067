"""Waits and sleeps under the fold: what they wait for, what ends them, and what they give."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from podium import Constant, Parallel, Sequence, Sleep, Step, Wait
from podium.errors import AnswerRefused, InvalidInput
from podium.supervisors.messages.client import Answer
from podium.supervisors.tasks.events import Redriven, Skewed, pack_events, unpack_events
from podium.supervisors.tasks.fold import apply, begin
from podium.supervisors.tasks.judging import judged
from podium.supervisors.tasks.state import Alarm, Awaited, Awaits
from tests import sample
from tests.support.fold_play import Play, record, step

# what ends a wait


def test_a_wait_gives_the_answer_and_nothing_runs_meanwhile():
    play = Play(Sequence(step("a"), Wait("yes"), step("b"))).done("a", 1)
    assert (play.started, list(play.task.waiting), play.task.status) == ([], ["yes"], "waiting")
    play.answered("yes", {"ok": True})
    assert (play.started, play.input_of("b"), play.task.status) == (["b"], {"ok": True}, "running")


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_every_answer_is_an_answer(value):
    assert Play(Wait("yes")).answered("yes", value).result == value


def test_an_answer_that_comes_before_the_wait_is_kept():
    play = Play(Sequence(step("a"), Wait("yes"), step("b"))).answered("yes", 7)
    assert play.task.status == "running"
    play.done("a", 1)
    assert (play.started, play.input_of("b")) == (["b"], 7)


def test_the_first_answer_is_that_of_all_waits_of_its_name():
    play = Play(Sequence(Wait("yes"), Parallel({"a": Wait("yes"), "b": Wait("yes", signed=True)}))).answered("yes", 1)
    assert play.result == {"a": 1, "b": {"value": 1, "by": "ann", "at": 101.0, "via": "driver"}}


def test_each_wait_takes_the_next_answer_of_a_queue():
    each = Parallel(each="[1, 2, 3]", do=Wait("item", mailbox="each"), limit=2)
    play = Play(each).answered("item", "a").answered("item", "b").answered("item", "c")
    assert play.result == ["a", "b", "c"]
    play = Play(Sequence(step("a"), each)).answered("item", 1).answered("item", 2).done("a")
    assert list(play.task.waiting) == ["parallel[2]"]


def test_an_answer_may_be_for_one_wait_of_several():
    play = Play(Parallel(each="[1, 2]", do=Wait("item", mailbox="each")))
    play.answered("item", "second", path="[1]").answered("item", "first")
    assert play.result == ["first", "second"]


def test_an_answer_with_the_id_of_an_earlier_one_changes_nothing():
    play = Play(Parallel(each="[1, 2]", do=Wait("item", mailbox="each"))).answered("item", 1, id="x")
    assert list(play.answered("item", 2, id="x").task.waiting) == ["[1]"]


def test_an_answer_in_the_mailbox_of_another_name_ends_nothing():
    assert list(Play(Wait("yes")).answered("no", 1).task.waiting) == ["yes"]


# several answers, and refusals


def two_of_three(**more):
    return Wait("yes", need=2, who=["ann", "ben", "cat"], refusal="answer == 'no'", **more)


def test_two_answers_of_different_people_are_needed():
    play = Play(two_of_three()).answered("yes", 1, by="ann")
    assert play.task.status == "waiting"
    assert play.answered("yes", 2, by="ben").result == [1, 2]


def test_a_refusal_fails_the_wait_unless_it_is_said_otherwise():
    play = Play(two_of_three()).answered("yes", "no", by="ben")
    assert (play.failure.code, play.failure.message, play.failure.step) == ("refused", "ben refused 'yes'", "yes")
    assert Play(two_of_three(on_refusal="finish")).answered("yes", "no").result == ["no"]
    assert Play(Wait("yes", refusal="!answer", on_refusal="finish")).answered("yes", False).result is False


def test_a_refusal_that_does_not_count_leaves_the_others():
    play = Play(two_of_three(on_refusal="go_on")).answered("yes", "no", by="ann").answered("yes", 1, by="ben")
    assert play.task.status == "waiting"
    assert play.answered("yes", 2, by="cat").result == [1, 2]


def test_a_wait_that_cannot_be_met_any_more_fails():
    play = Play(two_of_three(on_refusal="go_on")).answered("yes", "no", by="ann").answered("yes", "no", by="cat")
    assert play.failure.message == "ann and cat refused 'yes', so it cannot have 2 answers any more"


def test_a_refused_wait_has_its_fallback():
    wait = Wait("yes", refusal="!answer", fallback=step("b", with_="error.code"))
    assert Play(wait).answered("yes", False).input_of("yes/fallback:1") == "refused"


# time


def test_a_wait_that_times_out_fails_or_gives_something_else():
    late = {"timeout_s": 5}
    play = Play(Wait("yes", **late)).timed_out("yes")
    assert (play.failure.code, play.failure.message) == ("timeout", "nobody answered 'yes' within 5 s")
    assert Play(Wait("yes", **late, on_timeout={"value": None})).timed_out("yes").result is None
    assert Play(Wait("yes", **late, on_timeout=Constant(value=3))).timed_out("yes").result == 3
    play = Play(Sequence(step("a"), Wait("yes", **late, on_timeout=sample.add))).done("a", {"n": 1}).timed_out("yes")
    assert (play.started, play.input_of("yes/on_timeout")) == (["yes/on_timeout"], {"n": 1})
    assert play.done("yes/on_timeout", 9).result == 9
    assert Play(Wait("yes", **late, otherwise={"value": 1})).timed_out("yes").result == 1


def test_an_answer_after_the_time_out_changes_nothing():
    play = Play(Wait("yes", timeout_s=5, on_timeout=sample.add)).timed_out("yes").answered("yes", 1)
    assert play.done("yes/on_timeout", "late").result == "late"


def test_the_node_that_follows_a_time_out_has_time_of_its_own():
    play = Play(Wait("yes", timeout_s=5, on_timeout=sample.add)).timed_out("yes")
    assert not play.task.timed
    assert play.task.due_at(play.task.running["yes/on_timeout"]) is None


def test_a_sleep_gives_its_input_when_its_time_is_over():
    play = Play(Sequence(step("a"), Sleep(for_s=60), step("b"))).done("a", 1)
    assert play.task.waiting["sleep"].time == (101.0, 60.0, False)
    assert play.woke("sleep").input_of("b") == 1
    assert play.woke("sleep").started == []


@pytest.mark.parametrize(
    ("until", "left_s"),
    [
        ("1970-01-01T00:02:00Z", 20.0),
        ("1970-01-01T01:02:00+01:00", 20.0),
        (datetime(1970, 1, 1, 0, 2, tzinfo=UTC), 20.0),
        ("timestamp('1970-01-01T00:02:00Z')", 20.0),
        ("'1970-01-01T00:02:00Z'", 20.0),
        ("input.at", 20.0),
        ("input.at + 10", 30.0),
        ("0", 0.0),
    ],
)
def test_a_sleep_ends_at_a_moment(until, left_s):
    play = Play(Sleep(until=until), {"at": 120})
    assert play.task.waiting["sleep"].time == (100.0, left_s, True)


@pytest.mark.parametrize("for_s", ["input.s", "2 + 3", 5])
def test_a_sleep_lasts_as_long_as_an_expression_says(for_s):
    assert Play(Sleep(for_s=for_s), {"s": 5}).task.waiting["sleep"].time.limit_s == 5


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ({"until": "'soon'"}, "gave soon, not a time"),
        ({"until": "'2026-01-01T00:00:00'"}, "has no time zone"),
        ({"until": "true"}, "gave True, not a time"),
        ({"until": "1e300"}, "not a time"),
        ({"for_s": "-1"}, "gave -1, not seconds from 0 to 1e+10"),
        ({"for_s": "'x'"}, "gave x, not seconds"),
        ({"for_s": "input.none"}, "Key not found"),
    ],
)
def test_what_is_no_time_fails_the_sleep(span, problem):
    play = Play(Sleep(**span), {})
    assert (play.failure.code, play.failure.step) == ("expression", "sleep")
    assert problem in play.failure.message


def test_when_the_clock_is_set_only_what_ends_by_the_clock_keeps_its_moment():
    play = Play(Parallel({"a": Sleep(for_s=60), "b": Sleep(until="200"), "c": Wait("yes", timeout_s=60)}))
    apply(play.task, Skewed(1000.0, 1101.0))
    assert {path: place.time.until for path, place in play.task.waiting.items()} == {"a": 1160, "b": 200, "c": 1160}
    assert play.task.waiting["a"].time.left_s(1150.0) == 10
    assert play.task.waiting["b"].time.left_s(50.0) == 150, "the clock may be set back by more than the whole sleep"


# races, and stopping


def test_the_first_of_several_waits_closes_the_others():
    race = Parallel({"a": Wait("a"), "b": Wait("b"), "c": Sequence(Sleep(for_s=9), step("d"))}, join="any")
    play = Play(Sequence(race, step("e"))).answered("b", 2)
    assert (play.task.waiting, play.started, play.input_of("e")) == ({}, ["e"], 2)
    assert not play.task.timed
    play = Play(Sequence(race, step("e"))).woke("parallel/c/sleep").done("parallel/c/d", 3)
    assert (play.task.waiting, play.input_of("e")) == ({}, 3)


def test_a_cancelled_task_waits_for_nothing_and_undoes_what_was_answered():
    play = Play(Sequence(Wait("yes", undo=sample.echo), Wait("no"))).answered("yes", 1).cancel()
    assert (play.task.waiting, play.started) == ({}, ["yes:undo"])
    assert play.input_of("yes:undo") == {"input": None, "output": 1}
    assert play.done("yes:undo").task.status == "cancelled"


def test_answers_to_a_task_that_is_ending_change_nothing():
    play = Play(Sequence(Step(sample.echo, name="a", undo=sample.echo), step("b"))).done("a").failed("b")
    assert play.answered("yes", 1).task.mail is None


# the effects


def test_effects_tell_when_a_wait_begins_and_ends():
    play = Play(Sequence(step("a"), Wait("yes", timeout_s=5))).done("a")
    assert [type(effect) for effect in play.effects] == [Alarm, Awaits]
    assert [type(effect) for effect in play.answered("yes").effects] == [Awaited]
    play = Play(Sequence(step("a"), Wait("yes"))).answered("yes").done("a")
    assert [type(effect) for effect in play.effects] == [Awaits, Awaited]


def test_what_a_wait_asks_has_a_digest_of_its_own():
    root = Parallel({name: Wait("yes", mailbox="each", show="task.x") for name in "ab"})
    places = Play(root, {"x": 1}).task.waiting.values()
    assert [place.memory.shown for place in places] == [1, 1]
    digests = {place.memory.digest for place in places}
    assert len(digests) == 2
    again = {place.memory.digest for place in Play(root, {"x": 1}).task.waiting.values()}
    other = {place.memory.digest for place in Play(root, {"x": 2}).task.waiting.values()}
    assert digests == again
    assert not digests & other


def test_an_expression_in_show_that_fails_fails_the_wait():
    play = Play(Wait("yes", show={"a": "input.none"}), {})
    assert (play.failure.code, play.failure.step) == ("expression", "yes")


# driving again


def test_a_redriven_task_keeps_its_answers_and_waits_again():
    play = Play(Sequence(Wait("yes"), Parallel({"a": step("a"), "w": Wait("no", timeout_s=5), "s": Sleep(for_s=60)})))
    play.answered("yes", 1).failed("parallel/a")
    task, _ = begin(record(), play.root)
    for event in play.events[:-1]:
        apply(task, event)
    effects = apply(task, Redriven("t-0", "t-1", 200.0))
    assert list(task.waiting) == ["parallel/w", "parallel/s"]
    alarms = {effect.place.path: effect.place.time.until for effect in effects if isinstance(effect, Alarm)}
    assert alarms == {"parallel/w": 205.0, "parallel/s": 161.0}, "a time limit begins anew, a sleep goes on"
    assert task.mail["yes"].came_at == {"a-1": 101.0}


def test_the_events_are_read_as_they_were_written():
    play = Play(Sequence(Wait("yes"), Sleep(for_s=1))).answered("yes", {"a": [1]}, path="yes").woke("sleep")
    assert unpack_events(pack_events(play.events)) == play.events


# who may answer, and what


def answer(name="yes", value=None, by="ann", digest=None, groups=(), id="x"):
    return Answer("t-1", name, value, id, by, "driver", groups, digest)


def refusal_of(play, node, **given):
    with pytest.raises((AnswerRefused, InvalidInput)) as caught:
        judged(play.task, node, answer(**given), 3, 102.0)
    return caught.value


def test_who_may_not_answer_is_told_who_may():
    node = Wait("yes", who=["ann", "group:editors", "role:boss"], not_starter=True)
    play = Play(node)
    error = refusal_of(play, node, by="eve")
    assert (error.reason, error.problem) == (
        "not_allowed", "user 'eve' may not answer; these may: ann, group:editors, role:boss",
    )  # fmt: skip
    assert refusal_of(play, node, by="u").problem == "user 'u' has started the task, and may not answer"
    assert judged(play.task, node, answer(by="eve", groups=["group:editors"]), 3, 102.0).by == "eve"
    assert judged(play.task, node, answer(by="ann"), 3, 102.0).at == 102.0


def test_what_does_not_fit_is_refused_with_its_place():
    node = Wait("yes", schema={"type": "object", "properties": {"n": {"type": "integer"}}}, refusal="answer.n < 0")
    error = refusal_of(Play(node), node, value={"n": "x"})
    assert str(error) == "answer.n: 'x' is not of type 'integer'"
    assert "answer: `answer.n < 0`: NOT_FOUND: Key not found" in str(refusal_of(Play(node), node, value={}))


def test_later_answers_are_told_who_was_first():
    node = Wait("yes")
    play = Play(Sequence(node, step("a"))).answered("yes", 1, by="ben")
    error = refusal_of(play, node)
    assert (error.reason, error.by, error.at) == ("answered", "ben", 101.0)
    two = Wait("yes", need=2)
    error = refusal_of(Play(two).answered("yes", 1, by="ann"), two)
    assert (error.reason, error.problem) == ("answered", "user 'ann' has answered already")


def test_what_nobody_waits_for_any_more_is_closed_until_somebody_does():
    node = Wait("yes", timeout_s=5, on_timeout={"value": 0})
    play = Play(Sequence(node, step("a"), node.model_copy(update={"name": "again"}))).timed_out("yes")
    assert refusal_of(play, node).reason == "closed"
    play.done("a")
    assert judged(play.task, node, answer(), 3, 102.0).path == ""


def test_an_answer_to_what_is_not_asked_any_more_is_stale():
    node = Wait("yes", mailbox="each", show="input")
    play = Play(Sequence(Wait("yes", mailbox="each", show="input", name="one"), node), 1)
    first = play.task.waiting["one"].memory.digest
    assert judged(play.task, node, answer(digest=first), 3, 102.0).path == "one"
    play.answered("yes", 2)
    error = refusal_of(play, node, digest=first)
    assert (error.reason, error.problem) == ("stale", "something else is asked now; look at it again")


def test_only_so_many_answers_are_kept_that_nobody_waits_for():
    node = Wait("yes", mailbox="each")
    play = Play(Sequence(step("a"), node))
    for _ in range(3):
        play.answered("yes", 1)
    assert refusal_of(play, node).reason == "full"
    assert judged(play.task, node, answer(), 4, 102.0)
