"""Every kind of bad definition is refused with a message that names the place."""

from __future__ import annotations

import pytest

import podium
from podium import Adaptive, Hierarchy, Parallel, Rule, Sequence, Step, Workflow, read_workflow
from podium.protocols.errors import InvalidDefinition
from tests import sample

A = "tests.sample:add"
CASES = {
    "unknown module": (
        "name: w\nroot:\n  sequence:\n    - nosuch.module:fn\n",
        r"^f\.yaml:4:7: root\.sequence\[0\]\.step: unknown protocol: no module 'nosuch\.module'",
    ),
    "unknown protocol": (
        f"name: w\nroot:\n  sequence:\n    - {A}\n    - step: tests.sample:ad\n",
        r"^f\.yaml:5:7: root\.sequence\[1\]\.step: unknown protocol: .* has no 'ad'; did you mean 'add'\?",
    ),
    "not a protocol": (
        "name: w\nroot: tests.sample:Person\n",
        r"^f\.yaml:2:1: root\.step: unknown protocol: 'tests\.sample:Person' is not a protocol",
    ),
    "not a reference": (
        "name: w\nroot: add\n",
        r"^f\.yaml:2:1: root\.step: 'add' is not of the form module:name",
    ),
    "unreachable node": (
        f"name: w\nroot:\n  adaptive:\n    a: {A}\n    b: {A}\n  start: a\n  rules: [{{to: end}}]\n",
        r"^f\.yaml:5:5: root\.adaptive\.b: unreachable: no rule leads to 'b'",
    ),
    "rule with wrong types": (
        f"name: w\nroot:\n  adaptive:\n    a: {A}\n  start: a\n  rules:\n    - when: 1 + 'a' == 2\n      to: end\n",
        r"^f\.yaml:7:7: root\.rules\[0\]\.when: `1 \+ 'a' == 2`: 1:3: found no matching overload",
    ),
    "rule with an unknown name": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: a\n  rules: [{{when: outptu.x > 1, to: end}}]\n",
        r"root\.rules\[0\]\.when: .*undeclared reference to .outptu.*known names: input, output, task",
    ),
    "rule that is not a condition": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: a\n  rules: [{{when: size(outputs), to: end}}]\n",
        r"gives int, a condition must give bool",
    ),
    "rule to nowhere": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: a\n  rules: [{{to: b}}, {{to: end}}]\n",
        r"^f\.yaml:5:\d+: root\.rules\[0\]\.to: no node 'b'; there are a and end",
    ),
    "rule that can never match": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: a\n  rules: [{{to: end}}, {{after: a, to: a}}]\n",
        r"root\.rules\[1\]: can never match: the earlier rule to 'end' always does",
    ),
    "missing end": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: a\n  rules: [{{to: a}}]\n",
        r"root\.rules: missing end: no rule leads to 'end'",
    ),
    "cycle without an end": (
        f"name: w\nroot:\n  adaptive: {{a: {A}, b: {A}, c: {A}}}\n  start: c\n"
        f"  rules: [{{after: a, to: b}}, {{after: b, to: a}}, {{after: c, when: output.x, to: a}}, {{to: end}}]\n",
        r"root\.adaptive\.a: cycle without an end: a → b → a",
    ),
    "unknown start": (
        f"name: w\nroot:\n  adaptive: {{a: {A}}}\n  start: z\n  rules: [{{to: end}}]\n",
        r"root\.start: no node 'z'; there are a",
    ),
    "reserved name": (
        f"name: w\nroot:\n  adaptive: {{end: {A}}}\n  start: end\n  rules: [{{to: end}}]\n",
        r"root\.adaptive: 'end' is where rules lead",
    ),
    "duplicate key": (
        "name: w\nname: v\nroot: " + A,
        r"^f\.yaml:2:1: duplicate key 'name' \(first in line 1\)",
    ),
    "duplicate name": (
        f"name: w\nroot:\n  sequence:\n    - {{name: x, step: '{A}'}}\n    - {{name: x, step: '{A}'}}\n",
        r"^f\.yaml:2:1: root: the name 'x' is given to 2 nodes of one sequence",
    ),
    "alias": (
        f"name: w\nroot:\n  sequence: [&a {{step: '{A}'}}, *a]\n",
        r"^f\.yaml:3:\d+: aliases are not allowed \(\*a\)",
    ),
    "tag": ("name: !!python/object:os.system x\nroot: " + A, r"^f\.yaml:1:7: .*python/object"),
    "own tag": ("name: !thing x\nroot: " + A, r"^f\.yaml:1:7: tags are not allowed \(!thing\)"),
    "second document": (f"name: w\nroot: {A}\n---\nname: v\n", r"a second document"),
    "unknown setting": (
        f"name: w\nroot:\n  step: {A}\n  timout_s: 3\n",
        r"^f\.yaml:4:3: root\.timout_s: unknown key `timout_s`; did you mean `timeout_s`\?$",
    ),
    "bad number": (
        f"name: w\nroot: {{step: '{A}', timeout_s: -1}}\n",
        r"^f\.yaml:2:\d+: root\.timeout_s: Input should be greater than 0",
    ),
    "two kinds": (
        f"name: w\nroot: {{step: '{A}', sequence: []}}\n",
        r"root: a node has exactly one of the keys step, sequence",
    ),
    "no kind": ("name: w\nroot: {}\n", r"root: a node has exactly one of the keys"),
    "empty sequence": (
        "name: w\nroot: {sequence: []}\n",
        r"root\.sequence: Tuple should have at least 1 item",
    ),
    "bad with": (
        f"name: w\nroot: {{step: '{A}', with: {{x: inptu.a}}}}\n",
        r"^f\.yaml:2:\d+: root\.with\.x: `inptu\.a`: .*undeclared reference",
    ),
    "bad join": (
        f"name: w\nroot: {{parallel: {{a: '{A}'}}, join: most}}\n",
        r"root\.join: String should match",
    ),
    "quorum too high": (
        f"name: w\nroot: {{parallel: {{a: '{A}'}}, join: quorum(2)}}\n",
        r"root: quorum\(2\) can never be met by 1 branches",
    ),
    "each without do": ("name: w\nroot: {each: input}\n", r"root: give either `parallel`"),
    "team member called lead": (
        f"name: w\nroot: {{hierarchy: '{A}', team: {{lead: '{A}'}}}}\n",
        r"root\.team: 'lead' is the supervising protocol's own name",
    ),
    "name of the workflow": (f"name: w w\nroot: {A}\n", r"^f\.yaml:1:1: name: String should match"),
    "not a mapping": ("- a\n- b\n", r"^f\.yaml:1:1: expected a mapping with `name` and `root`, found list"),
    "empty": ("", r"^f\.yaml: empty"),
    "not YAML": ("name: [", r"^f\.yaml:\d+:\d+: not YAML"),
    "bad schema": (f"name: w\ninput: {{type: 3}}\nroot: {A}\n", r"^f\.yaml:2:1: input: not a JSON Schema"),
    "long expression": (
        f"name: w\nroot: {{step: '{A}', with: \"{'1+' * 1500}1\"}}\n",
        r"root\.with: expression of 3001 bytes, the limit is 2048",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_yaml_names_the_place(case):
    text, message = CASES[case]
    with pytest.raises(InvalidDefinition, match=message):
        read_workflow(text, "f.yaml")


def test_a_large_file_is_refused_before_it_is_parsed():
    with pytest.raises(InvalidDefinition, match="the limit is 1048576"):
        read_workflow("# " + "x" * 2_000_000, "f.yaml")


def test_deep_nesting_is_refused():
    with pytest.raises(InvalidDefinition, match="nested deeper than 200 levels"):
        read_workflow("[" * 300 + "]" * 300, "f.yaml")


def test_a_deep_tree_is_refused():
    node = Step(sample.add)
    for _ in range(60):
        node = Sequence(node)
    with pytest.raises(InvalidDefinition, match="nested deeper than 50 levels"):
        Workflow("w", node)


def test_on_is_text_and_not_a_boolean():
    text = f"name: on\ndescription: yes\nroot: {A}\n"
    assert read_workflow(text).name == "on"
    assert read_workflow(text).description == "yes"


def test_every_flaw_is_listed():
    with pytest.raises(InvalidDefinition) as caught:
        Workflow("w", Sequence(Step(sample.add, with_="nope"), Step("nosuch:x")))
    assert "root.sequence[0].with" in str(caught.value)
    assert "root.sequence[1].step" in str(caught.value)


def two_inputs():
    @podium.protocol
    def add(left, right):
        return left + right


def two_inputs_in_a_class():
    class Add(podium.Protocol):
        def run(self, ctx, left, right):
            return left + right


PYTHON_CASES = [
    (two_inputs, r"add: run takes one input, not 2 \(left, right\); put them in one dict or model"),
    (two_inputs_in_a_class, r"Add: run takes one input, not 2 \(left, right\)"),
    (lambda: Sequence(two_inputs), r"'two_inputs' is a plain function; put @podium\.protocol above it"),
    (lambda: Step(sample.add, timeout_s=0), r"^Step\.timeout_s: Input should be greater than 0"),
    (lambda: Step(sample.add, timeot_s=1), r"^Step\.timeot_s: unknown key `timeot_s`; did you mean `timeout_s`\?$"),
    (lambda: Sequence(sample.add, 3), r"^Sequence\.sequence\[1\]: got an int; pass the protocol, not its call$"),
    (lambda: Parallel({"a b": sample.add}), r"'a b' is not a name"),
    (lambda: Parallel({"a": Step(sample.add, name="b")}), r"node 'a' is also named 'b'"),
    (lambda: Hierarchy(sample.lead, team={}), r"^Hierarchy\.team: Dictionary should have at least 1"),
    (
        lambda: Adaptive({"a": sample.add}, start="a", rules=[]),
        r"^Adaptive\.rules: Tuple should have at least 1",
    ),
    (lambda: Rule(when="true"), r"^Rule\.to: Field required"),
    (lambda: Workflow("w", Sequence("tests.sample:nope")), r"^root\.sequence\[0\]\.step: unknown protocol"),
]


@pytest.mark.parametrize(("build", "message"), PYTHON_CASES, ids=[message for _, message in PYTHON_CASES])
def test_bad_python_names_the_place(build, message):
    with pytest.raises(InvalidDefinition, match=message):
        build()
