"""`podium show --at N`: a task as it was after an entry of its journal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import podium
from podium import Constant, Hierarchy, Parallel, Sequence, Step, Workflow, verdict
from podium.cluster.client.recorded import as_it_was
from podium.cluster.store.contract import StoredTask
from podium.errors import InvalidInput
from podium.protocols.outcomes import Failure, TaskRecord
from podium.supervisors.tasks.events import Cancelled, StepFailed, StepFinished, TimedOut, pack_events
from podium.supervisors.tasks.history import step_rows
from tests import sample
from tests.support.commands import Shown

NO = Failure("error", "no luck", "ValueError")
PAIR = Sequence(Step(sample.add, name="a"), Parallel({"x": sample.add, "y": sample.add}, name="p"))


def stored(root, *events, status="completed", result="at the end"):
    definition = Workflow("w", root).to_dict()
    record = TaskRecord("t-1", "w", "1", "h", 3, "u", 0, None, status, 100.0, 200.0, result)
    return StoredTask("w", record, definition, [pack_events([event]) for event in events], "")


def after(task, entry, *runs):
    """Status and steps of the task then."""
    (then, *_), _ = as_it_was([task, *runs], entry)
    rows = step_rows(then.record, then.definition, then.bodies)
    return then.record.status, {row.path: row.status for row in rows}


WHOLE = stored(
    PAIR,
    StepFailed("a", NO, 102.0, 101.0),
    StepFinished("a", 1, 103.0),
    StepFinished("p/y", 2, 104.0),
    StepFinished("p/x", 3, 105.0),
)


def test_what_ran_waited_and_had_ended_then():
    assert [after(WHOLE, entry) for entry in range(5)] == [
        ("running", {"a": "open"}),
        ("running", {"a": "retrying"}),
        ("running", {"a": "completed", "p/x": "open", "p/y": "open"}),
        ("running", {"a": "completed", "p/y": "completed", "p/x": "open"}),
        ("completed", {"a": "completed", "p/y": "completed", "p/x": "completed"}),
    ]


def test_an_open_task_has_no_end_and_the_time_is_that_of_the_entry():
    (then,), at = as_it_was([WHOLE], 3)
    assert (then.record.finished_at, then.record.result, at) == (None, None, 104.0)
    (then,), at = as_it_was([WHOLE], 0)
    assert (then.record.status, then.record.accepted_at, at) == ("running", 100.0, 100.0)
    assert as_it_was([WHOLE], 4)[0] == [WHOLE], "after the last entry it is as it is"


def test_a_parked_step_was_parked():
    task = stored(PAIR, StepFailed("a", NO, None, 101.0, ("retry", "park")), Cancelled(102.0), status="cancelled")
    assert after(task, 1) == ("parked", {"a": "parked"})
    assert after(task, 2) == ("cancelled", {"a": "cancelled"})


def test_a_task_that_had_ended_before_its_last_entry_had_ended():
    root = Step(sample.add, name="a", otherwise=Constant(value=7, missing="a sum"))
    late = stored(root, StepFailed("a", NO, None, 101.0), StepFinished("a", 5, 150.0))
    (then,), _ = as_it_was([late], 1)
    assert (then.record.status, then.record.result, then.record.finished_at) == ("completed", 7, 101.0)
    assert list(then.record.degraded) == ["a sum"]


def test_what_nested_hierarchies_did_is_cut_at_the_same_time():
    root = Sequence(Step(sample.add, name="a"), Hierarchy(sample.add, team={"m": sample.add}, name="h"))
    task = stored(root, StepFinished("a", 1, 101.0), TimedOut("none", 104.0), StepFinished("h", 2, 109.0))
    run = stored(Hierarchy(sample.add, team={"m": sample.add}), StepFinished("h/lead#1", verdict.assign(), 103.0),
                 StepFinished("h/m", 2, 105.0))  # fmt: skip
    record = TaskRecord("t-1/h", "w", "1", "h", 3, "u", 0, None, "completed", 102.0, 110.0)
    run = StoredTask("w-h", record, run.definition, run.bodies)
    assert len(as_it_was([task, run], 1)[0]) == 1, "it had not begun"
    then = as_it_was([task, run], 2)[0][1]
    assert [row.status for row in step_rows(then.record, then.definition, then.bodies)] == ["completed", "open"]
    assert as_it_was([task, run], 3)[0][1] == run


def test_what_cannot_be_known_is_not_made_up():
    with pytest.raises(InvalidInput, match="there is no entry 5: the last one is 4"):
        as_it_was([WHOLE], 5)
    damaged = StoredTask("w", WHOLE.record, WHOLE.definition, [WHOLE.bodies[0], b"\xc1", *WHOLE.bodies[2:]])
    assert after(damaged, 1)[0] == "running"
    for entry in (2, 3, 4):
        with pytest.raises(InvalidInput, match="entry 2 cannot be read"):
            as_it_was([damaged], entry)


@given(st.permutations([f"[{n}]" for n in range(6)]))
def test_each_entry_ends_what_it_names_and_nothing_else(order):
    root = Parallel(each="input", do=sample.add)
    task = stored(root, *(StepFinished(path, 0, 101.0 + n) for n, path in enumerate(order)))
    task = StoredTask("w", TaskRecord("t-1", "w", "1", "h", list(range(6)), "u", 0, None, "completed", 100.0, 200.0),
                      task.definition, task.bodies)  # fmt: skip
    for entry in range(7):
        done = {path for path, status in after(task, entry)[1].items() if status == "completed"}
        assert done == set(order[:entry])


@podium.protocol(retry=podium.Retry(attempts=2, initial_delay_s=0.01, max_delay_s=0.01))
def second_try(ctx, n):
    if ctx.attempt < 2:
        raise ValueError("not at once")
    return n


FLOW = Workflow("twice", Sequence(Step(second_try, name="first"), Step(second_try, name="last")))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return Shown(FLOW, 3, tmp_path_factory.mktemp("told"))


def test_show_at_shows_the_tree_and_the_facts_of_then(told):
    assert "✓ last" in told()[1]
    code, out, _ = told("--at", "1")
    assert (code, "↻ first" in out, "last" in out, "output:" in out) == (0, True, False, False)
    assert "as it was after entry 1 of 4, " in out and "running" in out.splitlines()[0]
    assert out.count("ValueError: not at once; again") == 1
    code, out, _ = told("--at", "2")
    assert "✓ first" in out and "▶ last" in out


def test_show_at_as_json_says_which_entry_it_is_of(told):
    facts = json.loads(told("--at", "2", "-o", "json")[1])
    assert (facts["at"]["entry"], facts["at"]["entries"], facts["status"], facts["result"]) == (2, 4, "running", None)
    assert [(step["path"], step["status"]) for step in facts["steps"]] == [("first", "completed"), ("last", "open")]
    assert "at" not in json.loads(told("-o", "json")[1])


def test_show_at_goes_with_events_and_refuses_what_is_not_there(told):
    kinds = [each["kind"] for each in json.loads(told("--at", "2", "--events", "-o", "json")[1])["events"]]
    assert kinds == ["accepted", "retrying", "finished"]
    code, _, err = told("--at", "9")
    assert code == 2 and "there is no entry 9: the last one is 4" in err
    assert told("--at", "-1")[0] == 2
