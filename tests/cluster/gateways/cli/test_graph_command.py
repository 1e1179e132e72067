"""`podium graph`: workflows and tasks as pictures, from the command line."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET

import pytest

import podium
from podium import Hierarchy, Parallel, Sequence, Step, Workflow, verdict
from podium.errors import TaskFailed
from tests import sample
from tests.support import ROOT
from tests.support.commands import run_command


@podium.protocol
def one_round(ctx, brief):
    return verdict.accept(brief["input"]) if brief["outcomes"] else verdict.assign()


FLOW = Workflow(
    "drawn",
    Sequence(
        Parallel(each="input", do=Step(sample.add, with_='{"n": input}'), name="all"),
        Hierarchy(one_round, team={"m": Step(sample.add, with_='{"n": 1}')}, name="team"),
        Step(sample.fail, name="breaks"),
        Step(sample.add, name="after"),
    ),
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """`podium graph WORDS` where a task has failed; returns (exit code, standard output, standard error)."""
    folder = tmp_path_factory.mktemp("drawn")
    with podium.connect(data=folder / ".podium", cluster="inprocess") as engine:
        task = engine.submit(FLOW, [1, 2, 3])
        with pytest.raises(TaskFailed):
            task.result(timeout_s=60)
    (folder / "small.yaml").write_text("name: small\nroot: {sequence: ['tests.sample:add', 'tests.sample:slow']}\n")

    def graph(*words):
        code, out, err = run_command(("graph", *words), folder, {**os.environ, "PYTHONPATH": str(ROOT)})
        return code, out.decode(), err.decode()

    graph.task_id, graph.folder = task.id, folder
    return graph


def nodes(text):
    """Of a flowchart: the state of each node, by its name."""
    named = dict(re.findall(r'(n\d+)[\[(/]+"(?:[✓✗▶] )?([a-z_]+)', text))
    found = dict.fromkeys(named.values(), "")
    for ids, state in re.findall(r"class (\S+) ([a-z]+)", text):
        found |= {named[id]: state for id in ids.split(",")}
    return found


def test_a_file_is_drawn_as_a_flowchart(drawn):
    code, out, err = drawn("small.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines()[:4] == ["---", 'title: "small, version 1"', "---", "flowchart TD"]
    assert nodes(out) == {"add": "", "slow": ""} and len(re.findall("-->", out)) == 3


def test_a_workflow_of_a_module_is_drawn_in_every_form(drawn):
    source = "tests.cluster.gateways.cli.test_graph_command:FLOW"
    assert drawn(source, "-o", "dot")[1].startswith("digraph workflow {")
    picture = ET.fromstring(drawn(source, "-o", "svg")[1])
    texts = [each.text for each in picture.iter() if each.text]
    assert {"all (each)", "team (hierarchy)", "breaks", "assigns, gets outcomes"} <= set(texts)
    assert "due or running" not in texts
    assert drawn(source, "-o", "png")[0] == 2


def test_a_task_is_drawn_as_far_as_it_ran(drawn):
    code, out, _ = drawn(drawn.task_id[:-5])
    assert code == 0 and f"drawn {drawn.task_id} failed" in out.splitlines()[1]
    assert nodes(out) == {
        "all": "completed", "add": "completed", "team": "completed", "lead": "completed", "m": "completed",
        "breaks": "failed", "after": "",
    }  # fmt: skip
    assert "3 of 3 done" in out and "2 of 2 done" in out
    assert "due or running" in drawn(drawn.task_id, "-o", "svg")[1]


def test_a_run_of_a_nested_hierarchy_is_drawn_by_itself(drawn):
    code, out, _ = drawn(f"{drawn.task_id}/team")
    assert (code, nodes(out)) == (0, {"team": "completed", "lead": "completed", "m": "completed"})


def test_what_is_not_there_is_said(drawn):
    assert drawn("t-nothing")[0] == 3
    assert drawn("nothing.yaml")[0] == 2
    (drawn.folder / "t-file").write_text("name: small\nroot: tests.sample:add\n")
    assert 'title: "small, version 1"' in drawn("t-file")[1], "a file of such a name is a file"


def test_the_picture_in_the_docs_is_the_one_that_the_command_draws(drawn):
    page = (ROOT / "docs" / "workflows.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (drawn.folder / "review.yaml").write_text(example)
    assert "](workflow.svg)" in page
    assert drawn("review.yaml", "-o", "svg")[1] == (ROOT / "docs" / "workflow.svg").read_text()
