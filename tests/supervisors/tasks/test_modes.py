"""The four modes and the fold, without any actor: events in, steps to run out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium import Adaptive, Hierarchy, Parallel, Rule, Sequence, Sleep, Wait, verdict
from podium.errors import InvalidDefinition
from podium.protocols.outcomes import Failure
from podium.protocols.tree import NODES
from podium.supervisors.tasks.events import (
    Cancelled,
    Dropped,
    Due,
    Overdue,
    Redriven,
    StepBegan,
    StepFailed,
    StepFinished,
    pack_events,
    unpack_events,
)
from podium.supervisors.tasks.fold import apply, begin
from podium.supervisors.tasks.folding import MODES
from tests import sample
from tests.support.fold_play import TREES, Play, record, step

# sequential


def test_the_output_of_each_is_the_input_of_the_next():
    play = Play(Sequence(step("a"), step("b")), 1)
    assert play.started == ["a"]
    assert play.input_of("a") == 1
    play.done("a", 2)
    assert play.started == ["b"]
    assert play.input_of("b") == 2
    assert play.done("b", 3).result == 3


def test_the_first_failure_ends_a_sequence_with_its_place():
    play = Play(Sequence(step("a"), step("b"))).failed("a")
    assert play.started == []
    assert (play.failure.step, play.failure.message) == ("a", "broken")


def test_with_maps_inputs_from_earlier_outputs():
    play = Play(
        Sequence(step("a"), step("b"), step("c", with_={"x": "outputs.a.v", "y": "input", "z": "task.n"})),
        {"n": 7},
    )
    play.done("a", {"v": 1}).done("b", 2)
    assert play.input_of("c") == {"x": 1, "y": 2, "z": 7}


def test_an_expression_that_fails_fails_the_step_and_names_the_reason():
    play = Play(Sequence(step("a"), step("b", with_="outputs.a.missing"))).done("a", {})
    assert (play.failure.code, play.failure.step) == ("expression", "b")
    assert "Key not found" in play.failure.message


def test_outputs_of_outer_sequences_are_visible_inside():
    inner = Sequence(step("b", with_="outputs.a"), step("c", with_="[outputs.a, outputs.b]"), name="inner")
    play = Play(Sequence(step("a"), inner)).done("a", 1)
    assert play.input_of("inner/b") == 1
    play.done("inner/b", 2)
    assert play.input_of("inner/c") == [1, 2]


# parallel


def test_branches_start_at_once_on_the_same_input_and_join_by_name():
    play = Play(Parallel({"a": step("a"), "b": step("b")}), 5)
    assert play.started == ["a", "b"]
    assert play.input_of("a") == play.input_of("b") == 5
    assert play.done("b", 2).done("a", 1).result == {"a": 1, "b": 2}


def test_one_failure_of_all_cancels_the_rest():
    play = Play(Parallel({"a": step("a"), "b": step("b"), "c": step("c")})).failed("b")
    assert play.halted == ["a", "c"]
    assert play.failure.step == "b"


def test_rest_wait_lets_the_others_finish_first():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, rest="wait")).failed("b")
    assert play.task.outcome is None
    assert play.done("a", 1).failure.step == "b"


def test_any_gives_the_first_success_itself():
    play = Play(Parallel({"a": step("a"), "b": step("b"), "c": step("c")}, join="any")).failed("a").done("b", 9)
    assert play.result == 9
    assert play.halted == ["c"]


def test_any_fails_when_all_do():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, join="any")).failed("a").failed("b", "last")
    assert play.failure.code == "too_few"
    assert "any missed: 2 of 2 branches failed, the last with: last" in play.failure.message


def test_quorum_is_met_by_so_many_and_fails_when_it_cannot_be():
    root = Parallel({name: step(name) for name in "abc"}, join="quorum(2)")
    assert Play(root).done("a", 1).done("c", 3).result == {"a": 1, "c": 3}
    assert Play(root).failed("a").failed("b").failure.code == "too_few"


def late(join="all", on_timeout="partial", **more):
    return Parallel({"a": step("a"), "b": step("b")}, join=join, timeout_s=3, on_timeout=on_timeout, **more)


def test_a_parallel_that_is_late_fails_and_says_how_far_it_came():
    play = Play(late(on_timeout="fail")).done("a", 1).timed_out()
    assert play.halted == ["b"]
    assert (play.failure.code, play.failure.message) == ("timeout", "1 of 2 branches were done after 3 s")


def test_a_parallel_that_is_late_may_give_what_is_there_and_name_what_is_missing():
    play = Play(late()).done("a", 1).timed_out()
    assert play.result == {"outputs": {"a": 1}, "missing": ["b"]}
    assert play.halted == ["b"]
    assert Play(late()).done("a", 1).done("b", 2).result == {"outputs": {"a": 1, "b": 2}, "missing": []}
    play = Play(late("quorum(1)", rest="wait")).done("a", 1).timed_out()
    assert play.result == {"outputs": {"a": 1}, "missing": ["b"]}


def test_of_a_list_the_missing_are_named_by_their_place_also_those_that_never_began():
    each = Parallel(each="input", do=step("s"), limit=2, timeout_s=3, on_timeout="partial")
    play = Play(each, ["x", "y", "z"]).done("[1]", "Y").timed_out()
    assert play.result == {"outputs": [None, "Y", None], "missing": [0, 2]}
    assert sorted(play.halted) == ["[0]", "[2]"]


def test_settled_has_an_error_for_what_is_late_and_one_for_what_failed():
    result = Play(late("settled")).failed("a").timed_out().result
    assert result["a"]["error"]["code"] == "error"
    assert (result["b"]["error"]["code"], result["b"]["error"]["message"]) == ("timeout", "not done after 3 s")


def test_a_time_that_is_up_after_the_end_or_in_what_was_stopped_changes_nothing():
    play = Play(Sequence(late(), step("c"))).done("parallel/a", 1).done("parallel/b", 2).timed_out("parallel")
    assert list(play.task.running) == ["c"]
    inner = Parallel({"a": step("a"), "in": late()}, join="any")
    play = Play(inner).done("a", 1)
    assert play.task.timed == {}
    assert play.timed_out("in").result == 1


@pytest.mark.parametrize("more", [{}, {"timeout_s": 1, "join": "any"}])
def test_partial_needs_a_time_and_a_join_that_can_be_partial(more):
    with pytest.raises(InvalidDefinition, match="on_timeout: partial needs a timeout_s, and a join other than any"):
        Parallel({"a": step("a"), "b": step("b")}, on_timeout="partial", **more)


def test_settled_gives_every_outcome():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, join="settled")).failed("a").done("b", 2)
    assert play.result["b"] == {"output": 2}
    assert play.result["a"]["error"]["message"] == "broken"


def test_each_runs_once_per_item_in_order_and_within_the_limit():
    play = Play(Parallel(each="input.items", do=step("x"), limit=2), {"items": [10, 20, 30]})
    assert play.started == ["[0]", "[1]"]
    assert play.done("[1]", 2).started == ["[2]"]
    assert play.done("[2]", 3).done("[0]", 1).result == [1, 2, 3]


def test_each_over_nothing_is_done_at_once():
    assert Play(Sequence(Parallel(each="input", do=step("x"), name="all"), step("b")), []).started == ["b"]


def test_each_over_something_else_says_what_it_got():
    assert "gave int, not a list" in Play(Parallel(each="input", do=step("x")), 3).failure.message


# hierarchical


def hierarchy(**settings):
    return Hierarchy(sample.lead, team={"x": step("x"), "y": step("y")}, **settings)


def test_the_lead_is_asked_before_anything_has_run():
    play = Play(hierarchy(), 1)
    assert play.started == ["lead#1"]
    assert play.input_of("lead#1") == {"input": 1, "round": 1, "team": ["x", "y"], "outcomes": {}}


def test_assigned_members_get_their_inputs_and_the_lead_their_outcomes():
    play = Play(Sequence(hierarchy(name="h")), 1)
    assert play.started == ["h"]  # a nested Hierarchy is run by a supervisor of its own
    play = Play(hierarchy(), 1)
    play.done("lead#1", verdict.assign({"x": 10, "y": 20}))
    assert play.started == ["x", "y"]
    assert play.input_of("y") == 20
    play.done("x", "ok").failed("y")
    assert play.started == ["lead#2"]
    brief = play.input_of("lead#2")
    assert brief["round"] == 2
    assert brief["outcomes"]["x"] == {"output": "ok"}
    assert brief["outcomes"]["y"]["error"]["message"] == "broken"
    assert play.done("lead#2", verdict.accept("fine")).result == "fine"


def test_retry_sends_the_last_input_with_the_feedback():
    play = Play(hierarchy(), 1).done("lead#1", verdict.assign({"x": {"n": 1}})).done("x", 0)
    play.done("lead#2", verdict.retry(["x", "y"], "longer"))
    assert play.started == ["x#2", "y"]
    assert play.input_of("x#2") == {"n": 1, "feedback": "longer"}
    assert play.input_of("y") == {"input": 1, "feedback": "longer"}


def test_rounds_are_bounded_and_the_error_says_so():
    play = Play(hierarchy(max_rounds=2), 1)
    for number in (1, 2):
        play.done(f"lead#{number}", verdict.assign(["x"]))
        play.done("x" if number == 1 else "x#2", 0)
    assert play.failure.code == "too_many_rounds"
    assert "max_rounds=2" in play.failure.message


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("fine", "expected a verdict"),
        (verdict.assign(["z"]), "verdict 'assign' names 'z', the team is x, y"),
        (verdict.retry([], "x"), "verdict 'retry' names no member"),
        ({"$verdict": "maybe"}, "expected a verdict"),
    ],
)
def test_a_bad_verdict_says_what_was_expected(output, message):
    play = Play(hierarchy()).done("lead#1", output)
    assert play.failure.code == "bad_verdict"
    assert message in play.failure.message


def test_fail_and_escalate_end_the_node_with_their_reason():
    assert Play(hierarchy()).done("lead#1", verdict.fail("no")).failure.code == "rejected"
    assert Play(hierarchy()).done("lead#1", verdict.escalate("help")).failure.code == "escalated"


@pytest.mark.parametrize("join", ["any", "settled", "quorum(1)"])
def test_an_escalation_is_not_outvoted_by_a_join(join):
    play = Play(Parallel({"a": step("a"), "b": step("b")}, join=join)).failed("a", code="escalated")
    assert play.failure.code == "escalated"


# adaptive


def adaptive(*rules, **settings):
    nodes = {"a": step("a"), "b": step("b")}
    return Adaptive(nodes, start="a", rules=[Rule(**rule) for rule in rules], **settings)


def test_the_first_rule_that_matches_wins():
    root = adaptive({"after": "a", "when": "output > 3", "to": "b"}, {"to": "end"})
    assert Play(root).done("a", 5).started == ["b"]
    assert Play(root).done("a", 1).result == 1


def test_rules_see_input_outputs_and_visits():
    rule = {"after": "b", "when": "visits.b < 3 && outputs.a == input.x", "to": "b"}
    play = Play(adaptive({"after": "a", "to": "b"}, rule, {"to": "end"}), {"x": 1}).done("a", 1)
    assert play.done("b", 0).started == ["b#2"]
    assert play.done("b#2", 0).started == ["b#3"]
    assert play.done("b#3", 7).result == 7


def test_a_failure_is_handled_only_by_a_rule_that_mentions_error():
    repair = {"after": "a", "when": "error != null && error.code == 'error'", "to": "b"}
    assert Play(adaptive(repair, {"to": "end"})).failed("a").started == ["b"]
    assert (
        Play(adaptive({"after": "a", "when": "visits.a > 5", "to": "b"}, {"to": "end"})).failed("a").failure.step == "a"
    )


def test_no_matching_rule_is_an_error_of_its_own():
    root = adaptive({"after": "a", "when": "output > 3", "to": "b"}, {"after": "b", "to": "end"})
    assert Play(root).done("a", 1).failure.code == "no_rule"


def test_a_rule_that_cannot_be_evaluated_fails_the_node():
    root = adaptive({"when": "output.x > 3", "to": "b"}, {"to": "end"})
    assert Play(root).done("a", {}).failure.code == "expression"


def test_goto_goes_past_the_rules():
    play = Play(adaptive({"to": "end"}, jumps=("b",))).done("a", verdict.goto("b", 8))
    assert play.started == ["b"]
    assert play.input_of("b") == 8


def test_goto_to_nowhere_and_outside_an_adaptive_are_errors():
    assert "no such node" in Play(adaptive({"to": "end"}, jumps=("b",))).done("a", verdict.goto("c")).failure.message
    assert Play(Sequence(step("a"))).done("a", verdict.goto("b")).failure.code == "bad_goto"


def test_loops_are_bounded():
    root = adaptive({"after": "a", "when": "output == 0", "to": "a"}, {"to": "end"}, jumps=("b",), max_visits=3)
    play = Play(root).done("a", 0).done("a#2", 0).done("a#3", 0)
    assert play.failure.code == "too_many_visits"
    assert "max_visits=3 of node 'a'" in play.failure.message


# the fold itself


def test_a_failed_attempt_with_a_retry_runs_again_not_before_its_time():
    play = Play(Sequence(step("a"))).failed("a", retry_at=200.0)
    assert play.started == ["a"]
    assert (play.task.running["a"].attempt, play.task.running["a"].not_before) == (2, 200.0)


def test_a_late_result_changes_nothing():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, join="any")).done("a", 1)
    play.done("b", 2)
    assert play.result == 1


def test_cancelling_halts_everything_that_runs():
    play = Play(Parallel({"a": step("a"), "b": step("b")})).cancel()
    assert play.halted == ["a", "b"]
    assert play.task.status == "cancelled"


def test_events_survive_their_journal_form():
    events = [
        StepFinished("a", {"x": [1]}, 1.0),
        StepFailed("b", Failure("error", "m", "K", "tb", "b", 2), 3.0, 2.0),
        Cancelled(4.0),
        Due(60.0, 5.0),
        Overdue(60.0, 65.0),
        StepFailed("b", Failure("uncertain", "m"), None, 2.0, ("park",)),
        StepBegan("b", 6.0),
        Redriven("t-1", "t-2", 7.0),
        Redriven(None, "t-3", 8.0),
        Dropped("d", 9.0),
    ]
    assert unpack_events(pack_events(events)) == events


def snapshot(task):
    places = {path: (place.input, place.attempt, place.not_before) for path, place in task.running.items()}
    waits = sorted(task.timed), sorted(task.parked), [place.path for place in task.done]
    ends = task.ending, task.root.degraded, task.outcome, task.status
    return places, waits, ends, task.origin, task.time


@settings(max_examples=300)
@given(TREES, st.data())
def test_replay_equals_live(root, data):
    """I6: folding the journalled events gives the live state, at every length of the journal."""
    play = Play(root, 1)
    live = [snapshot(play.task)]
    while play.task.outcome is None and len(play.events) < 60:
        path = data.draw(st.sampled_from(sorted(play.task.running) or [""]))
        kinds = ["done", "done", "done", "retry", "fail", "park", "due", "overdue", "redrive", "drop", "cancel"]
        late = sorted(path for path, place in play.task.timed.items() if not isinstance(place.node, Sleep))
        asleep = sorted(path for path, place in play.task.waiting.items() if isinstance(place.node, Sleep))
        kinds += ["late", "late"] * bool(late) + ["wake", "wake"] * bool(asleep) + ["answer", "next"]
        kind = data.draw(st.sampled_from(kinds))
        match kind:
            case "done":
                play.done(path, data.draw(st.integers(0, 3)))
            case "retry":
                play.failed(path, retry_at=150.0)
            case "fail":
                play.failed(path)
            case "cancel" if len(play.events) > 10:
                play.cancel()
            case "park":
                play.failed(path, actions=("fallback", "park"))
            case "redrive":
                play.redriven()
            case "drop":
                play.dropped()
            case "due":
                play.due()
            case "overdue":
                play.overdue()
            case "late":
                play.timed_out(data.draw(st.sampled_from(late)))
            case "wake":
                play.woke(data.draw(st.sampled_from(asleep)))
            case "answer":
                play.answered("yes", 1)
            case "next":
                play.answered("next", data.draw(st.integers(0, 3)), by=data.draw(st.sampled_from("ab")))
            case _:
                continue
        live.append(snapshot(play.task))
    again, _ = begin(record(1), root)
    assert snapshot(again) == live[0]
    for event, expected in zip(unpack_events(pack_events(play.events)), live[1:], strict=True):
        apply(again, event)
        assert snapshot(again) == expected


@settings(max_examples=200)
@given(TREES, st.data())
def test_every_tree_comes_to_an_end_when_its_steps_do(root, data):
    play = Play(root, 1)
    for _ in range(500):
        if play.task.outcome is not None:
            break
        path = data.draw(st.sampled_from(sorted([*play.task.running, *play.task.waiting])))
        node = play.task.waiting[path].node if path in play.task.waiting else None
        match node:
            case Wait():
                play.answered(node.wait, 0)
            case Sleep():
                play.woke(path)
            case _:
                play.done(path, 0)
    assert play.task.outcome is not None
    assert not play.task.running
    assert not play.task.waiting


def test_every_kind_of_node_has_a_mode():
    assert set(MODES) == set(NODES), "each kind has a file in supervisors/tasks/modes/, and an entry in MODES"
