"""The command line, as a person or a script uses it; on the in-process cluster."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import resource
import signal
import subprocess
import sys

import pytest

import podium
from podium.cluster.gateways.cli import interrupts
from podium.cluster.gateways.cli.live import Listener
from podium.errors import TaskFailed
from tests.support import ROOT


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["--version"], None),
        (["run", "flow.yaml", "-q", "-i", "-"], '{"n": 41}'),
        (["run", "odds:odds", "-q", "-i", "é=ü"], None),
        (["validate", "nowhere.yaml"], None),
        (["status", "-o", "json", "--data", "here"], None),
        (["show", "t-x"], None),
        (["limits", "set", "x"], None),
    ],
)
def test_a_command_that_is_forked_does_what_one_that_is_started_does(cli, words, stdin):
    """All others here are forked (commands.py)."""
    (cli.folder / "odds.py").write_text(ODD)
    done = subprocess.run(
        [sys.executable, "-m", "podium", *words],
        cwd=cli.folder, env=cli.environment, input=stdin, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert cli(*words, stdin=stdin) == (done.returncode, done.stdout, done.stderr)


def test_run_prints_the_result_alone_on_standard_output(cli):
    code, out, err = cli("run", "flow.yaml", "-i", "n=1", "-o", "json")
    assert (code, json.loads(out)) == (0, [{"n": 3}, {"n": 3}])
    assert "completed" in err


ODD = """
import math
from datetime import UTC, datetime
import podium
@podium.protocol
async def odd(input):
    return {"n": [math.nan, -math.inf], "raw": b"\\xff", "at": datetime(2026, 1, 2, tzinfo=UTC), "given": input}
odds = podium.Workflow("odds", podium.Sequence(odd))
"""


def test_what_is_printed_as_json_is_json_wherever_it_is(cli):
    (cli.folder / "odds.py").write_text(ODD)
    (cli.folder / "marked.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    right = {"n": ["NaN", "-Infinity"], "raw": "/w==", "at": "2026-01-02T00:00:00Z"}

    def strict(text):
        return json.loads(text, parse_constant=lambda name: pytest.fail(name))

    _, out, _ = cli("run", "odds:odds", "-q", "-o", "json", "-i", "x=-Infinity", "-i", "y=1e400")
    assert strict(out) == {**right, "given": {"x": "-Infinity", "y": "1e400"}}
    _, out, _ = cli("run", "odds:odds", "-q", "-i", "@marked.json")
    assert strict(out) == {**right, "given": {"a": "é"}}
    (task, *_) = strict(cli("ps", "-o", "json")[1])
    assert strict(cli("show", task["task_id"], "-o", "json")[1])["task_id"] == task["task_id"]
    assert strict(cli("watch", task["task_id"], "-o", "json")[1])["n"] == right["n"]


LARGE = """
import podium
@podium.protocol
async def large(input):
    text = "\\x1bt" * 150_000
    return {"text": text, "raw": b"r" * 300_000} if input else text
large = podium.Workflow("large", large)
"""


def test_a_large_text_is_printed_as_a_text(cli):
    (cli.folder / "large.py").write_text(LARGE)
    for given, form in (("", "text"), ("all=1", "json")):
        code, out, _ = cli("run", "large:large", "-q", *(["-i", given] if given else []))
        (task, *_) = json.loads(cli("ps", "-o", "json")[1])
        assert cli("watch", task["task_id"])[:2] == (code, out) == (0, out)
        if form == "text":
            assert out == "\\x1bt" * 150_000 + "\n"
        else:
            told = json.loads(out)
            assert told["text"] == "\x1bt" * 150_000 and base64.b64decode(told["raw"]) == b"r" * 300_000


def test_what_failed_is_a_dead_letter_without_a_cluster(cli):
    (cli.folder / "bad.yaml").write_text("name: bad\nroot: {sequence: [tests.sample:add, tests.sample:fail]}\n")
    assert cli("dead", "ls")[2] == "No dead letters.\n"
    cli("run", "bad.yaml", "-i", "n=1", "-q")
    code, out, _ = cli("dead", "ls", "-o", "json")
    (letter,) = json.loads(out)
    assert (code, letter["category"], letter["error"]["step"]) == (0, "internal", "fail")
    assert cli("dead", "ls")[1].splitlines()[0].split() == ["letter", "workflow", "status", "category", "since"]
    assert cli("dead", "ls")[1].splitlines()[2] == "  fail: cannot do {'n': 2}"
    assert "✗ fail" in cli("dead", "show", letter["id"])[1]
    (new,) = cli("dead", "redrive", "--all")[1].split()
    with podium.connect(data=cli.folder / ".podium", cluster="inprocess") as engine, pytest.raises(TaskFailed):
        engine.task(new).result(timeout_s=60)  # it goes on where the data are opened, and fails again
    assert new != letter["id"] and cli("dead", "drop", new)[1] == "dropped 1\n"
    assert cli("dead", "ls", "-o", "json")[1] == "[]\n"


def test_commands_for_dead_letters_say_what_is_wrong(cli):
    assert "give either ids or --all" in cli("dead", "redrive")[2]
    assert "is none of validation" in cli("dead", "ls", "--category", "external")[2]
    assert cli("dead", "drop", "t-nowhere")[0] == 3
    assert "no cluster is running" in cli("breakers")[2]


def test_ask_prints_the_answer_with_its_sources_and_notes_beside_it(cli):
    code, out, err = cli("ask", "how is the journal fenced?", "--root", str(ROOT), "--explain")
    assert code == 0
    assert "No model is configured" in out and out.index("Sources:") > 0
    assert "context_query (scorer)" in err and "time: half are done within" in err
    code, out, _ = cli("ask", "how is the journal fenced?", "--root", str(ROOT), "-o", "json")
    assert (code, json.loads(out)["type"]) == (0, "context_query")


def test_ask_says_what_is_wrong(cli):
    assert "no such folder" in cli("ask", "hi", "--root", "nowhere")[2]
    assert "is not one of simple_query" in cli("ask", "hi", "--type", "shopping")[2]
    assert cli("ask", "hi", "--attach", "nowhere.txt")[0] == 2
    assert "the request has no text" in cli("ask", " ")[2]


def test_plan_shows_what_would_run_and_runs_nothing(cli):
    code, out, _ = cli("plan", "count the lines of code", "--root", ".")
    assert code == 0
    assert "tool_execution" in out and "tool count_lines" in out and "nothing of this type is on record" in out
    assert "No tasks." in cli("ps")[2]


def test_the_router_is_trained_tested_and_explained(cli):
    (cli.folder / "own.jsonl").write_text('{"text": "water the plants", "type": "tool_execution"}\n')
    assert "Trained on" in cli("router", "train", "own.jsonl")[2]
    assert (cli.folder / "router.json").exists()
    (cli.folder / "bad.jsonl").write_text('{"text": "x"}\n')
    assert "bad.jsonl:1" in cli("router", "train", "bad.jsonl")[2]
    assert "held out: 9" in cli("router", "test")[1]
    assert cli("router", "explain", "tail the log", "-o", "json")[1].startswith("{")


def test_quiet_prints_nothing_else(cli):
    assert cli("run", "flow.yaml", "-i", "n=1", "-q")[2] == ""


@pytest.mark.parametrize(("words", "stdin"), [(["-i", "@in.json"], None), (["-i", "-"], '{"n": 1}')])
def test_input_from_a_file_and_from_standard_input(cli, words, stdin):
    (cli.folder / "in.json").write_text('{"n": 1}')
    code, out, _ = cli("run", "flow.yaml", "-q", *words, stdin=stdin)
    assert (code, json.loads(out)) == (0, [{"n": 3}, {"n": 3}])


def test_a_failed_task_exits_with_1_and_says_where(cli):
    code, out, err = cli("run", "bad.yaml", "-i", "x", "-q")
    assert (code, out) == (1, "")
    assert re.search(
        r"TaskFailed: task t-\w+ of workflow 'bad' failed in step 'fail' \(attempt 1\): ValueError: cannot do x",
        err,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nosuch.yaml"], "nosuch.yaml: No such file"),
        (["run", "tests.sample:nope"], "tests.sample:nope: expected a Workflow, found nothing"),
        (["run", "flow.yaml", "-i", "@none.json"], "none.json: No such file"),
        (["run", "flow.yaml", "-i", "-"], "standard input:1:1: not JSON"),
        (["run", "flow.yaml", "-i", "a=1", "-i", "b"], "--input b: expected k=v, @file.json or -"),
        (["run", "flow.yaml", "-i", "3"], "input: Input should be a valid dictionary"),
        (["validate", "broken.yaml"], "broken.yaml:4:7: root.sequence[0].step: unknown protocol"),
        (["ps", "--status", "odd"], "'odd' is not one of"),
        (["run"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["run", "flow.yaml", "--limits", "llm"], "limits"),
    ],
)
def test_mistakes_exit_with_2_and_name_the_place(cli, words, message):
    (cli.folder / "broken.yaml").write_text("name: w\nroot:\n  sequence:\n    - nosuch:x\n")
    code, out, err = cli(*words, stdin="")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_what_does_not_exist_exits_with_3(cli):
    for command in ("show", "watch", "cancel"):
        code, _, err = cli(command, "t-none")
        assert (code, err.strip()) == (3, "NotFound: no task 't-none'")


def test_a_wait_that_times_out_exits_with_4(cli):
    (cli.folder / "slow.yaml").write_text("name: slow\nroot: tests.sample:slow\n")
    code, _, err = cli("run", "slow.yaml", "-i", "s=30", "--timeout", "0.3")
    assert code == 4
    assert "it goes on" in err


def test_an_interrupt_that_python_swallows_still_ends_the_wait():
    before = signal.getsignal(signal.SIGINT)
    interrupts.heed()
    try:
        with contextlib.suppress(KeyboardInterrupt):  # as in a destructor, or in a callback of C code
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            Listener(None, 0, lambda _event: None).wait(5.0, lambda: None)
    finally:
        interrupts.heed()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_detaches_exits_with_130_and_says_how_to_go_on(cli):
    (cli.folder / "slow.yaml").write_text("name: slow\nroot: tests.sample:slow\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "podium", "run", "slow.yaml", "-i", "s=60"],
        cwd=cli.folder, env={**cli.environment, "PYTHONFAULTHANDLER": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "accepted" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)
        pytest.fail(f"it did not end; its threads: {child.communicate()[1]}")
    assert (child.returncode, out) == (130, "")
    assert "The task is saved. To resume it and to follow it:" in err
    assert "podium up" in err
    assert "Traceback" not in err


def test_ps_and_show_read_what_ran_without_a_cluster(cli):
    cli("run", "flow.yaml", "-i", "n=1", "-q", "--user", "ada", "--priority", "3")
    code, out, _ = cli("ps", "-o", "json")
    (record,) = json.loads(out)
    assert (record["workflow"], record["status"], record["user"], record["priority"]) == (
        "flow",
        "completed",
        "ada",
        3,
    )
    code, out, _ = cli("show", record["task_id"], "-o", "json")
    steps = json.loads(out)["steps"]
    assert [(step["path"], step["status"]) for step in steps] == [
        ("add", "completed"),
        ("both[0]", "completed"),
        ("both[1]", "completed"),
    ]
    code, out, _ = cli("show", record["task_id"])
    assert (code, "✓ add" in out, "✓ both[0]" in out) == (0, True, True)
    code, out, _ = cli("ps")
    assert record["task_id"] in out


def test_show_gives_the_error_with_its_traceback(cli):
    cli("run", "bad.yaml", "-i", "x", "-q")
    (record,) = json.loads(cli("ps", "-o", "json")[1])
    out = cli("show", record["task_id"])[1]
    assert "✗ fail" in out
    assert "ValueError in 'fail': cannot do x" in out
    assert "sample.py" in out


def test_cancel_of_an_interrupted_task_and_down_without_a_cluster(cli):
    (cli.folder / "slow.yaml").write_text("name: slow\nroot: tests.sample:slow\n")
    cli("run", "slow.yaml", "-i", "s=60", "--timeout", "0.2", "-q")
    (record,) = json.loads(cli("ps", "-o", "json")[1])
    code, out, _ = cli("cancel", record["task_id"], "-o", "json")
    assert (code, json.loads(out)) == (0, {"task_id": record["task_id"], "status": "cancelled"})
    assert cli("cancel", record["task_id"])[:2] == (0, "cancelled\n")
    assert json.loads(cli("down", "-o", "json")[1]) == {"ended": False}


def test_an_interrupted_task_is_resumed_by_the_next_run(cli):
    (cli.folder / "slow.yaml").write_text("name: slow\nroot: tests.sample:slow\n")
    cli("run", "slow.yaml", "-i", "s=1", "--timeout", "0.2", "-q", "--key", "k")
    code, out, _ = cli("run", "slow.yaml", "-i", "s=1", "-q", "--key", "k")
    assert (code, json.loads(out)) == (0, {"s": 1})
    assert len(json.loads(cli("ps", "-o", "json")[1])) == 1


def test_validate_and_schema(cli):
    code, out, _ = cli("validate", "flow.yaml")
    assert code == 0
    assert out.startswith("flow version 1: ok (hash ")
    assert json.loads(cli("validate", "flow.yaml", "-o", "json")[1])["name"] == "flow"
    schema = json.loads(cli("schema")[1])
    assert schema["title"] == "Workflow"


def test_limits_are_shown_and_cannot_be_changed_without_a_cluster(cli):
    code, out, _ = cli("limits", "-o", "json")
    assert (code, json.loads(out)["request per user"]["limit"]) == (0, 10)
    code, out, err = cli("limits", "set", "llm=3", "llm per user=1")
    assert (code, out) == (1, "")
    assert "no cluster is running: `podium up` starts one" in err
    code, _, err = cli("limits", "set", "llm")
    assert code == 2
    assert "(argument 'llm'): expected llm=5,tool=10" in err


def test_status_shows_what_is_in_force_and_where_it_came_from(cli):
    _code, out, _ = cli("status", "-o", "json")
    facts = json.loads(out)
    assert facts["settings"]["cluster"] == {"value": "inprocess", "source": "PODIUM_CLUSTER"}
    assert facts["settings"]["lease_s"] == {"value": 30.0, "source": "default"}
    assert facts["cluster"] is None


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["ps"],
        ["show", "t-x"],
        ["validate", "flow.yaml"],
        ["graph", "flow.yaml"],
        ["schema"],
        ["status"],
        ["df"],
    ],
)
def test_reading_commands_do_not_import_ray(cli, words):
    script = (
        "import sys; sys.argv = ['podium', *sys.argv[1:]]\n"
        "from podium.cluster.gateways.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'ray' not in sys.modules, 'ray was imported'\n"
        "assert 'jsonschema' not in sys.modules, 'jsonschema was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=cli.folder, env=cli.environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.alone
def test_ps_is_quick(cli):
    """Some 2.5 times what its libraries take to be imported; this only catches one that is heavy. Compiled code is
    kept, as anywhere but on test machines."""
    environment = {**cli.environment, "PYTHONPYCACHEPREFIX": str(cli.folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def used():
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def took(*words):
        """Of the processor: what else runs there does not count."""
        before = used()
        subprocess.run([sys.executable, *words], cwd=cli.folder, env=environment, capture_output=True, check=True)
        return used() - before

    pairs = [(took("-m", "podium", "ps"), took("-c", "import pydantic, typer, rich.console, psutil")) for _ in range(5)]
    assert min(ps for ps, _ in pairs) < 6 * min(libraries for _, libraries in pairs)


def test_a_lasting_cluster_in_process_is_refused_and_leaves_nothing(cli):
    code, out, err = cli("up")
    assert (code, out) == (2, "")
    assert "setting 'cluster' (PODIUM_CLUSTER): a cluster 'inprocess' ends with its driver" in err
    assert cli("down")[2] == "No cluster is running.\n"


def test_the_settings_are_shown_also_when_the_database_is_away(cli):
    code, out, _ = cli("status", "--data", "postgresql://podium@127.0.0.1:1/work")
    assert code == 0
    assert "It is not known what runs" in out and "Connection refused" in out.replace("\n", " ")
    assert "more settings are at their defaults" in out
    code, out, _ = cli("status", "-o", "json", "--data", "postgresql://podium@127.0.0.1:1/work")
    assert code == 0
    assert "Connection refused" in json.loads(out)["problem"]


def test_the_doctor_looks_also_when_the_database_is_away(cli):
    code, out, err = cli("doctor", "--data", "postgresql://podium@127.0.0.1:1/work")
    assert code == 1 and "Connection refused" in out.replace("\n", " ")
    assert "JournalFailed" not in err
