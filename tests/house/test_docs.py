"""Every example in README and docs runs, and the main example does its job on real trees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import podium
from podium import Request
from podium.cluster.config import Settings, load_settings
from podium.protocols.library.front import router_from
from podium.protocols.library.mcp_tool import server_of
from podium.protocols.protocol import Declaration
from podium.protocols.requests.grants import requests_config
from podium.testing import simulate
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "examples"))
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(code, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code] if "\n" in code else [sys.executable, code],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.ray
def test_the_first_example_runs_as_it_stands_on_ray_and_prints_only_its_result(tmp_path):
    first = blocks(README, "python")[0]
    assert len(first.strip().splitlines()) <= 25
    (tmp_path / "digest.py").write_text(first)
    done = run("digest.py", tmp_path)
    assert done.stdout == "['CONTENTS OF A.ORG', 'CONTENTS OF B.ORG']\n"
    assert done.stderr == ""


def test_the_testing_example_runs():
    first, second = blocks(README, "python")
    names = {"__name__": "readme"}
    exec(compile(first, "README.md", "exec"), names)
    exec(compile(second, "README.md", "exec"), names)


def test_the_yaml_in_the_docs_is_a_workflow_that_runs():
    (text,) = blocks((ROOT / "docs/workflows.md").read_text(), "yaml")
    workflow = podium.read_workflow(text, "workflows.md")
    (result,) = simulate(workflow, [{"files": ["a", "b"]}])
    assert result["files"] == ["a", "b"]


def test_the_python_in_the_docs_runs():
    names = {"__name__": "docs"}
    for code in blocks((ROOT / "docs/workflows.md").read_text(), "python"):
        exec(compile(code, "workflows.md", "exec"), names)
    assert simulate(names["workflow"], ["ants"]) == ["a longer text"]


def test_the_examples_of_waiting_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PODIUM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PODIUM_CLUSTER", "inprocess")
    page = (ROOT / "docs/waiting.md").read_text()
    names = {"__name__": "docs"}
    for code in blocks(page, "python"):
        exec(compile(code, "waiting.md", "exec"), names)
    assert capsys.readouterr().out == "".join(blocks(page, "text"))
    (text,) = blocks(page, "yaml")
    assert [node.name for node in podium.read_workflow(text).root.sequence] == ["draft", "approval", "publish"]


def test_the_example_of_limits_runs(capsys):
    code = "\n".join(blocks((ROOT / "docs/limits.md").read_text(), "python"))
    exec(compile(code, "limits.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out == "WHY?\n"


def test_the_examples_of_versions_run():
    names = {"__name__": "docs"}
    for code in blocks((ROOT / "docs/versions.md").read_text(), "python"):
        exec(compile("import podium\n" + code, "versions.md", "exec"), names)
    assert names["one"] is names["uno"] and names["one"](1) == 2


def test_the_examples_of_requests_run(tmp_path):
    text = (ROOT / "docs/requests.md").read_text()
    asking, hooks = blocks(text, "python")
    (tmp_path / "fence.py").write_text('"""How the journal is fenced."""\n')
    assert "['fence.py:1']" in run(asking, tmp_path).stdout
    exec(compile(hooks, "requests.md", "exec"), {"__name__": "docs"})


def test_the_configuration_in_the_docs_is_one(tmp_path, monkeypatch):
    text, switches = blocks((ROOT / "docs/requests.md").read_text(), "toml")
    (tmp_path / "podium.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = requests_config(load_settings().config)
    assert config.model.base_url and config.pipelines and config.tools["words"].minimum == "landlock"
    assert config.grants_of("ada").allows_tool("grep") and not config.grants_of("bob").allows_tool("grep")
    assert router_from(config.router).route(Request(text="see TICKET-7")).type == "tool_execution"
    (tmp_path / "podium.toml").write_text(switches)
    model = requests_config(load_settings().config).model
    assert model.answer_tokens_as == "max_tokens" and model.extra == {"reasoning_effort": "low"}


def test_the_examples_of_mcp_are_what_they_say(tmp_path, monkeypatch):
    text = (ROOT / "docs/mcp.md").read_text()
    assert all(json.loads(block) for block in blocks(text, "json"))
    (workflow,), (settings,) = blocks(text, "yaml"), blocks(text, "toml")
    podium.read_workflow(workflow, "mcp.md")
    (tmp_path / "podium.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    assert server_of(load_settings().config, "files").command[0] == "npx"
    assert server_of(load_settings().config, "tickets").token_env == "TICKETS_TOKEN"


def test_the_commands_in_the_docs_run_and_what_they_say_of_damage_is_true(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path / ".podium") as engine:
        engine.submit(podium.Workflow("digest", podium.Step("tests.sample:add")), {"n": 1}).result(timeout_s=60)
    (text,) = blocks((ROOT / "docs/journal.md").read_text(), "sh")
    commands = [line.partition("#")[0].replace("WORKFLOW", "digest").split() for line in text.splitlines()]
    assert len(commands) == 4
    mark = tmp_path / ".podium" / "shards" / "digest.mark"
    (tmp_path / ".podium" / "shards" / "digest.db").write_bytes(b"")
    for command, code in zip(commands, [1, 1, 1, 0], strict=True):
        assert command[0] == "podium"
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (code, ""), done.stdout
    assert mark.exists()


def test_the_settings_in_the_docs_are_some(tmp_path, monkeypatch):
    (text,) = blocks((ROOT / "docs/settings.md").read_text(), "toml")
    (tmp_path / "podium.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PODIUM_LIMITS", "llm=7,tool=10")
    settings = load_settings(data="elsewhere")
    assert (str(settings.data), settings.user, settings.config) == ("elsewhere", "nightly", {"bucket": "reviews"})
    assert settings.limits["llm"] == 7 and settings.limits["request"] == 50


def slugs(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            other = page.parent / file if file else page
            assert other.exists(), target
            assert not anchor or anchor in slugs(other), target


def test_every_setting_is_documented():
    table = (ROOT / "docs/settings.md").read_text()
    for name in Settings.model_fields.keys() - {"sources"}:
        assert f"| `{name}` |" in table


@pytest.mark.ray
def test_ray_may_be_imported_first_and_stays_on_loopback_also_in_a_second_data_directory(tmp_path):
    code = (
        "import ray, podium, shutil\n"
        "from tests.sample import add\n"
        "for data in ('data', 'other'):\n"
        "    with podium.connect(data=data, num_cpus=1) as engine:\n"
        "        assert engine.submit(podium.Workflow('w', add), {'n': 1}).result(timeout_s=60) == {'n': 2}\n"
        "        assert ray.get_runtime_context().gcs_address.startswith('127.0.0.1:')\n"
        "    try:\n"
        "        ray.get_actor('nobody')\n"
        "    except ray.exceptions.RaySystemError:\n"
        "        assert not ray.is_initialized(), 'a call of Ray started a cluster of its own'\n"
        "    shutil.rmtree(data)\n"
    )
    run(code, tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.ray
def test_ray_starts_no_cluster_by_itself_beside_an_engine_in_the_users_own(tmp_path):
    code = (
        "import ray, podium\n"
        "from tests.sample import add\n"
        "ray.init(num_cpus=2, include_dashboard=False, logging_level='ERROR')\n"
        "with podium.connect(data='data') as engine:\n"
        "    assert engine.submit(podium.Workflow('w', add), {'n': 1}).result(timeout_s=60) == {'n': 2}\n"
        "ray.shutdown()\n"
        "try:\n"
        "    ray.get_actor('nobody')\n"
        "except ray.exceptions.RaySystemError:\n"
        "    assert not ray.is_initialized(), 'a call of Ray started a cluster of its own'\n"
        "else:\n"
        "    raise AssertionError('there is an actor')\n"
    )
    run(code, tmp_path, PYTHONPATH=str(ROOT))


# the main example


def brief():
    from repo_brief.workflow import brief

    return brief


def test_the_briefing_in_yaml_and_in_python_is_the_same():
    from podium import load_workflow

    assert load_workflow(ROOT / "examples/repo_brief/brief.yaml") == brief()


def report_on(path, tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path / "brief-data") as engine:
        task = engine.submit(brief(), {"path": str(path)})
        report = task.result(timeout_s=120)
        steps = [event.step for event in task.events() if event.kind == "finished"]
    return report, steps


def test_a_briefing_on_this_project(tmp_path):
    report, steps = report_on(ROOT, tmp_path)
    for title in ("Overview", "Structure", "Dependencies", "Hot spots", "Open ends", "Long functions"):
        assert f"## {title}" in report
    assert "Python:" in report
    assert "`pyproject.toml`" in report
    assert {"structure/in_detail", "structure/by_folder"} & set(steps)  # by the number of files
    assert all(len(section.splitlines()) <= 28 for section in report.split("## ")), "the editor lets no long section by"


def test_a_folder_without_git_history_is_no_error(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "a.py").write_text("def f():\n    return 1  # TODO: more\n")
    (folder / "requirements.txt").write_text("requests>=2\n# comment\n")
    (folder / "package.json").write_text("{broken")
    report, _ = report_on(folder, tmp_path)
    assert "No git history to read: not a git work tree" in report
    assert "`a.py:2` TODO: more" in report
    assert "`requests`" in report
    assert "`package.json`: cannot be read" in report


def test_a_missing_folder_says_so(tmp_path):
    from podium.errors import TaskFailed

    with pytest.raises(TaskFailed, match=r"step 'inventory' .* NotADirectoryError: /nonexistent is not a folder"):
        report_on("/nonexistent", tmp_path)


def test_a_tree_of_10_000_files_is_summarised_per_folder(tmp_path):
    folder = tmp_path / "large"
    for number in range(100):
        part = folder / f"part{number:03}"
        part.mkdir(parents=True)
        for file in range(100):
            (part / f"f{file}.py").write_text(f"def f{file}():\n    return {file}\n")
    report, steps = report_on(folder, tmp_path)
    assert "structure/by_folder" in steps
    assert "10,000 files" in report
    assert "`part000/`" in report


def test_the_table_of_what_a_protocol_declares_is_complete():
    page = (ROOT / "docs" / "workflows.md").read_text()
    rows = page.partition("## Protocols")[2].partition("## Steps")[0].splitlines()
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows if row.startswith("| `"))))
    assert named == set(Declaration.model_fields) - {"ref"}


def test_a_copy_of_a_directory_on_which_nothing_runs_is_a_backup(tmp_path):
    workflow = podium.Workflow("digest", podium.Step("tests.sample:add"))
    data, copy = tmp_path / ".podium", tmp_path / "podium-monday"

    def submitted(n, key):
        with podium.connect(cluster="inprocess", data=data) as engine:
            return engine.submit(workflow, {"n": n}, key=key).result(timeout_s=60), len(engine.tasks())

    submitted(1, "before")
    shutil.copytree(data, copy)
    assert submitted(2, "after")[1] == 2
    mark = (data / "shards" / "digest.mark").read_bytes()
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    assert submitted(1, "before") == ({"n": 2}, 1)
    assert submitted(2, "after") == ({"n": 3}, 2)
    (data / "shards" / "digest.db").write_bytes((copy / "shards" / "digest.db").read_bytes())
    (data / "shards" / "digest.mark").write_bytes(mark)
    with pytest.raises(podium.PodiumError, match="behind what was acknowledged"):
        submitted(3, "later")


def test_the_architecture_page_names_files_that_there_are():
    page = (ROOT / "docs/architecture.md").read_text()
    rooms = ("protocols", "supervisors", "actors", "cluster", "tests", "benchmarks", "docs", "podium")
    files = [str(path.relative_to(ROOT)) for room in rooms for path in (ROOT / room).rglob("*.py")]
    for name in sorted(set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page))):
        assert any(f"/{path}".endswith(f"/{name}") for path in files), name
