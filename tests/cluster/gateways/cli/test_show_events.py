"""`podium show --events`: what is in the journal of a task, entry by entry."""

from __future__ import annotations

import json
import re
import typing

import pytest

import podium
from podium import Hierarchy, Parallel, Sequence, Step, Workflow, verdict
from podium.cluster.gateways.cli.events_table import print_events
from podium.protocols.outcomes import Failure
from podium.protocols.recovery import USUAL
from podium.protocols.values import pack
from podium.supervisors.tasks import events as all_events
from podium.supervisors.tasks.client_events import past_events, seen_attempt
from podium.supervisors.tasks.events import (
    Abandoned,
    Answered,
    Cancelled,
    Dropped,
    Due,
    Emitted,
    Held,
    Overdue,
    Redriven,
    Relayed,
    Restarted,
    Skewed,
    StepAsked,
    StepBegan,
    StepFailed,
    StepFinished,
    StepLost,
    TimedOut,
    WaitBelow,
    WaitBelowOver,
    Woke,
    pack_events,
)
from podium.supervisors.tasks.fold import apply, begin
from podium.supervisors.tasks.journalled import journalled_events
from tests import sample
from tests.support.commands import Shown
from tests.support.fold_play import record

NO = Failure("error", "no luck\nand more", "ValueError")
ONE_OF_EACH = [
    Due(60.0, 101.0),
    Held(101.5, 101.0),
    StepBegan("a", 102.0),
    Emitted("a", 1, [{"said": "hello"}, 2], 103.0, True),
    StepFailed("a", NO, 110.0, 104.0),
    Restarted("a", 105.0),
    StepLost("a", 106.0),
    StepFailed("a", NO, None, 107.0),
    Redriven(None, "r-1", 108.0),
    StepFinished("a", {"n": 7}, 109.0, {"opinion": {"step": "b"}}),
    Relayed("h", [["chunk", 1.0, "h/x", 1, 3]], 1, 110.0),
    TimedOut("h", 111.0, "timeout", USUAL),
    Skewed(-3.5, 112.0),
    Dropped("r-2", 113.0),
    Cancelled(114.0, True),
    Answered("yes", "x", {"ok": True}, "ann", "cli", "", 114.2),
    StepAsked("b", {"wait": {"wait": "more"}, "show": {"cost": [1]}, "resume": {"at": [2]}}, 114.4),
    WaitBelow("h", "h/w", {"wait": {"wait": "yes"}, "show": 1, "since": 114.0}, 114.5),
    WaitBelowOver("h", "h/w", 114.6),
    Woke("nap", 114.8),
    Overdue(60.0, 115.0),
    Abandoned("too many crashes", 116.0),
]
KINDS = (
    "accepted time_limit held began emitted retrying restarted lost failed redriven finished "
    "relayed timed_out clock_set dropped cancelled answered asked wait_below wait_over woke timed_out "
    "workflow_down"
).split()


def rows_of(*entries):
    return journalled_events(record({"n": 5}), [pack_events(list(entry)) for entry in entries])


def test_each_event_has_its_kind_its_place_and_the_entry_that_it_is_in():
    assert {type(event) for event in ONE_OF_EACH} == set(typing.get_args(all_events.Event))
    rows = rows_of(ONE_OF_EACH[:4], ONE_OF_EACH[4:])
    assert [row.kind for row in rows] == KINDS
    assert [row.entry for row in rows] == [0, 1, 1, 1, 1, *[2] * 18]
    assert [row.at for row in rows] == [100.0, *(event.at for event in ONE_OF_EACH)]
    assert [(row.step, row.attempt) for row in rows[1:11]] == [
        ("", None), ("", None), ("a", 1), ("a", 1), ("a", 1), ("a", 2), ("a", 2), ("a", 2), ("", None), ("a", 1)
    ]  # fmt: skip
    assert json.loads(json.dumps([row.to_json() for row in rows]))[4]["says"]["chunks"] == [{"said": "hello"}, 2]


def test_an_entry_that_cannot_be_read_hides_no_other():
    bodies = [
        pack_events([StepBegan("a", 1.0)]),
        pack([["from the future", 1]]),
        b"\xc1",
        pack_events([StepLost("a", 2.0)]),
    ]
    rows = journalled_events(record(), bodies)
    assert [(row.entry, row.kind) for row in rows] == [
        (0, "accepted"), (1, "began"), (2, "unreadable"), (3, "unreadable"), (4, "lost")
    ]  # fmt: skip
    assert "from the future" in rows[2].says["problem"] and rows[2].at is None


@pytest.mark.parametrize("of", [None, "t-0"])
def test_attempts_are_counted_as_the_fold_counts_them(of):
    parks = ("retry", "park")
    root = Parallel({"a": Step(sample.add), "b": Step(sample.add)})
    events = [
        StepFailed("b", NO, 2.0, 101.0),
        StepFailed("a", NO, 2.0, 101.0),
        StepFailed("a", NO, None, 102.0, parks),
        Redriven(of, "r", 103.0),
        StepFailed("a", NO, 2.0, 104.0),
        StepFailed("a", NO, None, 105.0, parks),
        Redriven(None, "r2", 106.0),
        StepFinished("b", 1, 107.0),
        StepFinished("a", 1, 108.0),
    ]
    task, _ = begin(record(), root)
    by_fold = []
    for event in events:
        by_fold.append(None if isinstance(event, Redriven) else seen_attempt(task, event))
        apply(task, event)
    assert task.outcome is not None
    assert [row.attempt for row in rows_of(events)[1:]] == by_fold
    assert [told.attempt for told in past_events(record(), events)[1:]] == [attempt or 1 for attempt in by_fold]


def test_the_table_has_a_line_for_each_and_cuts_what_is_long(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    print_events(rows_of([*ONE_OF_EACH, StepFinished("long", "y" * 500, 120.0), StepFinished("\x1b[2J\n", 1, 120.0)]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(KINDS) + 2
    assert lines[0].split() == ["entry", "time", "kind", "step", "attempt", "says"]
    assert "retrying" in lines[6] and "ValueError: no luck; again" in lines[6]
    assert [line.split(maxsplit=6)[-1].rstrip() for line in lines if " asked " in line] == ["'more': {\"cost\": [1]}"]
    assert lines[-2].rstrip().endswith("…") and "\x1b" not in lines[-1] and "\\x1b[2J\\n" in lines[-1]
    assert max(map(len, lines)) <= 100


@podium.protocol(retry=podium.Retry(attempts=3, initial_delay_s=0.01, max_delay_s=0.01))
def wobbly(ctx, input):
    if ctx.attempt < 3:
        raise ValueError("not yet")
    ctx.emit("there it is")
    return {"long": "z" * 300}


@podium.protocol
def one_round(ctx, brief):
    return verdict.accept(brief["input"]) if brief["outcomes"] else verdict.assign()


FLOW = Workflow(
    "wobble", Sequence(Step(wobbly), Hierarchy(one_round, team={"m": sample.add}, name="h", with_='{"n": 1}'))
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return Shown(FLOW, 3, tmp_path_factory.mktemp("told"))


def test_show_events_tells_the_journal_of_a_task(told):
    code, out, err = told("--events")
    assert code == 0
    kinds = [line.split()[2] for line in out.splitlines()[1:]]
    assert [kind for kind in kinds if kind not in ("emitted", "relayed")] == [
        "accepted", "retrying", "retrying", "finished", "finished"
    ]  # fmt: skip
    assert re.search(r"^ +\d+ +\S+ +finished +wobbly +3 +.*…$", out, re.MULTILINE), out
    assert f"podium show {told.task_id}/h --events" in err


def test_show_events_as_json_has_everything(told):
    facts = json.loads(told("--events", "-o", "json")[1])
    assert (facts["task_id"], facts["status"]) == (told.task_id, "completed")
    (finished,) = [each for each in facts["events"] if each["step"] == "wobbly" and each["kind"] == "finished"]
    assert (finished["says"]["output"], finished["attempt"]) == ({"long": "z" * 300}, 3)
    failures = [each["says"]["failure"] for each in facts["events"] if each["kind"] == "retrying"]
    assert ["Traceback" in failure["traceback"] for failure in failures] == [True, True]


def test_show_events_of_a_nested_hierarchy_tells_its_own_journal(told):
    steps = {each["step"] for each in json.loads(told("--events", "-o", "json", run="/h")[1])["events"]}
    assert steps == {None, "h/lead#1", "h/m", "h/lead#2"}


def test_show_takes_events_or_failed(told):
    code, _, err = told("--events", "--failed")
    assert code == 2 and "--failed" in err
