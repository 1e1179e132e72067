"""The states of requests: the table, the check of pipelines against it, and states read off tasks."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium import Adaptive, Constant, Hierarchy, Parallel, Rule, Sequence, Step, Workflow
from podium.errors import InvalidDefinition
from podium.protocols.outcomes import Failure, TaskRecord
from podium.protocols.requests import machine
from podium.protocols.requests.machine import STATES, TERMINAL, check_pipeline, is_rollback, may_follow, stage_of
from podium.protocols.requests.pipelines import ask_workflow, read_pipeline, shipped_pipelines
from podium.supervisors.figures.lifecycle import state_of
from podium.supervisors.tasks.events import Cancelled, StepFailed, StepFinished
from podium.supervisors.tasks.fold import apply, begin
from tests import sample

STAGES = ["validate", "plan", "context", "model", "tools", "format"]


def stage(name):
    return Step(sample.echo, name=name)


def straight(*names):
    return Sequence(*(stage(name) for name in names))


def test_the_table_covers_what_the_seed_and_its_pipelines_ask_for():
    assert may_follow("received", "validated") and may_follow("planned", "context_gathering")
    assert may_follow("planned", "processing") and may_follow("tool_execution", "processing")
    assert not may_follow("received", "processing") and not may_follow("validated", "response_formatting")
    assert all(
        may_follow(state, "cancelled") == may_follow(state, "failed") == (state not in TERMINAL) for state in STATES
    )


def test_what_fails_may_go_back_to_a_stable_state_and_to_no_other():
    assert is_rollback("tool_execution", "planned") and may_follow("processing", "validated")
    assert not is_rollback("planned", "processing") and not may_follow("response_formatting", "processing")
    assert not may_follow("completed", "planned")


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("validate", "validated"),
        ("context_query/context/sources/files", "context_gathering"),
        ("tool_execution/tools#2/tool[3]", "tool_execution"),
        ("complex_workflow/model_2/fallback:1", "processing"),
        ("complex_workflow/model/member_1/look", "processing"),
        ("tool_execution/remember", None),
        ("group/fallback:1", None),
        ("group[0]", None),
        ("simple_query/model:undo", None),
        ("simple_query/group:undo/model", None),
        ("modelling", None),
    ],
)
def test_a_step_belongs_to_the_outermost_stage_around_it(path, state):
    assert stage_of(path) == state


def test_shipped_pipelines_make_no_forbidden_transition():
    for name, pipeline in shipped_pipelines().items():
        check_pipeline(pipeline.root, name)
        assert pipeline.name == name


def between(node):
    """A node after the plan, and then the end."""
    return Sequence(stage("validate"), stage("plan"), node, stage("format"))


BAD = [
    (straight("plan", "model", "format"), "begins with 'validate'"),
    (straight("validate", "model", "format"), "from 'validated' to 'processing'"),
    (straight("validate", "plan", "model"), "ends with 'format'"),
    (straight("validate", "plan", "format"), "from 'planned' to 'response_formatting'"),
    (straight("validate", "plan", "model", "context", "format"), "from 'context_gathering' to 'response_formatting'"),
    (Sequence(sample.echo, sample.echo), "without the node 'validate'"),
    (
        Sequence(
            stage("validate"),
            stage("plan"),
            Parallel({"a": straight("model"), "b": straight("context")}),
            stage("format"),
        ),
        "from 'context_gathering' to 'response_formatting'",
    ),
    (
        Sequence(
            stage("validate"),
            stage("plan"),
            Sequence(stage("model"), name="x", fallback=straight("context")),
            stage("format"),
        ),
        "from 'context_gathering' to 'response_formatting'",
    ),
    (
        between(Sequence(stage("model"), name="x", fallback=stage("model"))),  # its path is x/fallback:1
        "from 'planned' to 'response_formatting'",
    ),
    (
        Sequence(
            stage("validate"),
            stage("plan"),
            stage("validate_2"),
            Sequence(stage("validate"), otherwise=Constant(value=1)),
            Sequence(stage("validate"), stage("plan"), fallback=stage("plan")),
            stage("model"),
            stage("format"),
        ),
        "from 'validated' to 'processing'",
    ),
    (between(Parallel(each="input", do=stage("model"), name="x")), "from 'planned' to 'response_formatting'"),
    (between(Parallel(each="input", do=straight("model"), name="x")), "from 'planned' to 'response_formatting'"),
    (
        between(Parallel({"a": straight("other", "model"), "b": sample.echo}, join="any", name="x")),
        "from 'planned' to 'response_formatting'",
    ),
    (
        between(
            Adaptive(
                {"a": straight("other", "model"), "b": sample.echo},
                start="a",
                rules=[Rule(after="a", when="error != null", to="b"), Rule(to="end")],
                name="x",
            )
        ),
        "from 'planned' to 'response_formatting'",
    ),
    (
        Sequence(
            stage("validate"),
            stage("plan"),
            Hierarchy(Step(sample.echo, fallback=straight("tools")), team={"a": sample.echo}),
            stage("format"),
        ),
        "from 'planned' to 'response_formatting'",
    ),
    (
        Sequence(
            stage("validate"),
            stage("plan"),
            Sequence(stage("model"), name="x", otherwise=Constant(value=1)),
            stage("format"),
        ),
        "from 'planned' to 'response_formatting'",
    ),
]


@pytest.mark.parametrize(("root", "says"), BAD, ids=range(len(BAD)))
def test_a_pipeline_that_could_make_a_forbidden_transition_is_refused(root, says):
    with pytest.raises(InvalidDefinition, match=says):
        check_pipeline(root, "bad")


def test_rules_of_an_adaptive_are_followed_everywhere_they_may_lead():
    nodes = dict.fromkeys(STAGES, sample.echo)
    good = [("validate", "plan"), ("plan", "context"), ("context", "model"), ("model", "tools"), ("tools", "model")]
    rules = [Rule(after=a, to=b, when="visits.plan < 9") for a, b in [*good, ("tools", "plan"), ("model", "format")]]
    end = Rule(after="format", to="end")
    check_pipeline(Adaptive(nodes, start="validate", rules=[*rules, end]), "good")
    with pytest.raises(InvalidDefinition, match="from 'validated' to 'processing'"):
        check_pipeline(
            Adaptive(nodes, start="validate", rules=[*rules, Rule(after="validate", to="model"), end]), "bad"
        )
    with pytest.raises(InvalidDefinition, match="to 'context_gathering'"):
        check_pipeline(Adaptive(nodes, start="validate", rules=[*rules, end], jumps=["context"]), "bad")


def test_a_pipeline_of_the_users_is_checked_where_it_is_read_and_where_it_is_used():
    text = (
        "name: mine\nroot: {sequence: [{step: tests.sample:echo, name: plan}, {step: tests.sample:echo, name: format}]}"
    )
    with pytest.raises(InvalidDefinition, match=r"pipeline mine in own.yaml.*begins with 'validate'"):
        read_pipeline(text, "own.yaml")
    with pytest.raises(InvalidDefinition, match="begins with 'validate'"):
        ask_workflow(own={"simple_query": Workflow("mine", straight("plan", "model", "format"))})


def test_hooks_run_before_a_state_is_entered():
    workflow = ask_workflow(hooks={"processing": Step(sample.echo)})
    simple = workflow.root.adaptive["simple_query"]
    (behind,) = [node for node in simple.sequence if node.name == "model"]
    assert [node.name for node in behind.sequence] == ["before_model_from_context_gathering", "entered"]
    with pytest.raises(InvalidDefinition, match="no hook can stand before 'received'"):
        ask_workflow(hooks={"received": Step(sample.echo)})


# properties

names = st.sampled_from([*STAGES, "other"])
leaves = names.map(stage)


def _unique(children):
    seen: dict[str, int] = {}
    for child in children:
        name = child.name or "group"
        seen[name] = seen.get(name, 0) + 1
        count = seen[name]
        yield child.model_copy(update={"name": name if count == 1 else f"{name}_{count}"})


def _with_a_way_out(nodes):
    """An Adaptive that goes on when its first node fails."""
    rules = [Rule(after="one", when="error != null", to="two"), Rule(after="one", to="two"), Rule(to="end")]
    one, two = (node.model_copy(update={"name": None}) for node in nodes)
    return Adaptive({"one": one, "two": two}, start="one", rules=rules)


trees = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=6).map(lambda nodes: Sequence(*_unique(nodes))),
        st.lists(below, min_size=1, max_size=3).map(
            lambda nodes: Parallel({str(node.name): node.model_copy(update={"name": None}) for node in _unique(nodes)})
        ),
        st.tuples(st.lists(below, min_size=1, max_size=3), below).map(
            lambda pair: Sequence(*_unique(pair[0]), fallback=pair[1])
        ),
        st.lists(below, min_size=1, max_size=3).map(
            lambda nodes: Sequence(*_unique(nodes), otherwise=Constant(value=1))
        ),
        st.tuples(st.sampled_from(["[]", "[1]", "[1, 2]"]), below).map(lambda pair: Parallel(each=pair[0], do=pair[1])),
        st.tuples(st.sampled_from(["any", "settled"]), st.lists(below, min_size=1, max_size=3)).map(
            lambda pair: Parallel(
                {str(node.name): node.model_copy(update={"name": None}) for node in _unique(pair[1])}, join=pair[0]
            )
        ),
        below.map(lambda node: node.model_copy(update={"undo": Step(sample.echo)})),
        st.lists(below, min_size=2, max_size=2).map(_with_a_way_out),
    ),
    max_leaves=8,
)
around = st.lists(trees, max_size=3).map(
    lambda nodes: Sequence(*_unique([stage("validate"), stage("plan"), *nodes, stage("model"), stage("format")]))
)


def walked(root, seed, output=lambda path: {}, fails=0.3):
    """The states that a request goes through, with random outcomes of its steps."""
    rng = Random(seed)
    record = TaskRecord("t-1", "w", "1", "hash", {}, "ada", 0, None, "running", 0.0)
    task, _ = begin(record, root)
    states = [state_of(task)]
    for n in range(200):
        if task.outcome is not None or not task.running:
            break  # or what takes it back is parked
        path = rng.choice(list(task.running))
        if rng.random() < 0.02:
            apply(task, Cancelled(float(n), False))
        elif rng.random() < fails:
            failure = Failure("error", "no").at(path, 1)
            apply(task, StepFailed(path, failure, None, float(n)))
        else:
            apply(task, StepFinished(path, output(path), float(n)))
        states.append(state_of(task, states[-1]))
    return [state for at, state in enumerate(states) if at == 0 or state != states[at - 1]]


@settings(max_examples=300)
@given(around, st.integers(0, 1 << 30))
def test_what_passes_the_check_never_makes_a_forbidden_transition(root, seed):
    try:
        check_pipeline(root, "random")
    except InvalidDefinition:
        return
    states = walked(root, seed)
    assert states[0] in ("received", "validated")
    for before, after in itertools.pairwise(states):
        assert may_follow(before, after), states


def _plausible(path, rng):
    name = path.rpartition("/")[2].partition("#")[0]
    calls = [{"tool": "grep", "arguments": {}}] * rng.randrange(3)
    return {
        "route": {"route": {"type": rng.choice(list(shipped_pipelines()))}, "request": {}},
        "plan": {"plan": {"calls": calls}, "request": {}},
        "model": {"text": "x", "calls": calls, "messages": []},
        "team": {"parts": []},
    }.get(name, {"answer": {}, "text": "", "parts": []})


def shipped_walk(seed):
    rng = Random(seed)
    return walked(ask_workflow().root, seed, lambda path: _plausible(path, rng), fails=rng.choice([0.0, 0.1, 0.3]))


def test_the_shipped_pipelines_never_make_a_forbidden_transition():
    seen = set()
    for seed in range(400):
        states = shipped_walk(seed)
        for before, after in itertools.pairwise(states):
            assert may_follow(before, after), (seed, states)
        seen |= set(itertools.pairwise(states))
    assert ("tool_execution", "planned") in seen and ("response_formatting", "completed") in seen
    assert ("tool_execution", "processing") in seen and ("processing", "tool_execution") in seen


def test_a_tree_without_stages_is_no_request():
    assert not machine.has_stages(Sequence(sample.echo, sample.echo))
    assert machine.has_stages(ask_workflow().root)
    assert not machine.has_stages(Hierarchy(sample.echo, team={"model": sample.echo}))
