"""Workflows as pictures: the graph, the layout, and the three languages, by example and for random trees."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium import Adaptive, Constant, Hierarchy, Parallel, Rule, Sequence, Step, verdict
from podium.cluster.gateways.pictures.blocks import blocks_of
from podium.cluster.gateways.pictures.dot import dot, quoted
from podium.cluster.gateways.pictures.drawing import drawing_of
from podium.cluster.gateways.pictures.graph import graph_of
from podium.cluster.gateways.pictures.mermaid import escaped, mermaid
from podium.cluster.gateways.pictures.sizes import ROW_WIDTH
from podium.cluster.gateways.pictures.states import place_of, put_states
from podium.cluster.gateways.pictures.svg import svg
from podium.protocols.outcomes import Failure, TaskRecord
from podium.supervisors.tasks.events import StepFailed, StepFinished
from podium.supervisors.tasks.fold import apply, begin
from podium.supervisors.tasks.history import StepRow

A = "flow:act"
EVIL = [
    "<script>alert(1)</script>",
    '"]; end',
    "a|b{c}[d](e)",
    "#34;&lt;&amp;",
    "`**1. x**`",
    '\\" \\n \\',
    "漢字 ✗",
    "\x1b[2J\u202e",
    "%% not a comment",
    "subgraph x",
    "\ufffe\uffff\x85",
]


def graph(root):
    return graph_of(blocks_of(root), "w, version 1")


def names(graph):
    """The lines of a graph as (from, to, label, dashed), by the names of their ends."""
    by_id = {each.id: each.lines[0] for each in (*graph.points, *graph.boxes)}
    return {(by_id[line.source], by_id[line.target], line.label, line.dashed) for line in graph.lines}


# the graph


def test_a_sequence_is_a_chain():
    assert names(graph(Sequence(Step(A, name="a"), Step(A, name="b")))) == {
        ("start", "a", "", False), ("a", "b", "", False), ("b", "end", "", False)
    }  # fmt: skip


def test_a_parallel_is_branches_between_a_fork_and_a_join():
    found = graph(Parallel({"x": Step(A), "y": Sequence(A, A)}, join="any", limit=3))
    assert names(found) >= {("fork", "x", "", False), ("x", "join", "", False), ("fork", "act", "", False)}
    assert names(found) >= {("act", "act_2", "", False), ("act_2", "join", "", False), ("join", "end", "", False)}
    assert found.boxes[0].lines == ["parallel", "3 at a time", "join: any"]


def test_each_says_of_what_and_a_hierarchy_who_assigns():
    found = graph(Parallel(each="input.files", do=Hierarchy(A, team={"m": A}, max_rounds=7, name="team"), name="all"))
    assert [box.lines for box in found.boxes] == [
        ["all (each)", "for each of input.files"], ["team (hierarchy)", "at most 7 rounds"]
    ]  # fmt: skip
    assert names(found) >= {("each", "lead", "each item", False), ("lead", "m", "assigns", False)}
    assert names(found) >= {("m", "lead", "outcome", False), ("lead", "join", "", False)}


ROUTES = Adaptive(
    {"quick": A, "careful": A, "other": A},
    start="quick",
    jumps=("other",),
    rules=[
        Rule(after="quick", when="output.mood == 'unsure'", to="careful"),
        Rule(when="visits.careful > 2", to="end"),
        Rule(after="careful", to="quick"),
        Rule(to="end"),
    ],
)


def test_rules_are_on_the_lines_of_an_adaptive_as_they_are_tried():
    rules = {line for line in names(graph(ROUTES)) if line[2]}
    assert rules == {
        ("quick", "careful", "output.mood == 'unsure'", False),
        ("quick", "end", "visits.careful > 2", False),
        ("quick", "end", "else", False),
        ("careful", "end", "visits.careful > 2", False),
        ("careful", "quick", "else", False),
        ("other", "end", "visits.careful > 2", False),
        ("other", "end", "else", False),
    }
    assert "by goto: other" in graph(ROUTES).boxes[0].lines


def test_fallbacks_are_dashed_and_undo_is_noted():
    fallbacks = (Step(A, name="second", missing="depth"), Step(A, name="third"))
    node = Step(A, name="first", fallback=fallbacks, otherwise=Constant(value={"n": 0}), undo=Step("flow:back"))
    found = graph(Sequence(node, Step(A, name="last")))
    assert names(found) >= {("first", "second", "fails", True), ("second", "third", "fails", True)}
    assert names(found) >= {("third", '{"n": 0}', "fails", True), ('{"n": 0}', "last", "", True)}
    assert ("first", "last", "", False) in names(found)
    texts = {point.lines[0]: point.lines[1:] for point in found.points}
    assert texts["first"] == [A, "undo: flow:back"] and texts["second"] == [A, "without depth"]


def test_what_stands_in_for_a_node_with_others_in_it_begins_at_its_box():
    found = graph(Sequence(Parallel({"x": A, "y": A}, name="p", fallback=Step(A, name="plan_b")), Step(A, name="z")))
    assert ("p (parallel)", "plan_b", "fails", True) in names(found)
    assert f"-> {next(p.id for p in found.points if p.lines[0] == 'plan_b')} " in dot(found)
    assert "ltail=cluster_" in dot(found)


# states


def record(status="running", failure=None):
    return TaskRecord("t-1", "w", "1", "h", None, "u", 0, None, status, 1.0, failure=failure)


def states(root, *rows, status="running", failed_at=None):
    failure = Failure("error", "no", step=failed_at) if failed_at is not None else None
    block = blocks_of(root)
    put_states(block, [StepRow(path, state, 1, 1.0) for path, state in rows], record(status, failure))
    return {each.path or "root": each.state for each in block.walk()}, block


def test_nodes_have_the_states_of_their_runs_and_nodes_around_them_what_follows():
    root = Sequence(Parallel(each="input", do=Step(A, name="x"), name="all"), Step(A, name="b"), Step(A, name="c"))
    found, block = states(root, ("all[0]", "completed"), ("all[1]", "failed"), ("all[2]", "completed"), ("b", "open"))
    assert found == {"root": "open", "all": "completed", "all[]": "failed", "b": "open", "c": ""}
    assert block.children[0].children[0].lines[-1] == "2 of 3 done, 1 failed"


def test_the_failure_of_a_task_marks_all_around_it():
    root = Sequence(Parallel({"x": A, "y": A}, name="p"), Step(A, name="b"))
    found, _ = states(root, ("p/x", "failed"), ("p/y", "completed"), status="failed", failed_at="p/x")
    assert found == {"root": "failed", "p": "failed", "p/x": "failed", "p/y": "completed", "b": ""}


def test_rounds_visits_fallbacks_and_undo_find_their_nodes():
    assert place_of("a[3]/h/lead#12/x#2/fallback:1") == "a[]/h/lead/x/fallback:1"
    root = Sequence(Step(A, name="a", undo=A, fallback=A), Hierarchy(A, team={"m": A}, name="h"))
    found, block = states(
        root, ("a/fallback:1", "open"), ("a:undo", "completed"), ("h", "open"), ("h/lead#1", "completed")
    )
    assert (found["a/fallback:1"], found["h"], found["h/lead"], found["a"]) == ("open", "open", "completed", "")
    assert block.children[0].undoes == {"undo": "flow:act (done)"}


# random trees

leaves = st.builds(Step, st.sampled_from([A, "flow:other"]))


def stood_in(nodes):
    return st.tuples(nodes, st.lists(leaves, max_size=2), st.booleans()).map(
        lambda made: made[0].model_copy(
            update={"fallback": tuple(made[1]), "otherwise": Constant(value=1) if made[2] else None}
        )
    )


def adaptive(nodes):
    children = {f"n{index}": node for index, node in enumerate(nodes)}
    onward = [Rule(after=f"n{i}", when=f"output == {i}", to=f"n{i + 1}") for i in range(len(nodes) - 1)]
    back = [Rule(after=f"n{len(nodes) - 1}", when="input == 1", to="n0")]
    return Adaptive(children, start="n0", rules=[*onward, *back, Rule(to="end")])


def grown(nodes):
    several = st.lists(nodes, min_size=1, max_size=3)
    named = several.map(lambda found: {f"b{n}": node for n, node in enumerate(found)})
    return stood_in(
        st.one_of(
            several.map(lambda found: Sequence(*found)),
            named.map(Parallel),
            nodes.map(lambda node: Parallel(each="input", do=node)),
            named.map(lambda team: Hierarchy(A, team=team)),
            several.map(adaptive),
        )
    )


TREES = st.recursive(leaves, grown, max_leaves=12)


@given(TREES)
@settings(max_examples=60, deadline=None)
def test_ids_are_unique_and_the_ends_of_every_line_exist(root):
    found = graph(root)
    ids = [each.id for each in (*found.points, *found.boxes)]
    assert len(ids) == len(set(ids)) and all(re.fullmatch("[a-z][a-z0-9]*", id) for id in ids)
    points, boxes = {point.id for point in found.points}, {box.id for box in found.boxes}
    assert all(line.source in points | boxes and line.target in points for line in found.lines)
    assert {each.box for each in (*found.points, *found.boxes)} - {None} <= boxes
    assert {box.within for box in found.boxes} <= points
    entered = {line.target for line in found.lines}
    assert points - entered == {"s"}, "everything but the start is led to"


@given(TREES)
@settings(max_examples=60, deadline=None)
def test_blocks_lie_within_those_around_them_and_over_no_others(root):
    block = blocks_of(root)
    drawing = drawing_of(block, "w")
    frames = {frame.block.id: frame for frame in drawing.frames}
    assert len(frames) == len(drawing.frames) == sum(not each.is_bare for each in block.walk())
    for frame in drawing.frames:
        assert frame.x >= 0 and frame.x + frame.width <= drawing.width
        assert frame.y >= 0 and frame.y + frame.height <= drawing.height
    for each in block.walk():
        family = [frames[other.id] for child in each.children for other in (child, *child.instead)]
        for one, other in combinations(family, 2):
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert apart or one.y + one.height <= other.y or other.y + other.height <= one.y
        if not each.is_bare:
            outer = frames[each.id]
            for inner in family:
                assert outer.x <= inner.x and inner.x + inner.width <= outer.x + outer.width
                assert outer.y <= inner.y and inner.y + inner.height <= outer.y + outer.height
    for path in drawing.paths:
        for (x0, y0), (x1, y1) in zip(path.spots, path.spots[1:], strict=False):
            assert abs(x0 - x1) < 0.01 or abs(y0 - y1) < 0.01, "lines go along or down"
            assert min(x0, x1) >= 0 and max(x0, x1) <= drawing.width and max(y0, y1) <= drawing.height


@given(TREES, st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=25))
@settings(max_examples=60, deadline=None)
def test_every_run_of_every_step_is_of_a_block(root, moves):
    places = {block.path for block in blocks_of(root).walk()}
    task, _ = begin(TaskRecord("t-1", "w", "1", "h", [1, 2], "u", 0, None, "running", 1.0), root)
    for choice, works in moves:
        if not task.running:
            break
        path = sorted(task.running)[choice % len(task.running)]
        assert {place_of(each) for each in task.running} <= places
        done = StepFinished(path, verdict.assign() if "lead" in path else [1], 2.0)
        apply(task, done if works else StepFailed(path, Failure("error", "no"), None, 2.0))


# the languages

TEXTS = st.one_of(st.sampled_from(EVIL), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))


@given(TREES)
@settings(max_examples=30, deadline=None)
def test_each_language_has_every_node_and_every_line(root):
    found = graph(root)
    flowchart, digraph = mermaid(found), dot(found)
    assert len(re.findall(r" (-->|-\.->)", flowchart)) == len(re.findall(" -> ", digraph)) == len(found.lines)
    assert flowchart.count("subgraph ") == digraph.count("subgraph ") == len(found.boxes)
    lines = flowchart.splitlines()
    assert sum(line.strip() == "end" for line in lines) == len(found.boxes)
    assert digraph.count("{") == digraph.count("}") == 1 + len(found.boxes)
    elements = ET.fromstring(svg(drawing_of(blocks_of(root), "w")))
    groups = [each.get("id") for each in elements.iter("{http://www.w3.org/2000/svg}g")]
    assert len(groups) == len(set(groups))


def evil(text):
    """A tree that has the text wherever somebody can write one."""
    step = Step(A).model_copy(update={"step": f"m:{text}", "fallback": (Step(A, missing=text),), "undo": Step(A)})
    step = step.model_copy(update={"otherwise": Constant(value=[text], missing=text)})
    rule = Rule.model_construct(after=None, when=text, to="end")
    chosen = Adaptive({"n": step}, start="n", rules=[Rule(to="end")]).model_copy(update={"rules": (rule, Rule(to="n"))})
    each = Parallel(each="input", do=chosen).model_copy(update={"each": text})
    return Sequence(each, A)


TAGS = set("svg title defs marker path rect text g polyline circle".split())
SHAPE = r'(\["L"\]|\[\["L"\]\]|\[/"L"/\]|\(\["L"\]\))'
LABEL = r"(?:[^\W_]|[ _.:,=()+!?'…✓✗‖↻▶⊘]|#\d+;|<br/>)*"
FLOWCHART = re.compile(
    rf"    *(\w+{SHAPE}|subgraph \w+\[\"L\"\]|end|\w+ (-->|-\.->)(\|\"L\"\|)? \w+)".replace("L", LABEL)
)
DIGRAPH = re.compile(
    r'( *)(digraph workflow \{|subgraph \w+ \{|\}|(\w+|\w+ -> \w+)( \[((\w+=([\w.#]+|"([^"\\]|\\.)*")(, )?)*)\])?)'
)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_texts_are_shown_and_never_obeyed(text):
    block = blocks_of(evil(text))
    title = f"w, version {text}"
    flowchart = mermaid(graph_of(block, title)).split("\n")
    assert flowchart[:1] + flowchart[2:4] == ["---", "---", "flowchart TD"] and flowchart[1].startswith('title: "')
    assert not [line for line in flowchart[4:] if not FLOWCHART.fullmatch(line)]
    assert not [line for line in dot(graph_of(block, title)).split("\n") if not DIGRAPH.fullmatch(line)]
    picture = ET.fromstring(svg(drawing_of(block, title)))
    assert {each.tag.partition("}")[2] for each in picture.iter()} <= TAGS
    assert not [name for each in picture.iter() for name in each.attrib if name.startswith("on") or "href" in name]


@pytest.mark.parametrize("text", EVIL[:6])
def test_what_is_escaped_reads_as_it_was(text):
    decoded = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), escaped(text))
    assert decoded == text and not set('<>"`|[]{}&') & set(escaped(text))
    shown = quoted(text)[1:-1].replace("&amp;", "&")
    assert re.sub(r"\\(.)", r"\1", shown) == text


def test_a_long_expression_is_cut_and_says_so():
    found = graph(Parallel(each=" + ".join(["input"] * 30), do=A))
    assert found.boxes[0].lines[1].endswith("input +…")


def test_many_branches_stand_in_rows():
    root = Sequence(A, Parallel({f"branch{n}": A for n in range(200)}), A)
    drawing = drawing_of(blocks_of(root), "w")
    assert drawing.width < ROW_WIDTH + 200 and len(drawing.frames) == 203


def test_a_picture_of_a_task_says_what_its_marks_mean():
    _, block = states(Sequence(Step(A, name="a"), Step(A, name="b")), ("a", "completed"), ("b", "failed"))
    texts = [each.text for each in ET.fromstring(svg(drawing_of(block, "w"), states=True)).iter() if each.text]
    assert [texts.count(mark) for mark in "✓✗▶"] == [2, 2, 1] and "due or running" in texts
    flowchart = mermaid(graph_of(block, "w"))
    assert '"✓ a<br/>' in flowchart and "classDef failed fill:" in flowchart
