"""Nothing from data, names, files or errors reaches a terminal, a log line or a label as a control sequence."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from podium.cluster.client.dead_letters import DeadLetter
from podium.cluster.doctor.checks import Finding
from podium.cluster.gateways.cli import answering, breakers, dead, doctor, limits, one_task, status, top, view
from podium.cluster.gateways.cli.metrics import exposition
from podium.cluster.gateways.cli.step_tree import StepTree
from podium.cluster.gateways.cli.terminal import Terminal, say, styled, to_json
from podium.cluster.gateways.cli.value_text import MOST_CHARS, value_text
from podium.cluster.log_lines import keep_log_lines
from podium.errors import TaskFailed
from podium.protocols.encoded import Encoded
from podium.protocols.outcomes import Failure, TaskEvent, TaskRecord
from podium.protocols.printable import json_safe, one_line, printable
from podium.protocols.requests.router import Route
from podium.protocols.stored import BlobKey, Stored
from podium.protocols.values import pack
from podium.status import (
    Alert,
    BreakerStatus,
    ClusterStatus,
    LimitUse,
    Load,
    PoolStatus,
    ThrottleChange,
    ThrottleStatus,
    WorkflowStatus,
)
from podium.supervisors.tasks.history import StepRow
from tests.support import ROOT
from tests.support.commands import run_command

HOSTILE = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link", "\x9b2J", "\x90q\x9c", "a\rb", "a\bb", "\x7f",
    "\u202egnp.exe", "\u2066x\u2069", "\u200fx", "\ud800", "[bold]not[/]", "[/]", "[link=http://evil]x[/link]",
    ":smile:", "\x1b[201~", "two\nlines\x85more", "\u2028", "\U000e0041", "\0nul",
]  # fmt: skip
BAD = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ud800-\udfff\U000e0000-\U000e007f]"
)
NAME = "".join(HOSTILE)


def harmless(text):
    found = BAD.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 30) : found.end() + 30]!r}"
    return text


def own_codes_off(text):
    """What a terminal gets without the codes that rich itself sets: colours, and moves of the cursor of live views."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_are_printable_on_lines_of_their_own_and_in_json(text):
    harmless(printable(text))
    assert "\n" not in harmless(one_line(text)) and "\t" not in one_line(text) and "\u2028" not in one_line(text)
    assert json.loads(harmless(json_safe(json.dumps(text, ensure_ascii=False)))) == text


@given(st.text(st.characters()))
def test_any_text_is_printable_and_any_json_stays_the_same(text):
    harmless(printable(text))
    harmless(one_line(text)).encode()
    assert len(one_line(text).splitlines()) <= 1
    assert json.loads(harmless(to_json({text: [text]}))) == {text: [text]}
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", ["plain", "é漢😀👩‍💻", "a\tb\nc", "नमस्ते", "ไทย", "שלום عربي"])
def test_what_is_harmless_stays_as_it_is(text):
    assert printable(text) == text


def shown(renderable, **options):
    out = io.StringIO()
    Terminal(file=out, width=200, force_terminal=True, color_system="truecolor").print(renderable, **options)
    return harmless(own_codes_off(out.getvalue()))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_any_text_and_takes_none_for_markup(text):
    table = Table("a", text, title=text)
    table.add_row(text, styled((text, "red")))
    for each in (text, styled(text, (text, "bold")), table):
        shown(each)
        shown(each, style="red", soft_wrap=True)
    assert "[bold]not[/]" in shown("[bold]not[/]")


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\ud800" not in text])
def test_what_is_told_of_a_part_of_a_value_is_one_short_line_and_no_order(text):
    facts = {"preview": text, "dtype": text, "shape": [text], "name": text, text: [text] * 60, "rows": True}
    key = BlobKey(b"d" * 32, 1, 1)
    for codec in ("str", "podium.File", "numpy.ndarray", text):
        for part in (Stored.under(key, codec, facts, False), Encoded(pack([codec, facts, 1]))):
            assert "\n" not in shown(value_text(part), soft_wrap=True, end="")
            assert len(value_text(part)) <= MOST_CHARS
            assert "\n" not in shown(value_text({text: [part]}), soft_wrap=True, end="")
            assert shown(value_text([part], indent=2), soft_wrap=True, end="").count("\n") == 2


FAILURE = Failure("error", NAME, NAME, NAME, NAME, 2, note=NAME)
LACK = {NAME: {"step": NAME, "error": {"code": NAME, "kind": "", "message": NAME}}}
RECORD = TaskRecord(
    "t-1", NAME, "1", "h", {NAME: NAME}, NAME, 1, NAME, "failed", 1.0, 2.0, NAME, FAILURE, LACK
)  # fmt: skip
ERROR = RECORD.failure.to_wire()
EVENTS = [
    TaskEvent("accepted", "t-1", 1.0, "", 1, None, 0),
    TaskEvent("chunk", "t-1", 1.0, NAME, 1, {NAME: NAME}, 1),
    TaskEvent("log", "t-1", 1.0, NAME, 1, ["info", NAME]),
    TaskEvent("retrying", "t-1", 1.0, NAME, 1, {"failure": ERROR, "retry_at": 2.0}, 2),
    TaskEvent("lost", "t-1", 1.0, NAME, 1, None, 3),
    TaskEvent("timed_out", "t-1", 1.0, NAME, 1, None, 4),
    TaskEvent("parked", "t-1", 1.0, "", 1, None, 5),
    TaskEvent("failed", "t-1", 1.0, NAME, 2, ERROR, 6),
    TaskEvent("failed", "t-1", 1.0, "", 1, ERROR, 7),
]
QUOTAS = {NAME: LimitUse(NAME, 1, 0)}
BREAKERS = {NAME: BreakerStatus("open", NAME, None, 1.0, 1, 1, 0, 0)}
POOL = PoolStatus(NAME, NAME, 1, 1, 1, 0, NAME, 1, 2)
IDLE = WorkflowStatus(NAME, NAME, "wait", 1, False, "idle", NAME)
FLOW = replace(IDLE, state="up", open=1, users={NAME: 1, "b": 2}, pools=(POOL,), load=Load(0.1, 0.1, 0.1), stalled={})
STATUS = ClusterStatus(
    {NAME: FLOW}, QUOTAS, BREAKERS, ThrottleStatus(0.5, (ThrottleChange(1.0, 0.5, NAME),)), Load(0.1, 0.1),
    (Alert(NAME, NAME, True, 1.0),),
)  # fmt: skip


def test_each_view_of_a_task_is_harmless():
    tree = StepTree(styled((NAME, "bold")))
    for event in EVENTS:
        tree.take(event)
        harmless(view.event_line(event))
        assert "\n" not in view.event_line(event)
    many = [StepRow(f"{NAME}/b[{number}]", "failed", 1, 1.0) for number in range(20)]
    for row in (StepRow(NAME, "failed", 2, 1.0, 2.0, RECORD.failure), *many):
        tree.put(row)
    shown(tree.render(5.0))
    shown(view.task_table([RECORD], {"t-1": NAME}))
    for event in EVENTS[3:]:
        harmless(one_line(view.why_wrong(event)))
    harmless(view.lack(RECORD.degraded[NAME]))


def test_a_result_on_a_terminal_is_harmless(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    one_task.print_result({NAME: NAME}, "table", "t-1")
    harmless(capsys.readouterr().out)


def test_what_commands_print_is_harmless(capsys):
    view.print_tasks([RECORD], {"t-1": NAME})
    dead._print([DeadLetter(RECORD, RECORD.failure)])
    one_task._print_facts(Terminal(width=80), RECORD, EVENTS[3:6], None, 10)
    one_task.print_result(NAME, "table", "t-1")
    one_task.print_result({NAME: NAME}, "json", "t-1")
    limits._print(QUOTAS, "table")
    limits._print(QUOTAS, "json")
    breakers._print(BREAKERS, "table")
    status._print_running(Terminal(), {"kind": NAME, "pid": NAME}, STATUS)
    shown(top.picture(top.Look(STATUS, 1.0), None))
    shown(doctor.findings_table([Finding(NAME, "problem", NAME, NAME, NAME)], "/x"))
    route = Route.model_construct(type=NAME, decided_by=NAME, why=NAME, complexity=0.5, scores={})
    answering.print_route(Terminal(), route)
    said = {"text": NAME, "sources": [{"path": NAME, "line": 1}], "value": None, "missing": {NAME: NAME}}
    answering._print_answer(said, answering._Speaker(aloud=True))
    answering._print_notes(said, RECORD.degraded)
    answering._Speaker(aloud=True)._take(TaskEvent("chunk", "t", 1.0, "model", 1, {"text": NAME}))
    say(NAME)
    printed = capsys.readouterr()
    harmless(own_codes_off(printed.out + printed.err))


def test_labels_of_prometheus_are_one_line_and_harmless():
    status_now = replace(STATUS, workflows={NAME: IDLE})
    lines = exposition(status_now)
    assert any("podium_alert_firing{" in line for line in lines)
    for line in lines:
        assert len(harmless(line).splitlines()) == 1


def logs_of(record):
    keep_log_lines()
    keep_log_lines()
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("podium.protocol.test")
    logger.addHandler(handler)
    try:
        record(logger)
    finally:
        logger.removeHandler(handler)
    return out.getvalue()


class _Odd:
    def __str__(self):
        raise RuntimeError("no text")


def test_log_lines_are_harmless_and_cannot_pass_for_others():
    def record(logger):
        logger.warning("%s of %s", NAME, {NAME: 1})
        logger.error(NAME)
        logger.error("%d %s", "three", _Odd())
        logger.error("%s", _Odd())
        logger.error("a mapping %(a)s", {"a": NAME})
        try:
            raise ValueError(NAME)
        except ValueError:
            logger.exception("failed: %s", "x\nERROR forged")

    lines = logs_of(record).split("\n")
    assert all(harmless(line).startswith(("WARNING ", "ERROR ", "    ")) for line in lines if line)
    assert sum(line.startswith("ERROR") for line in lines) == 5


def test_records_of_others_are_left_alone():
    keep_log_lines()
    record = logging.getLogger("other").makeRecord("other", logging.INFO, "f", 1, "%s\x1b", ("x",), None)
    assert (record.msg, record.args) == ("%s\x1b", ("x",))


FLOW = """
import podium

@podium.protocol
def say(input):
    raise ValueError(input + %(name)r)

@podium.protocol
def good(input):
    return input

bad = podium.Workflow("bad", podium.Step(say))
fine = podium.Workflow("fine", podium.Step(good))
"""
NASTY = "\x1b]0;owned\x07\x9b2J\u202ex\r\nERROR forged"


@pytest.fixture
def cli(tmp_path):
    (tmp_path / "nasty_flow.py").write_text(FLOW % {"name": NASTY})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_CLUSTER": "inprocess", "COLUMNS": "120"}

    def run(*words):
        code, out, err = run_command(words, tmp_path, environment)
        return code, harmless(out.decode()), harmless(err.decode())

    return run


def test_commands_over_hostile_tasks(cli, tmp_path):
    assert cli("run", "nasty_flow:bad", "-i", NASTY, "--user", NASTY)[0] == 1
    code, out, _ = cli("run", "nasty_flow:fine", "-i", NASTY)
    assert (code, "owned" in out) == (0, True)
    assert json.loads(cli("run", "nasty_flow:fine", "-i", NASTY, "-o", "json")[1]) == NASTY
    records = json.loads(cli("ps", "-o", "json")[1])
    ids = {record["workflow"]: record["task_id"] for record in records}
    for words in (
        ["ps"],
        ["dead", "ls"],
        ["status"],
        ["limits"],
        ["doctor"],
        ["token", "create", NASTY],
        ["token", "list"],
    ):
        cli(*words)
    for task_id in ids.values():
        for command in ("show", "watch", "cancel"):
            cli(command, task_id)
            cli(command, task_id, "-o", "json")
    for line in ("run @", "show @", "@", "ps --status @", "run @.yaml", "watch @", "dead drop @", "run x.yaml -i @"):
        code, _, err = cli(*(word.replace("@", NASTY) for word in line.split()))
        assert code in (1, 2, 3) and err, line
    assert cli("ask", "hi", "--root", NASTY)[0] in (1, 2)


def test_ask_over_a_folder_with_hostile_names_and_texts(cli, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "nar\x1b[31mwhal\u202e.md").write_text("the narwhal\x1b]0;x\x07 is in the \x9b2J vault\n")
    (root / "secret\x1b[31m.pem").write_text("x")
    _, out, err = cli("ask", "where is the narwhal?", "--root", str(root))
    assert "vault" in out and "left out: 1 with keys" in err
    assert "vault" in json.loads(cli("ask", "where is the narwhal?", "--root", str(root), "-o", "json")[1])["text"]
    cli("plan", f"count the lines {NASTY}", "--root", str(root))


def test_an_error_that_is_raised_is_shown_as_text(capsys):
    from podium.cluster.gateways.cli.main import _guarded

    def command():
        raise TaskFailed(task_id="t", workflow=NAME, failure=ERROR)

    def fault():
        raise RuntimeError(NAME)

    assert (_guarded(command), _guarded(fault)) == (1, 1)
    harmless(capsys.readouterr().err)


def test_a_pipe_that_is_closed_ends_a_command_quietly(cli, tmp_path):
    line = f"{sys.executable} -m podium schema | head -c 1"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.alone
def test_looking_at_a_long_text_is_quick():
    began = time.monotonic()
    printable("a" * 5_000_000)
    one_line("é" * 5_000_000)
    assert time.monotonic() - began < 2
