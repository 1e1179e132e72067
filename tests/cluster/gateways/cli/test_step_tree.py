"""Many steps in few lines: the tree of `podium show` and `run`, the lines of `run` without a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import time

import pytest
from rich.console import Console

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.cluster.gateways.cli import keys
from podium.cluster.gateways.cli.live import Lines
from podium.cluster.gateways.cli.step_tree import StepTree, went_wrong
from podium.cluster.gateways.cli.terminal import styled
from podium.protocols.outcomes import TaskEvent
from podium.supervisors.tasks.history import StepRow
from podium.testing import Simulation


def drawn(tree, **how):
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(tree.render(100.0, **how))
    return [line.strip() for line in console.export_text().splitlines()]


def planted(*rows):
    tree = StepTree(styled("flow"))
    for path, status, *more in rows:
        tree.put(StepRow(path, status, 1, 90.0, 91.0 if status in ("completed", "failed") else None, *more))
    return tree


def items(path, count, status="completed", **more):
    rows = [StepRow(path.format(n), status, 1, 90.0, **more) for n in range(count)]
    tree = StepTree(styled("flow"))
    for row in rows:
        tree.put(row)
    return tree


def test_a_few_runs_of_a_node_are_shown_singly_and_many_are_counted():
    assert len(drawn(items("a[{}]", 12))) == 13
    assert drawn(items("a[{}]", 13)) == ["flow", "└── a × 13: 13 of 13 done"]
    assert drawn(items("[{}]", 13))[1] == "└── items × 13: 13 of 13 done", "the list is the root"
    assert drawn(items("a#{}", 13))[1] == "└── a × 13: 13 of 13 done", "visits"


def test_what_has_not_begun_is_counted_too():
    tree = items("files[{}]", 20, "running", sizes={"files": 200})
    assert drawn(tree)[1] == "└── files × 200: 0 of 200 done, 20 running"
    assert drawn(items("[{}]", 20, "running", sizes={"": 200}))[1].startswith("└── items × 200:")


def test_each_kind_of_run_has_its_number():
    kinds = ("completed", "failed", "cancelled", "parked", "retrying", "waiting", "running", "open")
    tree = planted(*((f"a[{n}]", kinds[n % 8]) for n in range(24)))
    numbers = (
        "3 of 24 done, 3 failed, 3 cancelled, 3 parked, 3 to be tried again, 3 waiting, 3 running, 3 due or running"
    )
    assert " ".join(drawn(tree)[1:]) == f"└── a × 24: {numbers}"


def test_items_of_several_steps_are_one_branch_with_a_line_per_step():
    tree = StepTree(styled("flow"))
    for n in range(50):
        for step, status in (("fetch", "completed"), ("parse", "running" if n > 29 else "completed")):
            tree.put(StepRow(f"all[{n}]/{step}", status, 1, 90.0, sizes={"all": 60}))
    assert drawn(tree) == [
        "flow",
        "└── all × 60",
        "├── fetch × 50: 50 of 50 done",
        "└── parse × 50: 30 of 50 done, 20 running",
    ]


def test_lists_in_lists_are_counted_together():
    tree = StepTree(styled("flow"))
    for n in range(20):
        for m in range(3):
            tree.put(StepRow(f"a[{n}]/b[{m}]", "completed", 1, 90.0, sizes={"a": 20, f"a[{n}]/b": 5}))
    assert drawn(tree) == ["flow", "└── a × 20", "└── b × 100: 60 of 100 done"]


def test_singly_shows_every_one_and_what_went_wrong_can_be_picked():
    assert len(drawn(items("a[{}]", 40), singly=True)) == 41
    rows = [
        StepRow(f"a[{n}]", status, 1, 1.0) for n, status in enumerate(("completed", "failed", "parked", "retrying"))
    ]
    assert [row.path for row in went_wrong(rows)] == ["a[1]", "a[2]", "a[3]"]


def test_what_is_done_is_folded_where_a_screen_is_too_low():
    rows = [(f"part{n}/{step}", "completed") for n in range(5) for step in "abcd"]
    tree = planted(*rows, ("last/a", "running"), ("last/b", "open"))
    assert len(drawn(tree, height=80)) == 1 + 25 + 3
    assert drawn(tree, height=20) == [
        "flow",
        *(f"├── ✓ part{n} 4 steps, 1.0 s" for n in range(5)),
        "└── last",
        "├── ▶ a 10.0 s",
        "└── ▶ b 10.0 s",
    ]


def test_waits_of_many_have_their_reason():
    tree = StepTree(styled("flow"))
    for n in range(20):
        tree.put(StepRow(f"a[{n}]", "open", 1, 90.0, waits="no host"))
    assert drawn(tree)[1] == "└── a × 20: 0 of 20 done, 20 wait: no host"


# plain lines


def told(*events):
    lines: list[str] = []
    taker = Lines(lines.append)
    for at, kind, step, value in events:
        taker.take(TaskEvent(kind, "t-1", at, step, 1, value))
    return [line.partition(" ")[2] for line in lines]


def long_list(count, path="a[{}]", of="a"):
    for n in range(count):
        yield n / 50, "started", path.format(n), {"of": {of: count}}
        yield n / 50, "finished", path.format(n), n


def test_a_long_list_has_a_line_a_second_and_one_at_its_end():
    lines = told((0, "accepted", "", None), *long_list(200), (9, "started", "b", None), (9, "finished", "b", 1))
    assert lines == [
        "accepted",
        "a: 50 of 200 done",
        "a: 100 of 200 done",
        "a: 150 of 200 done",
        "a: 200 of 200 done",
        "started b",
        "finished b",
    ]


def test_a_short_list_has_its_lines():
    assert len(told(*long_list(12))) == 24


def test_of_a_long_list_what_went_wrong_has_lines_of_its_own():
    failure = {"kind": "ValueError", "code": "error", "message": "no"}
    events = [
        (0, "started", "a[0]", {"of": {"a": 20}}),
        (0, "retrying", "a[0]", {"failure": failure}),
        (0, "started", "a[0]", {"of": {"a": 20}}),
        (0, "failed", "a[0]", failure),
        (2, "finished", "a[1]", None),
    ]
    assert told(*events) == [
        "retrying a[0]: ValueError: no",
        "failed a[0]: ValueError: no",
        "a: 1 of 20 done, 1 failed",
    ]


def test_items_of_several_steps_are_counted_as_they_begin():
    events = [(n, "started", f"a[{n}]/x", {"of": {"a": 40}}) for n in range(3)]
    assert told(*events)[-1] == "a: 3 of 40 begun, 0 steps done"


# what the engine tells


@podium.protocol(concurrency=4)
async def slow(x: int) -> int:
    await asyncio.sleep(1)
    return x


def test_a_step_that_begins_says_how_long_its_list_is():
    flow = Workflow("w", Sequence(Parallel(each="input", do=Step(slow), limit=4, name="all"), Step(total)))

    async def work(engine):
        task = await engine.submit(flow, list(range(20)))
        return {event.step: event.value async for event in task.events() if event.kind == "started"}

    started = Simulation().run(work)
    assert started["all[3]"] == {"of": {"all": 20}}
    assert started["total"] is None


@podium.protocol
async def total(xs: list) -> int:
    return sum(xs)


# keys


@pytest.mark.parametrize("pressed, quits", [("q", True), ("Q", True), ("xq", True), ("x", False)])
def test_top_ends_at_q(monkeypatch, pressed, quits):
    ours, theirs = pty.openpty()
    with open(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with keys.waiting_for_quit() as quits_within:
            os.write(ours, pressed.encode())
            assert quits_within(5.0 if quits else 0.1) is quits
    os.close(ours)


def test_without_a_terminal_it_only_waits(monkeypatch, tmp_path):
    (tmp_path / "input").write_text("q")
    with (tmp_path / "input").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        began = time.monotonic()
        with keys.waiting_for_quit() as quits_within:
            assert quits_within(0.05) is False
        assert time.monotonic() - began >= 0.05
