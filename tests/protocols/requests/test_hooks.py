"""Hooks of requests: from settings and calls, before every state, told where the request comes from."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import podium
from podium import Adaptive, Rule, Sequence, Step
from podium.cluster.client.ask_input import workflow_of
from podium.cluster.config import Settings
from podium.errors import InvalidDefinition, InvalidInput, TaskCancelled, TaskFailed
from podium.protocols.requests.hooks import HOOKED, hooked, read_hooks, transition_of
from podium.protocols.requests.machine import STAGES, check_pipeline, may_follow
from podium.protocols.requests.pipelines import REQUEST_TYPES, ask_workflow, hooks_from, shipped_pipelines
from podium.testing import Simulation

pytestmark = pytest.mark.timeout(60)
SEEN: list[tuple[str, str]] = []
STAGED = [state for state in HOOKED if state not in ("failed", "cancelled")]


@podium.protocol
async def note(ctx: podium.Context, input: dict) -> dict:
    SEEN.append(transition_of(ctx.step))
    return input


@podium.protocol
async def refuse(input: dict) -> dict:
    raise PermissionError("not today")


@podium.protocol
async def shout(input: dict) -> dict:
    return {**input, "text": input["text"].upper()} if "text" in input else input


@podium.protocol
async def explode(input: dict) -> dict:
    raise ValueError("it always fails")


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


@pytest.fixture
def ask(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("x\n")

    def asked(settings=None, **fields):
        config = {"requests": {"owner": "ada", **(settings or {})}}
        with podium.connect(data=tmp_path / "data", cluster="inprocess", user="ada", config=config) as engine:
            return engine.ask("list the files", root=str(tmp_path / "root"), **fields).result(timeout_s=30)

    return asked


@pytest.mark.parametrize("type", REQUEST_TYPES)
def test_a_hook_before_every_state_is_told_each_transition_in_turn(ask, type):
    ask(type=type, hooks=dict.fromkeys(STAGED, note))
    befores, afters = zip(*SEEN, strict=True)
    assert befores == ("received", *afters[:-1]) and afters[-1] == "completed"
    assert all(may_follow(before, after) for before, after in SEEN)


def test_hooks_of_the_settings_run_for_all_who_ask_and_before_those_of_a_call(ask):
    settings = {"hooks": {"processing": "tests.protocols.requests.test_hooks:note"}}
    ask(settings, type="simple_query")
    assert SEEN == [("context_gathering", "processing")]
    with pytest.raises(TaskFailed, match="not today"):
        ask(settings, type="simple_query", hooks={"processing": refuse})
    assert len(SEEN) == 2


def test_a_step_in_the_settings_may_have_its_own_bounds(ask):
    step = {"step": "tests.protocols.requests.test_hooks:note", "timeout_s": 5.0}
    ask({"hooks": {"planned": [step, "tests.protocols.requests.test_hooks:note"]}}, type="simple_query")
    assert SEEN == [("validated", "planned")] * 2


@pytest.mark.parametrize("state", STAGED)
@pytest.mark.parametrize("type", ["context_query", "tool_execution"])
def test_a_hook_that_fails_keeps_the_request_from_any_state(ask, type, state):
    if state == "tool_execution" and type == "context_query":
        return
    with pytest.raises(TaskFailed, match="not today"):
        ask(type=type, hooks={state: refuse})


def test_what_a_hook_returns_is_what_goes_on(ask):
    quiet = ask(type="simple_query")
    loud = ask(type="simple_query", hooks={"completed": shout})
    assert loud["text"] == quiet["text"].upper() != quiet["text"]


def test_a_hook_before_failed_runs_when_the_request_fails_and_the_failure_stays(ask):
    with pytest.raises(TaskFailed, match="it always fails"):
        ask(type="simple_query", hooks={"failed": note, "processing": explode})
    assert SEEN == [(None, "failed")]


def test_a_hook_before_cancelled_runs_when_the_request_is_cancelled(tmp_path):
    async def work(engine):
        workflow = ask_workflow(hooks={"cancelled": note, "processing": dawdle})
        task = await engine.submit(workflow, {"request": {"text": "what is the capital of France?"}})
        await asyncio.sleep(20)
        assert await task.cancel() == "cancelled"
        with pytest.raises(TaskCancelled):
            await task.result()

    Simulation(limits={"llm": 5, "request": 5}).run(work)
    assert SEEN == [(None, "cancelled")]


@podium.protocol
async def dawdle(input: dict) -> dict:
    await asyncio.sleep(25)
    return input


def test_tools_that_fail_lead_back_and_the_hooks_are_told(ask):
    tools = {"boom": {"about": "explodes", "command": ["false"]}}
    ask({"tools": tools}, type="tool_execution", tools=["boom"], hooks={"planned": note, "tool_execution": note})
    assert SEEN[:2] == [("validated", "planned"), ("context_gathering", "tool_execution")]
    assert SEEN[2:] == [("tool_execution", "planned"), ("planned", "tool_execution")]


@pytest.mark.parametrize("hooks", [
    {"received": note}, {"nowhere": note}, {"planned": 3}, {"planned": "nonsense"},
    {"failed": [note, note]}, {"cancelled": [note, note]}, {"planned": {"step": "a:b", "wrong": 1}},
])  # fmt: skip
def test_what_is_no_hook_is_refused_when_the_workflow_is_made(hooks):
    with pytest.raises(InvalidDefinition):
        ask_workflow(hooks=hooks)


def test_the_settings_say_so_too(ask):
    with pytest.raises((InvalidDefinition, InvalidInput), match="no hook can stand before 'nowhere'"):
        ask({"hooks": {"nowhere": "tests.protocols.requests.test_hooks:note"}})


def test_a_path_that_is_no_hooks_is_refused():
    for path in ("model", "simple_query/model", "before_lunch", ""):
        with pytest.raises(ValueError, match="not the path of a hook"):
            transition_of(path)


def test_without_hooks_a_pipeline_stays_as_it_is():
    for workflow in shipped_pipelines().values():
        assert hooked(workflow.root, {}) is workflow.root
        assert hooked(workflow.root, read_hooks({"failed": note})) is workflow.root


def test_with_hooks_a_pipeline_still_makes_no_forbidden_transition():
    hooks = read_hooks(dict.fromkeys(STAGED, note))
    for type, workflow in shipped_pipelines().items():
        check_pipeline(hooked(workflow.root, hooks), type)


def _stage(name):
    return Step("tests.sample:echo", name=name)


def test_rules_for_any_node_do_not_hold_after_a_hook():
    nodes = {name: _stage(name) for name in STAGES}
    order = list(STAGES)
    rules = [Rule(after=before, to=after) for before, after in itertools.pairwise(order)]
    rules += [Rule(after="tools", when="visits.tools < 2", to="model"), Rule(to="end")]
    root = Adaptive(nodes, start="validate", rules=rules)
    changed = hooked(root, read_hooks({"processing": note, "completed": note}))
    ways = [label for label in changed.adaptive if label.startswith("before_model")]
    assert len(ways) == 2 and all(rule.after is not None for rule in changed.rules)
    assert all([rule.to for rule in changed.rules if rule.after == way] == ["model"] for way in ways)


def test_an_ambiguous_start_has_its_hook_too():
    nodes = {name: _stage(name) for name in ("validate", "plan", "model", "format")}
    rules = [Rule(after="validate", to="plan"), Rule(after="plan", when="visits.plan < 2", to="validate")]
    rules += [Rule(after="plan", to="model"), Rule(after="model", to="format"), Rule(after="format", to="end")]
    changed = hooked(Adaptive(nodes, start="validate", rules=rules), read_hooks({"validated": note}))
    assert transition_of(changed.start) == ("received", "validated")
    assert {rule.to for rule in changed.rules if rule.after == "plan"} == {"before_validate_from_planned_by_1", "model"}


def test_a_sequence_without_a_state_in_between_comes_from_the_one_before():
    root = Sequence(_stage("validate"), Step("tests.sample:add"), _stage("plan"), _stage("model"), _stage("format"))
    changed = hooked(root, read_hooks({"planned": note}))
    (behind,) = [node for node in changed.sequence if node.name == "plan"]
    assert transition_of(f"plan/{behind.sequence[0].name}") == ("validated", "planned")


def test_hooks_stand_in_yaml_beside_pipelines_and_run_before_those_of_the_settings(ask, tmp_path):
    text = "planned:\n  - {step: 'tests.protocols.requests.test_hooks:note', timeout_s: 5}\n"
    text += "  - tests.protocols.requests.test_hooks:note\n"
    (tmp_path / "hooks.yaml").write_text(text)
    ask({"pipelines": str(tmp_path), "hooks": {"processing": "tests.protocols.requests.test_hooks:note"}})
    assert SEEN[:2] == [("validated", "planned")] * 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("received: tests.protocols.requests.test_hooks:note", r"hooks.yaml.*no hook can stand before 'received'"),
        ("planned: {step: 7}", r"hooks.yaml.*hook before 'planned'"),
        ("- planned", r"hooks.yaml:1:1.*expected a mapping, found list"),
        ("planned: [x", r"hooks.yaml:2:1: not YAML"),
    ],
)
def test_a_mistake_in_hooks_yaml_is_said_with_the_file(text, says):
    with pytest.raises(InvalidDefinition, match=says):
        hooks_from(text, "hooks.yaml")


def test_a_request_with_hooks_of_its_own_holds_the_permits_that_any_other_holds():
    settings = Settings(user="ada")
    with_hooks = workflow_of(settings, {"planned": note})
    assert with_hooks.name != "ask" and with_hooks.quotas == workflow_of(settings).quotas == {"request": 1}
