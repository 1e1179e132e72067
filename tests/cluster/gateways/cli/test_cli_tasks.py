"""The command line on tasks by their ids: shortened, shown with what went wrong, told again, cancelled; and `ask`."""

from __future__ import annotations

import json
import os
import re
from importlib import metadata

import pytest

import podium
import podium.testing
from podium.cluster.gateways.cli.view import lack
from podium.cluster.store.ids import whole_id
from podium.cluster.store.sqlite.reading import FileReader
from podium.errors import InvalidInput, NotFound
from tests import sample
from tests.support import ROOT
from tests.support.commands import run_command

FLOW = """
import podium

@podium.protocol(retry=podium.Retry(attempts=3, initial_delay_s=0.01, max_delay_s=0.01))
def shaky(ctx, input):
    if ctx.attempt < input["good"]:
        raise ValueError(f"attempt {ctx.attempt} found no luck\\nand more lines")
    ctx.emit({"said": input})
    return {"lucky": ctx.attempt, "text": "x" * input.get("size", 1)}

shaky_flow = podium.Workflow("shaky", podium.Step(shaky))
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    """Run `podium` in a folder of its own; returns (exit code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "luck.py").write_text(FLOW)
    (folder / "slow.yaml").write_text("name: slow\nroot: tests.sample:slow\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_CLUSTER": "inprocess", "COLUMNS": "100"}

    def run(*words, columns=None):
        there = environment | ({"COLUMNS": str(columns)} if columns else {})
        code, out, err = run_command(words, folder, there)
        return code, out.decode(), err.decode()

    run.folder = folder
    return run


def newest(cli):
    return json.loads(cli("ps", "-o", "json")[1])[0]["task_id"]


def test_version(cli):
    assert cli("--version") == (0, f"podium {metadata.version('podium')}\n", "")


def test_show_has_input_output_and_why_each_attempt_failed(cli):
    cli("run", "luck:shaky_flow", "-i", "good=3", "-q")
    task_id = newest(cli)
    code, out, _ = cli("show", task_id)
    assert (code, 'input: {"good": 3}' in out, 'output: {"lucky": 3, "text": "x"}' in out) == (0, True, True)
    said = re.findall(
        r"^shaky: attempt (\d) failed .*: ValueError: attempt (\d) found no luck; again", out, re.MULTILINE
    )
    assert said == [("1", "1"), ("2", "2")]
    facts = json.loads(cli("show", task_id, "-o", "json")[1])
    assert (facts["input"], facts["result"]["lucky"]) == ({"good": 3}, 3)
    assert facts["steps"][0]["output"] == {"lucky": 3, "text": "x"}
    assert [(each["attempt"], each["kind"], each["error"]["kind"]) for each in facts["attempts"]] == [
        (1, "retrying", "ValueError"),
        (2, "retrying", "ValueError"),
    ]
    assert all(
        each["retry_at"] > each["at"] and "Traceback" in each["error"]["traceback"] for each in facts["attempts"]
    )


def test_show_of_a_failed_task_has_every_attempt_and_no_output(cli):
    cli("run", "luck:shaky_flow", "-i", "good=9", "-q")
    out = cli("show", newest(cli))[1]
    assert len(re.findall(r"^shaky: attempt \d failed", out, re.MULTILINE)) == 3
    assert "output:" not in out and "Traceback" in out


def test_show_cuts_a_long_value_and_says_so(cli):
    cli("run", "luck:shaky_flow", "-i", "good=1", "-i", "size=5000", "-q")
    task_id = newest(cli)
    out = cli("show", task_id)[1]
    assert re.search(r"\(3,\d\d\d characters more: -o json\)", out) and "x" * 5000 not in out
    assert "x" * 5000 in cli("show", task_id, "-o", "json")[1]


def test_watch_of_an_ended_task_tells_what_is_recorded_from_any_offset(cli):
    cli("run", "luck:shaky_flow", "-i", "good=2", "-q")
    task_id = newest(cli)
    code, out, err = cli("watch", task_id)
    kinds = [line.split()[1] for line in err.splitlines()]
    assert (code, kinds) == (0, ["accepted", "retrying", "chunk", "finished", "completed"])
    assert json.loads(out)["lucky"] == 2
    code, out, err = cli("watch", task_id, "--from", "3", "-o", "json")
    assert [line.split()[1] for line in err.splitlines()] == ["finished", "completed"]
    with podium.connect(data=cli.folder / ".podium", cluster="inprocess") as engine:
        told = [event.kind for event in engine.task(task_id).events(0)]
    assert told == kinds


def test_watch_of_a_failed_task_tells_its_events_and_exits_with_1(cli):
    cli("run", "luck:shaky_flow", "-i", "good=9", "-q")
    code, out, err = cli("watch", newest(cli))
    assert (code, out) == (1, "")
    assert [line.split()[1] for line in err.splitlines()[:4]] == ["accepted", "retrying", "retrying", "failed"]
    assert "TaskFailed: " in err


def test_the_beginning_of_an_id_is_enough_and_never_ambiguous(cli):
    cli("run", "luck:shaky_flow", "-i", "good=1", "-q")
    task_id = newest(cli)
    short = task_id[:-8]
    assert task_id in cli("show", short)[1]
    assert cli("watch", short)[0] == 0
    assert cli("cancel", short)[1] == "completed\n"
    assert cli("show", task_id + "0")[0] == 3
    assert cli("show", "t-")[0] == 2
    code, _, err = cli("show", "t-01")
    assert code == 2 and "InvalidInput: ID: 't-01' is the beginning of several ids: t-01" in err
    assert err.count("t-01") >= 4


def test_dead_letters_take_shortened_ids(cli):
    cli("run", "luck:shaky_flow", "-i", "good=9", "-q")
    task_id = newest(cli)
    assert "✗ shaky" in cli("dead", "show", task_id[:-6])[1]
    assert cli("dead", "drop", task_id[:-6])[1] == "dropped 1\n"


def test_cancel_takes_many_ids_and_none_if_one_is_wrong(cli):
    tasks = [cli("submit", "slow.yaml", "-i", "s=60")[1].strip() for _ in range(3)]
    assert cli("cancel", *tasks, "t-none")[0] == 3
    assert json.loads(cli("show", tasks[0], "-o", "json")[1])["status"] in ("pending", "running")
    code, out, _ = cli("cancel", *tasks[:2], tasks[0])
    assert (code, out) == (0, "".join(f"{task} cancelled\n" for task in tasks[:2]))
    code, out, err = cli("cancel", *tasks, "-o", "json")
    assert json.loads(out) == [{"task_id": task, "status": "cancelled"} for task in tasks]
    assert err.count("has already ended: cancelled") == 2


def test_cancel_takes_all_of_a_workflow_and_no_others(cli):
    tasks = {cli("submit", "slow.yaml", "-i", "s=60")[1].strip() for _ in range(2)}
    assert cli("cancel")[0] == 2
    assert cli("cancel", *tasks, "--all")[0] == 2
    assert cli("cancel", "--all", "--workflow", "shaky")[1].strip() == ""
    assert cli("cancel", "--all", "--user", "nobody")[1].strip() == ""
    out = cli("cancel", "--all", "--workflow", "slow", "-o", "json")[1]
    assert {row["task_id"] for row in json.loads(out)} == tasks


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_ids_are_never_cut_in_a_table(cli, columns):
    task_id = newest(cli)
    out = cli("ps", columns=columns)[1]
    assert task_id in out and out.splitlines()[0].split() == ["task", "workflow", "status", "user", "accepted", "took"]


def test_ask_takes_what_run_takes(cli):
    words = ["--data", "other", "--priority", "4", "--user", "ada", "--key", "k", "--criticality", "sheddable",
             "--task-timeout", "50", "--timeout", "60", "--limits", "llm=2", "--in-process", "-q"]  # fmt: skip
    code, out, err = cli("ask", "what is 1 + 1?", *words, "-o", "json")
    assert (code, err) == (0, "")
    first = json.loads(out)["task_id"]
    assert json.loads(cli("ask", "what is 1 + 1?", *words, "-o", "json")[1])["task_id"] == first
    (record,) = json.loads(cli("ps", "--data", "other", "-o", "json")[1])
    assert (record["priority"], record["user"], record["key"]) == (4, "ada", "k")
    assert cli("ask", "x", "--limits", "llm")[0] == 2
    assert cli("ask", "x", "--criticality", "odd")[0] == 2


def test_an_attachment_may_be_in_an_older_encoding(cli):
    (cli.folder / "note.txt").write_bytes("der Ozelot heißt Müller\n".encode("utf-16"))
    (cli.folder / "noise.bin").write_bytes(b"\0\1\2")
    code, out, _ = cli("ask", "how is the Ozelot called?", "--attach", "note.txt", "--type", "context_query")
    assert (code, "Müller" in out) == (0, True)
    code, _, err = cli("ask", "hi", "--attach", "noise.bin")
    assert (code, "noise.bin: it is no text" in err) == (2, True)


def test_ids_are_looked_up_where_there_is_nothing(tmp_path):
    for typed in ("t-01m8hf3p9pvhges68j2x84e8ab", "", "t-", "/x", "t-01%", "t-\U0010ffff", "' OR 1=1"):
        with pytest.raises(NotFound):
            whole_id(FileReader(tmp_path), typed)


class Ids:
    """A reader that finds these ids."""

    def __init__(self, *found):
        self.found = list(found)

    def ids(self, start, most):
        return self.found


def test_a_whole_id_is_taken_even_if_others_begin_with_it():
    several = Ids("t-0123", "t-01234", "t-012345")
    assert whole_id(several, "t-0123") == "t-0123"
    assert whole_id(several, "t-0123/a[1]") == "t-0123/a[1]"
    with pytest.raises(InvalidInput, match="is the beginning of several ids: t-0123, t-01234, t-012345"):
        whole_id(several, "t-012")
    assert whole_id(Ids("t-0123"), "t-01/a[1]") == "t-0123/a[1]"


TEAM = """
import podium
from podium import verdict

@podium.protocol
async def one_round(ctx, brief):
    return verdict.accept(brief["input"]) if brief["outcomes"] else verdict.assign()

@podium.protocol(retry=podium.Retry(attempts=2, initial_delay_s=0.01, max_delay_s=0.01))
def shaky(ctx, input):
    if ctx.attempt < 2:
        raise ValueError("no luck below")
    return 1

team_flow = podium.Workflow("teamed", podium.Hierarchy(one_round, team={"x": podium.Step(shaky)}, name="team"))
"""


def test_show_tells_an_attempt_of_a_nested_hierarchy_once(cli):
    (cli.folder / "team.py").write_text(TEAM)
    code, _, err = cli("run", "team:team_flow", "-i", "1", "-q")
    assert code == 0, err
    task_id = newest(cli)
    out = cli("show", task_id)[1]
    assert out.count("no luck below; again") == 1, out
    (attempt,) = json.loads(cli("show", task_id, "-o", "json")[1])["attempts"]
    assert attempt["step"].endswith("x") and attempt["error"]["kind"] == "ValueError"
    assert "no luck below" in cli("watch", task_id)[2]


# what a stranger met on the second day


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_ps_cuts_no_time_and_no_id_however_narrow(tmp_path, columns):
    flow = podium.Workflow("a_long_name_of_a_workflow", podium.Sequence(sample.add))
    with podium.connect(data=tmp_path, cluster="inprocess") as engine:
        ids = [engine.submit(flow, {"n": n}, user="somebody_with_a_name").result() and None for n in range(2)]
    _, out, _ = run_command(("ps", "--data", str(tmp_path)), tmp_path, {**os.environ, "COLUMNS": columns})
    lines = out.decode().splitlines()
    assert len(lines) == 1 + len(ids)
    assert all(re.search(r"t-[a-z0-9]{26} .* \d+(\.\d)? (ms|s)$", line.rstrip()) for line in lines[1:]), lines


def test_what_many_branches_lack_is_counted():
    instead = podium.Constant(value=0, missing="a number")
    flow = podium.Workflow("w", podium.Parallel(each="input", do=podium.Step(sample.fail, otherwise=instead)))

    async def work(engine):
        task = await engine.submit(flow, list(range(7)))
        return await task.result(), (await task.read_record()).degraded

    result, degraded = podium.testing.Simulation().run(work)
    assert result == [0] * 7
    ((_what, why),) = degraded.items()
    assert why["times"] == 7
    assert lack(why).endswith("(and 6 more)")
