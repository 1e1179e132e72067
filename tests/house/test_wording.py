"""What a wrong call is told: which place, what is wrong, and what was probably meant."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from pydantic import BaseModel

import podium
from podium import Adaptive, Breaker, Hierarchy, Parallel, Retry, Sequence, Step, Supervision, Workflow, read_workflow
from podium.cluster.config import Settings
from podium.cluster.loading import load_workflow
from podium.errors import InvalidDefinition, InvalidInput, TaskFailed
from podium.protocols.protocol import declaration_of, resolve
from podium.protocols.wording import keys_at
from podium.supervisors.settings import Governance
from podium.testing import Simulation, simulate

A = "tests.sample:add"


def refused(build):
    with pytest.raises(InvalidDefinition) as caught:
        build()
    return str(caught.value)


# unknown keys


@pytest.mark.parametrize(
    ("build", "place", "near"),
    [
        (lambda: Step(A, timeout=3), "Step.timeout", "timeout_s"),
        (lambda: Step(A, fallbacks=()), "Step.fallbacks", "fallback"),
        (lambda: Sequence(A, timout_s=3), "Sequence.timout_s", "timeout_s"),
        (lambda: Parallel({"a": A}, limits=3), "Parallel.limits", "limit"),
        (lambda: Hierarchy(A, team={"a": A}, maxrounds=3), "Hierarchy.maxrounds", "max_rounds"),
        (lambda: Adaptive({"a": A}, start="a", rules=[{"to": "end"}], max_visit=2), "Adaptive.max_visit", "max_visits"),
        (lambda: Adaptive({"a": A}, start="a", rules=[{"to": "end", "wen": "true"}]), "Adaptive.rules[0].wen", "when"),
        (lambda: Step(A, otherwise={"vale": 1}), "Step.otherwise.vale", "value"),
        (lambda: Workflow("w", A, undo_cancel=True), "Workflow.undo_cancel", "undo_on_cancel"),
        (lambda: Workflow("w", A, supervision={"intensty": 3}), "Workflow.supervision.intensty", "intensity"),
        (lambda: Retry(atempts=3), "Retry.atempts", "attempts"),
        (lambda: Breaker(failurerate=0.5), "Breaker.failurerate", "failure_rate"),
        (lambda: Supervision(stratgy="one_for_all"), "Supervision.stratgy", "strategy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_key_in_python_is_named_with_the_near_one(build, place, near):
    given = place.rpartition(".")[2]
    assert f"{place}: unknown key `{given}`; did you mean `{near}`?" in refused(build).splitlines()[0]


FILES = {
    "in a sequence": (
        f"name: w\nroot:\n  sequence:\n    - {{step: '{A}', idle_timeout: 3}}\n",
        "f.yaml:4:34: root.sequence[0].idle_timeout: unknown key `idle_timeout`; did you mean `idle_timeout_s`?",
    ),
    "in a branch": (
        f"name: w\nroot: {{parallel: {{a: {{step: '{A}', at_most: true}}}}}}\n",
        "f.yaml:2:49: root.parallel.a.at_most: unknown key `at_most`; did you mean `at_most_once`?",
    ),
    "in a policy": (
        f"name: w\nroot: {{step: '{A}', retry: {{attempt: 2}}}}\n",
        "f.yaml:2:42: root.retry.attempt: unknown key `attempt`; did you mean `attempts`?",
    ),
    "of the workflow": (
        f"name: w\nshard: 2\nroot: '{A}'\n",
        "f.yaml:2:1: shard: unknown key `shard`; did you mean `shards`?",
    ),
    "of with": (
        f"name: w\nroot: {{step: '{A}', wiht: input}}\n",
        "f.yaml:2:34: root.wiht: unknown key `wiht`; did you mean `with`?",
    ),
    "of a kind": (
        f"name: w\nroot: {{paralel: {{a: '{A}'}}}}\n",
        "f.yaml:2:1: root: unknown key `paralel`; did you mean `parallel`? A node has exactly one of the keys",
    ),
    "in JSON": (
        f'{{"name": "w",\n "root": {{"each": "input", "do": {{"step": "{A}", "quota": {{}}}}}}}}',
        "f.yaml:2:63: root.do.quota: unknown key `quota`; did you mean `quotas`?",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_an_unknown_key_in_a_file_is_named_with_the_near_one(case):
    text, message = FILES[case]
    assert refused(lambda: read_workflow(text, "f.yaml")).startswith(message)


def test_a_key_with_nothing_near_lists_what_there_is():
    assert refused(lambda: Step(A, xyzzy=1)).startswith("Step.xyzzy: unknown key `xyzzy`; there are name, with, ")


def test_keys_of_protocols_are_told_too():
    message = refused(lambda: podium.protocol(timeout=3)(lambda value: value))
    assert message.endswith("timeout: unknown key `timeout`; did you mean `timeout_s`?")


def test_keys_are_found_below_unions_lists_and_mappings():
    assert "attempts" in keys_at(Workflow, ("root", "sequence", "sequence", 0, "step", "retry"))
    assert "to" in keys_at(Workflow, ("root", "adaptive", "rules", 2))
    assert keys_at(Workflow, ("nowhere", 3)) == []


# more than one error in a file


def test_each_error_in_a_file_has_its_place():
    text = f"name: w\nroot:\n  sequence:\n    - {{step: '{A}', timout_s: 3}}\n    - {{step: 'x'}}\n    - {{seq: []}}\n"
    first, second, third = refused(lambda: read_workflow(text, "f.yaml")).splitlines()
    assert first.startswith("f.yaml:4:34: root.sequence[0].timout_s: unknown key")
    assert second.startswith("f.yaml:5:8: root.sequence[1].step: 'x' is not of the form module:name")
    assert third.startswith("f.yaml:6:7: root.sequence[2]: a node has exactly one of the keys")


def test_each_flaw_of_a_tree_in_a_file_has_its_place():
    text = "name: w\nroot:\n  parallel:\n    a: tests.sample:adds\n    b: {step: 'nosuch:thing', with: 'inptu'}\n"
    lines = refused(lambda: read_workflow(text, "f.yaml")).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["f.yaml:4:5", "f.yaml:5:31", "f.yaml:5:9"]
    assert "root.parallel.b.step: unknown protocol: no module 'nosuch'" in lines[2]


# no nodes


@podium.protocol
def words(text: str):
    return text.split()


@podium.protocol
def count(text: str):
    return len(text)


class Plain:
    pass


class Kept(podium.Protocol):
    def run(self, input):
        return input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sequence(count("a")), r"Sequence.sequence[0]: got an int; pass the protocol, not its call"),
        (lambda: Sequence(words("a b")), r"Sequence.sequence[0]: got a list; pass the protocol, not its call"),
        (lambda: Sequence([words, count]), r"got a list; pass the protocol, not its call, and several one by one"),
        (lambda: Sequence(words, None), r"Sequence.sequence[1]: got None; pass the protocol, not its call"),
        (lambda: Workflow("w", words("a")), r"Workflow.root: got a list; pass the protocol, not its call"),
        (lambda: Parallel({"a": count("x")}), r"Parallel.parallel.a: got an int; pass the protocol, not its call"),
        (lambda: Parallel(words, count("x")), r"Parallel: got an int; pass the protocol, not its call"),
        (lambda: Parallel(each="input", do=count("x")), r"Parallel.do: got an int; pass the protocol"),
        (lambda: Step(count("x")), r"Step.step: got an int; pass the protocol, not its call"),
        (lambda: Step(A, fallback=[words, 1.5]), r"Step.fallback[1]: got a float; pass the protocol, not its call"),
        (lambda: Step(A, undo=words("x")), r"Step.undo: got a list; pass the protocol, not its call"),
        (lambda: Hierarchy(words("x"), team={"a": A}), r"Hierarchy.hierarchy: got a list; pass the protocol"),
        (lambda: Hierarchy(A, team={"a": words("x y")}), r"Hierarchy.team.a: got a list; pass the protocol"),
        (lambda: Sequence(refused), r"'refused' is a plain function; put @podium.protocol above it"),
        (lambda: Step(refused), r"Step.step: 'refused' is a plain function; put @podium.protocol above it"),
        (lambda: Parallel(refused), r"Parallel: 'refused' is a plain function; put @podium.protocol above it"),
        (lambda: Sequence(Plain), r"'Plain' is a class, but no protocol: derive it from podium.Protocol"),
        (lambda: Sequence({"a": 1}), r"a node has exactly one of the keys"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_node_is_told_once(build, message):
    said = refused(build)
    assert message in said
    assert "Tuple should" not in said and "\n" not in said


def test_in_a_file_nothing_is_said_of_calls():
    said = refused(lambda: read_workflow(f"name: w\nroot: {{sequence: [['{A}']]}}\n", "f.yaml"))
    assert said.startswith("f.yaml:2:19: root.sequence[0]: a node has exactly one of") and said.endswith(
        "this is a list"
    )
    assert "\n" not in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", "it stands above a function, not a str; settings have names"),
        (3, "it stands above a function, not an int"),
        ({"retry": 3}, "it stands above a function, not a dict"),
        (Plain, "'Plain' is a class: derive it from podium.Protocol instead"),
        (Kept, "'Kept' is a protocol as it is"),
        (property(len), "it stands above a function, not a property"),
    ],
    ids=lambda value: repr(value).partition(" object at")[0],
)
def test_what_is_no_function_is_no_protocol(given, message):
    assert message in refused(lambda: podium.protocol(given))
    assert message in refused(lambda: podium.protocol(timeout_s=1)(given))


# a number of attempts


def attempts_declared(target):
    retry = declaration_of(target).retry
    return retry and retry.attempts


def test_a_number_stands_for_a_policy_wherever_one_may_stand():
    @podium.protocol(retry=4)
    def one(n):
        return n

    class Two(podium.Protocol):
        retry = 2

        def run(self, input):
            return input

    assert (attempts_declared(one), attempts_declared(Two)) == (4, 2)
    assert Step(A, retry=5) == Step(A, retry=Retry(attempts=5))
    for text in (
        f"name: w\nroot: {{step: '{A}', retry: 6}}\n",
        f'{{"name": "w", "root": {{"step": "{A}", "retry": 6}}}}',
    ):
        workflow = read_workflow(text)
        assert workflow.root.retry == Retry(attempts=6)
        assert workflow == Workflow("w", Step(A, retry=6)) == read_workflow(workflow.to_yaml())


@pytest.mark.parametrize("wrong", [0, -1, 1001, 2.5, True, float("nan"), "3", "often", 2**70])
def test_what_is_no_number_of_attempts_is_refused(wrong):
    assert refused(lambda: Step(A, retry=wrong)).startswith("Step.retry")
    assert ": retry" in refused(lambda: podium.protocol(retry=wrong)(lambda value: value))


def test_it_is_tried_as_often():
    tried = []

    @podium.protocol(retry=3)
    def fails(n):
        tried.append(n)
        raise ConnectionError("no")

    with pytest.raises(TaskFailed, match="attempt 3"):
        simulate(Workflow("w", fails), [1])
    assert len(tried) == 3


# decorations


@pytest.mark.parametrize("wrong", [{"timeout_s": -1}, {"retry": 0}, {"concurrency": "many"}, {"quotas": {"llm": 0}}])
def test_a_refused_decoration_leaves_nothing_behind(wrong):
    def tried_again(n):
        return n

    refused(lambda: podium.protocol(**wrong)(tried_again))
    target = podium.protocol(timeout_s=5)(tried_again)
    assert declaration_of(target).timeout_s == 5
    assert refused(lambda: podium.protocol(timeout_s=6)(tried_again))


def test_what_a_script_defined_says_to_start_it_again():
    with pytest.raises(LookupError, match=r"module '__main__' has no 'hello': .* start the script again"):
        resolve("__main__:hello")


# inputs


class Document(BaseModel):
    path: str


@podium.protocol
def read(document: Document):
    return document.path


def test_an_input_that_does_not_fit_names_the_workflow():
    async def work(engine):
        workflow = Workflow("documents", Sequence(read))
        with pytest.raises(InvalidInput, match=r"^workflow 'documents': document\.path: Field required$") as caught:
            await engine.submit(workflow, {"paht": 1})
        assert caught.value.workflow == "documents"
        with pytest.raises(InvalidInput, match=r"^workflow 'documents': inputs\[1\]: document\.path: Field required$"):
            await engine.submit_many(workflow, [{"path": "a"}, {}])
        with pytest.raises(InvalidInput, match=r"^workflow 'documents': input\.x: object is not plain data"):
            await engine.submit(workflow, {"x": object()})

    Simulation().run(work)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (2**64, "output: an integer must fit in 64 bits"),
        ([1, -(2**64)], r"output\[1\]: an integer must fit in 64 bits"),
        ({"f": len}, r"output\.f: builtin_function_or_method is not plain data"),
        (object(), "output: object is not plain data"),
    ],
)
def test_the_place_and_the_problem_are_apart(output, said):
    @podium.protocol
    def gives(_):
        return output

    with pytest.raises(TaskFailed, match=f"InvalidOutput: {said}"):
        simulate(Workflow("w", gives), [1])


# files of Python


FLOW = """
import podium

@podium.protocol
def double(n: int):
    return 2 * n

doubling = podium.Workflow("doubling", double)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        "wording_a.py",
        "./wording_b.py",
        "wording_c.py:doubling",
        "./wording_d.py:doubling",
        "below/wording_e.py:doubling",
    ],
)
def test_a_workflow_in_a_file_of_python(folder, source):
    path = folder / source.partition(":")[0]
    path.parent.mkdir(exist_ok=True)
    path.write_text(FLOW)
    for given in (source, str(folder / source)):
        assert load_workflow(given).root.step == f"{path.stem}:double"


def test_a_file_in_a_package_keeps_its_name(folder):
    package = folder / "wording_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flow.py").write_text(FLOW)
    assert load_workflow("wording_package/flow.py").root.step == "wording_package.flow:double"


@pytest.mark.parametrize(
    ("name", "text", "source", "says"),
    [
        ("two", FLOW + "b = podium.Workflow('b', double)\n", "two.py", "2 workflows in it; write two.py:doubling"),
        ("none", "x = 1\n", "none.py", "no workflow in it; a Workflow is needed at module level"),
        ("near", FLOW, "near.py:doublin", "expected a Workflow, found nothing; did you mean 'doubling'?"),
        ("other", FLOW, "other.py:double", "expected a Workflow, found FunctionProtocol"),
        ("broken", "def f(:\n", "broken.py:wf", "does not import: SyntaxError: "),
        ("raises", "1 / 0\n", "./raises.py", "does not import: ZeroDivisionError: division by zero"),
        ("leaves", "raise SystemExit(3)\n", "leaves.py", "does not import: SystemExit: 3"),
        ("json", FLOW, "json.py", "'json' is already another module: give the file another name"),
        ("dots", FLOW, "./dots:doubling", "expected a YAML or JSON file, module:workflow or file.py:workflow"),
        ("dots", FLOW, ".dots:doubling", "expected a YAML or JSON file, module:workflow or file.py:workflow"),
        ("dots", FLOW, "nosuch.py:wf", "No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_from_python_says_what_to_write(folder, name, text, source, says):
    (folder / f"{name if name == 'json' else 'wording_' + name}.py").write_text(text)
    given = source if name == "json" else source.replace(name, f"wording_{name}", 1)
    assert says.replace(f"write {name}", f"write wording_{name}") in refused(lambda: load_workflow(given))


def test_what_supervisors_know_of_the_settings_has_the_same_defaults():
    ours = {each.name: each for each in dataclasses.fields(Governance)}
    assert ours.keys() <= Settings.model_fields.keys()
    blank = Governance()
    for name in ours.keys() - {"config"}:
        assert Settings.model_fields[name].get_default(call_default_factory=True) == getattr(blank, name), name
