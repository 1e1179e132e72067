"""The language: trees built in Python and read from YAML are the same trees."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import podium
from podium import Adaptive, Hierarchy, Parallel, Retry, Rule, Sequence, Step, Workflow, quorum, read_workflow
from podium.protocols.binding import Binding, InvalidOutput
from podium.protocols.errors import InvalidDefinition, InvalidInput
from podium.protocols.protocol import declaration_of, reference
from tests import sample


def test_yaml_and_python_give_equal_trees_and_hashes():
    text = """
    name: brief
    version: "2"
    root:
      sequence:
        - tests.sample:add
        - step: tests.sample:plain
          timeout_s: 2
          retry: {attempts: 4, jitter: false}
          quotas: {llm: 1}
        - parallel:
            a: tests.sample:add
            b: {step: "tests.sample:add", with: {n: input.n}}
          join: quorum(1)
    """
    python = Workflow(
        "brief",
        Sequence(
            sample.add,
            Step(sample.plain, timeout_s=2.0, retry=Retry(attempts=4, jitter=False), quotas={"llm": 1}),
            Parallel({"a": sample.add, "b": Step(sample.add, with_={"n": "input.n"})}, join=quorum(1)),
        ),
        version="2",
    )
    assert read_workflow(text) == python
    assert read_workflow(text).hash == python.hash


def test_json_is_read_too():
    workflow = Workflow("w", Sequence(sample.add))
    assert read_workflow(json.dumps(workflow.to_dict())) == workflow


def steps():
    return st.builds(
        Step,
        st.sampled_from([sample.add, sample.plain, sample.echo]),
        timeout_s=st.none() | st.floats(0.1, 100),
        retry=st.none() | st.builds(Retry, attempts=st.integers(1, 5)),
        quotas=st.none() | st.just({"llm": 2}),
        with_=st.none() | st.just("input.x") | st.just({"n": "task.n"}),
    )


NAMES = st.sampled_from(["a", "b", "c_1", "d-2"])


def branches(nodes):
    return st.dictionaries(NAMES, nodes, min_size=1, max_size=3)


def adaptives(nodes):
    return st.builds(lambda node: Adaptive({"only": node}, start="only", rules=[Rule(to="end")]), nodes)


def composites(nodes):
    return st.one_of(
        st.lists(nodes, min_size=1, max_size=3).map(lambda parts: Sequence(*parts)),
        st.builds(Parallel, branches(nodes), join=st.sampled_from(["all", "any", "settled"])),
        st.builds(lambda node: Parallel(each="input", do=node, limit=2, rest="wait"), nodes),
        st.builds(lambda team: Hierarchy(sample.lead, team=team, max_rounds=3), branches(nodes)),
        adaptives(nodes),
    )


@settings(max_examples=100)
@given(st.recursive(steps(), composites, max_leaves=8))
def test_any_tree_survives_yaml(root):
    workflow = Workflow("w", root)
    again = read_workflow(workflow.to_yaml())
    assert again == workflow
    assert again.hash == workflow.hash


def test_a_sequence_names_its_steps_after_their_protocols():
    names = [node.name for node in Sequence(sample.add, sample.add, sample.plain).sequence]
    assert names == ["add", "add_2", "plain"]


def test_the_hash_changes_with_the_tree_and_only_with_it():
    base = Workflow("w", Sequence(sample.add))
    assert base.hash == Workflow("w", Sequence(Step(sample.add))).hash
    assert base.hash != Workflow("w", Sequence(Step(sample.add, timeout_s=1))).hash


def test_a_function_protocol_is_still_callable():
    assert sample.plain({"n": 1}) == {"n": 2}


def test_declarations_come_from_the_decorator_or_the_class():
    class Heavy(podium.Protocol):
        concurrency = 3
        quotas = {"llm": 2}  # noqa: RUF012
        num_gpus = 1
        resources = {"tpu": 1}  # noqa: RUF012

        def run(self, ctx, input):
            return input

    declared = declaration_of(Heavy)
    assert (declared.name, declared.concurrency, declared.num_gpus) == ("Heavy", 3, 1)
    assert declared.quotas == {"llm": 2}
    assert reference(Heavy).endswith(":test_declarations_come_from_the_decorator_or_the_class.<locals>.Heavy")


def test_a_declaration_out_of_range_is_refused_when_declared():
    with pytest.raises(InvalidDefinition, match=r"protocol .*bad: concurrency: Input should be greater"):

        @podium.protocol(concurrency=0)
        def bad(input):
            return input


def test_models_are_validated_and_dumped_at_the_edge():
    binding = Binding(sample.greet)
    person = binding.read_input({"name": "Ada", "age": "36"})
    assert person == sample.Person(name="Ada", age=36)
    with pytest.raises(InvalidInput, match=r"person\.name: Field required"):
        binding.read_input({"age": 1})
    with pytest.raises(InvalidOutput, match="output: Input should be a valid string"):
        binding.plain_output(3)


def test_an_input_schema_is_checked_before_anything_is_accepted():
    workflow = Workflow("w", Sequence(sample.echo), input=sample.Person)
    workflow.check_input({"name": "Ada"})
    with pytest.raises(InvalidInput, match=r"input\.age: 'x' is not of type 'integer'"):
        workflow.check_input({"name": "Ada", "age": "x"})


def test_without_a_schema_the_first_step_checks():
    with pytest.raises(InvalidInput, match=r"person\.name: Field required"):
        Workflow("w", Sequence(Sequence(sample.greet))).check_input({})


def test_the_published_schema_covers_every_kind_of_node():
    schema = Workflow.model_json_schema(by_alias=True)
    assert {"Step", "Sequence", "Parallel", "Hierarchy", "Adaptive", "Rule", "Retry"} <= set(schema["$defs"])
    assert "with" in schema["$defs"]["Step"]["properties"]


def test_one_function_is_one_protocol():
    """The second declaration would count for both: they have one name."""

    async def step(input):
        return input

    podium.protocol(concurrency=2)(step)
    podium.protocol(concurrency=2)(step)
    with pytest.raises(InvalidDefinition, match="step: its function is a protocol with other settings already"):
        podium.protocol(quotas={"llm": 1})(step)
