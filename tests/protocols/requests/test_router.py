"""The router of requests: what decides first, why it says so, and how good the shipped scorer is."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium.protocols.errors import InvalidDefinition, InvalidInput, InvalidSetting
from podium.protocols.requests.complexity import Signs, complexity_of, main_signs, signs_of
from podium.protocols.requests.request import REQUEST_TYPES, Attachment, Request
from podium.protocols.requests.router import SHIPPED_RULES, Route, Router, Rule
from podium.protocols.requests.scorer import (
    Example,
    NaiveBayes,
    evaluate,
    evaluate_held_out,
    report_on,
    shipped_examples,
    shipped_scorer,
)

HARD = (
    "Go through every service, list its outgoing calls, then compare them across teams, draw the graph, "
    "and finally write a plan based on what you found."
)
NOTE = Attachment(name="note.txt", text="42")


class Fixed:
    """A scorer that always says the same."""

    def __init__(self, **scores):
        self.given = scores
        self.asked = 0

    def scores(self, request):
        self.asked += 1
        return self.given


def route(text="what is a fish?", router=None, **fields) -> Route:
    return (router or Router()).route(Request(text=text, **fields))


def rule(when, type="streaming", name="mine") -> Rule:
    return Rule(when=when, type=type, name=name)


def test_a_type_that_the_request_names_comes_before_rules_and_complexity():
    found = route(HARD, type="simple_query", stream=True, tools=("grep",))
    assert (found.type, found.decided_by) == ("simple_query", "explicit")
    assert found.why == "the request asks for simple_query itself"


def test_a_rule_comes_before_complexity_and_scorer():
    scorer = Fixed(simple_query=1.0)
    found = route(HARD, Router(scorer=scorer), tools=("grep",))
    assert (found.type, found.decided_by) == ("tool_execution", "rule")
    assert scorer.asked == 0
    assert found.why == "the rule 'tools named' says so (`size(tools) > 0`)"


def test_complexity_over_the_limit_comes_before_what_the_scorer_says():
    found = route(HARD, Router(scorer=Fixed(simple_query=1.0)))
    assert (found.type, found.decided_by) == ("complex_workflow", "complexity")
    assert found.complexity > 0.8
    assert found.scores["simple_query"] == 1.0
    assert "is over 0.80, mostly for" in found.why


def test_a_complexity_limit_of_one_leaves_it_to_the_scorer():
    assert route(HARD, Router(scorer=Fixed(simple_query=1.0), complexity_limit=1.0)).type == "simple_query"


def test_the_scorer_decides_when_nothing_else_does_and_names_what_led_it():
    found = route("Run the unit tests and show me the failures")
    assert (found.type, found.decided_by) == ("tool_execution", "scorer")
    assert found.why.startswith("the scorer gives tool_execution 0.")
    assert "mostly for '" in found.why


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({}, "simple_query", "neither root nor session"),
        ({"root": "/srv/project"}, "context_query", "the request has a root"),
        ({"session": "s-1"}, "context_query", "the request has a session"),
    ],
)
def test_a_scorer_of_two_minds_falls_back_by_what_context_there_is(fields, kind, reason):
    torn = Fixed(tool_execution=0.35, streaming=0.33, simple_query=0.32)
    found = route("hm", Router(scorer=torn, min_margin=0.1), **fields)
    assert (found.type, found.decided_by) == (kind, "fallback")
    assert "of two minds (tool_execution 0.35, streaming 0.33" in found.why
    assert reason in found.why


def test_a_margin_of_zero_never_falls_back():
    torn = Fixed(tool_execution=0.5, streaming=0.5)
    assert route("hm", Router(scorer=torn, min_margin=0.0)).decided_by == "scorer"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"stream": True}, "streaming"),
        ({"tools": ("count",)}, "tool_execution"),
        ({"text": "what is this?", "attachments": (NOTE,)}, "context_query"),
        ({"stream": True, "tools": ("count",)}, "streaming"),
    ],
)
def test_the_shipped_rules_decide_what_is_certain(fields, kind):
    found = route(**fields)
    assert (found.type, found.decided_by) == (kind, "rule")


def test_attachments_with_a_longer_text_are_left_to_the_scorer():
    text = "Compare the two files that come with this by price and by date and tell me which is newer please"
    assert route(text, attachments=(NOTE,)).decided_by != "rule"


def test_own_rules_come_before_the_shipped_ones_in_their_order():
    router = Router(rules=(rule("stream", "context_query", "one"), rule("stream", "simple_query", "two")))
    found = route(router=router, stream=True)
    assert found.type == "context_query"
    assert "'one'" in found.why


def test_a_rule_sees_every_variable():
    when = (
        "text.startsWith('two') && words == 2 && attachments == 1 && tools == ['grep'] && source == 'mcp' && stream"
        " && session == 's' && root == '/r' && user == 'ann'"
    )
    fields = {"attachments": (NOTE,), "tools": ("grep",), "source": "mcp", "stream": True}
    found = route("two words", Router((rule(when),)), session="s", root="/r", user="ann", **fields)
    assert "'mine'" in found.why


def test_a_session_or_root_that_is_not_there_is_the_empty_text():
    assert route(router=Router((rule("session == '' && root == ''"),))).decided_by == "rule"


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("wordz > 3", r"rules\.mine: `wordz > 3`: .*undeclared reference to 'wordz'; known names: text, words"),
        ("words >", r"rules\.mine: .*Syntax error"),
        ("words + 1", r"rules\.mine: `words \+ 1` gives int, a rule must give bool"),
        ("words == 'three'", r"rules\.mine: .*no matching overload"),
        ("stream" + " || stream" * 300, r"rules\.mine: expression of \d+ bytes, the limit is 2048"),
    ],
)
def test_a_bad_rule_is_an_error_that_names_it_when_the_router_is_built(when, problem):
    with pytest.raises(InvalidDefinition, match=problem):
        Router(rules=(rule(when),))


def test_a_rule_that_cannot_be_evaluated_does_not_hold_and_the_route_says_so():
    found = route(router=Router((rule("tools[0] == 'grep'"),), scorer=Fixed(simple_query=1.0)))
    assert found.type == "simple_query"
    assert "; the rule 'mine' could not be evaluated: " in found.why


@pytest.mark.parametrize("setting", ["complexity_limit", "min_margin"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_limit_outside_zero_to_one_is_refused(setting, value):
    with pytest.raises(InvalidSetting, match=setting):
        Router(**{setting: value})


def test_a_scorer_of_ones_own_is_asked_once_and_its_shares_are_made_to_sum_to_one():
    scorer = Fixed(streaming=3.0, simple_query=1.0)
    found = route(router=Router(scorer=scorer))
    assert (found.type, scorer.asked) == ("streaming", 1)
    assert found.scores == dict.fromkeys(REQUEST_TYPES, 0.0) | {"streaming": 0.75, "simple_query": 0.25}


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ({"poem": 1.0}, "there is no type poem"),
        ({"streaming": -1.0}, r"scores\.streaming: -1 is no share"),
        ({"streaming": float("nan")}, r"scores\.streaming: nan is no share"),
        ({}, "no type has a share"),
    ],
)
def test_a_scorer_that_gives_no_shares_is_an_error(scores, problem):
    with pytest.raises(InvalidInput, match=problem):
        route(router=Router(scorer=Fixed(**scores)))


ROUTER = Router(rules=(rule("text.matches('^stream') && tools[0] == 'x'"),))
TEXTS = st.text(min_size=1, max_size=300) | st.lists(
    st.sampled_from([*HARD.split(), "```", "?", "/etc/hosts", "x.py", "--flag", "\n- ", "1.", "https://a.b/c", "was"]),
    min_size=1,
    max_size=80,
).map(" ".join)
REQUESTS = st.builds(
    Request,
    text=TEXTS,
    attachments=st.lists(st.just(NOTE), max_size=2).map(tuple),
    type=st.none() | st.sampled_from(REQUEST_TYPES),
    stream=st.booleans(),
    session=st.none() | st.text(max_size=5),
    root=st.none() | st.text(max_size=5),
    tools=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    user=st.text(max_size=5),
)


@settings(max_examples=150)
@given(request=REQUESTS)
def test_every_request_has_a_route_with_a_reason_and_scores_that_sum_to_one(request):
    found = ROUTER.route(request)
    assert found.type in REQUEST_TYPES
    assert 0.0 <= found.complexity <= 1.0
    assert set(found.scores) == set(REQUEST_TYPES)
    assert sum(found.scores.values()) == pytest.approx(1.0, abs=1e-9)
    assert found.why
    assert ROUTER.route(request) == found


@pytest.mark.alone
@pytest.mark.parametrize(
    "piece", ["a", "-", ".", " x", "a.", "a/", "a_", "and ", "1. x\n", "'a", "```", "https://", "\0"]
)
def test_the_longest_text_of_one_repeated_piece_is_routed_in_less_than_a_second(piece):
    started = time.perf_counter()
    route((piece * 100_000)[:100_000], ROUTER)
    assert time.perf_counter() - started < 1.0


GROWING = (
    "What is a fish?",
    "Refactor the parser.",
    "Refactor the parser and update its tests.",
    "Refactor the whole parser, update its tests, and write a note for the changelog.",
    "First analyse the whole parser, then refactor it, update every test, and write a note based on what changed.",
)


def test_complexity_grows_with_what_is_asked_for():
    scores = [complexity_of(signs_of(text)) for text in GROWING]
    assert scores == sorted(set(scores))
    assert scores[0] < 0.1
    assert scores[-1] > 0.8


COUNTS = st.integers(0, 200)


@given(signs=st.builds(Signs, *[COUNTS] * 7), sign=st.sampled_from(Signs.__slots__), more=COUNTS)
def test_more_of_any_sign_never_lowers_the_complexity(signs, sign, more):
    grown = replace(signs, **{sign: getattr(signs, sign) + more})
    assert 0.0 <= complexity_of(signs) <= complexity_of(grown) < 1.0


@pytest.mark.parametrize("sign", Signs.__slots__)
def test_one_sign_alone_makes_nothing_complex(sign):
    assert complexity_of(replace(Signs(0, 0, 0, 0, 0, 0, 0), **{sign: 10_000})) < 0.8


def test_fenced_code_does_not_count():
    code = "\n```\nfor each in all: then = first and every\n```"
    assert signs_of("What is wrong?" + code) == signs_of("What is wrong?")


def test_each_sign_is_counted():
    text = "Build it, then test every part. Why? How?\n- one\n- two"
    assert signs_of(text) == Signs(words=10, clauses=2, verbs=2, questions=1, items=2, scope=1, order=1)


def test_the_main_signs_are_told_in_words():
    assert main_signs(Signs(words=9, clauses=0, verbs=5, questions=0, items=0, scope=2, order=1)) == (
        "5 verbs of work and 2 words of scope"
    )
    assert main_signs(Signs(0, 0, 0, 0, 0, 0, 0)) == "no signs of it"


def few() -> list[Example]:
    return [
        Example(text=text, type=kind)
        for kind in REQUEST_TYPES
        for text in (f"alpha {kind} beta", f"gamma {kind} {kind}", f"delta {kind} epsilon zeta")
    ]


def test_what_was_seen_with_a_type_speaks_for_it():
    scorer = NaiveBayes.train([*few(), Example(text="zebra", type="streaming")])
    scores = scorer.scores(Request(text="zebra"))
    assert max(scores, key=scores.__getitem__) == "streaming"


def test_the_order_of_the_examples_plays_no_part():
    request = Request(text="alpha beta gamma")
    assert NaiveBayes.train(few()).scores(request) == NaiveBayes.train(few()[::-1]).scores(request)


def test_a_type_without_an_example_is_an_error():
    with pytest.raises(InvalidInput, match="there is no example of streaming"):
        NaiveBayes.train(each for each in few() if each.type != "streaming")


@pytest.mark.parametrize("setting", ["smoothing", "temperature"])
def test_training_with_a_setting_of_zero_is_an_error(setting):
    with pytest.raises(InvalidInput, match="both must be above 0"):
        NaiveBayes.train(few(), **{setting: 0.0})


def test_a_scorer_read_back_from_json_gives_equal_scores_for_every_example():
    text = shipped_scorer().to_json()
    copy = NaiveBayes.from_json(text)
    assert copy.to_json() == text
    for each in shipped_examples():
        request = Request(text=each.text)
        assert copy.scores(request) == shipped_scorer().scores(request)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, r"scorer\.version"),
        ({"types": ["streaming"]}, r"scorer\.types: it must list simple_query"),
        ({"counts": {"word": [1, 2]}}, r"scorer\.counts: a list of counts"),
        ({"counts": {"word": [1, 2, 3, 4, -5]}}, r"scorer\.counts\.word\.4"),
        ({"temperature": 0}, r"scorer\.temperature"),
    ],
)
def test_a_stored_scorer_that_does_not_fit_is_an_error_with_the_place(change, problem):
    stored = json.loads(NaiveBayes.train(few()).to_json())
    with pytest.raises(InvalidInput, match=problem):
        NaiveBayes.from_json(json.dumps(stored | change))


def test_what_is_no_json_is_an_error():
    with pytest.raises(InvalidInput, match="Invalid JSON"):
        NaiveBayes.from_json("{")


def test_the_explanation_adds_up_to_the_lead_of_the_winner():
    request = Request(text="Please count the lines in src/main.py")
    scorer = shipped_scorer()
    scores = scorer.scores(request)
    lead = [value for value in scores.values() if value != max(scores.values())]
    parts = scorer.explain(request)
    amounts = [abs(amount) for _, amount in parts]
    assert amounts == sorted(amounts, reverse=True)
    assert {"prior", "count", "lines"} <= {name for name, _ in parts}
    assert sum(amount for _, amount in parts) == pytest.approx(_log_lead(max(scores.values()), lead))


def _log_lead(winner, others):
    return math.log(winner) - sum(map(math.log, others)) / len(others)


def test_a_report_counts_right_and_wrong_by_type():
    report = report_on(
        [("streaming", "streaming"), ("streaming", "simple_query"), ("simple_query", "simple_query")],
    )
    assert report.examples == 3
    assert report.accuracy == pytest.approx(2 / 3)
    assert (report.precision["simple_query"], report.recall["simple_query"]) == (0.5, 1.0)
    assert (report.precision["streaming"], report.recall["streaming"]) == (1.0, 0.5)
    assert (report.precision["tool_execution"], report.recall["tool_execution"]) == (0.0, 0.0)
    assert report.confusion["streaming"]["simple_query"] == 1


def test_cross_validation_judges_each_example_once_and_does_not_depend_on_their_order():
    report = evaluate(few(), folds=3)
    assert report.examples == len(few())
    assert sum(sum(row.values()) for row in report.confusion.values()) == len(few())
    assert evaluate(few()[::-1], folds=3) == report


@pytest.mark.parametrize(("folds", "problem"), [(1, "folds: 1 is too few"), (4, "3 of simple_query, 4 folds need 4")])
def test_folds_that_cannot_be_dealt_are_an_error(folds, problem):
    with pytest.raises(InvalidInput, match=problem):
        evaluate(few(), folds=folds)


def test_judging_nothing_is_an_error():
    with pytest.raises(InvalidInput, match="nothing to judge"):
        evaluate_held_out(few())


def test_the_shipped_examples_are_many_balanced_and_unique():
    examples = shipped_examples()
    by_type = {kind: [each for each in examples if each.type == kind] for kind in REQUEST_TYPES}
    sizes = [len(group) for group in by_type.values()]
    assert len(examples) >= 350
    assert min(sizes) >= 65
    assert max(sizes) <= 1.2 * min(sizes)
    assert len({" ".join(each.text.casefold().split()) for each in examples}) == len(examples)
    assert all(sum(each.split == "test" for each in group) >= 20 for group in by_type.values())


def test_no_two_shipped_examples_of_six_words_or_more_differ_in_one_word():
    by_length = {}
    for each in shipped_examples():
        words = each.text.casefold().split()
        by_length.setdefault(len(words), []).append(words)
    for length, group in by_length.items():
        for place, one in enumerate(group if length >= 6 else []):
            for other in group[place + 1 :]:
                assert sum(a != b for a, b in zip(one, other, strict=True)) > 1, " ".join(one)


def test_the_shipped_scorer_is_trained_once_and_without_the_test_split():
    scorer = shipped_scorer()
    assert scorer is shipped_scorer()
    assert sum(scorer.texts) == sum(each.split == "train" for each in shipped_examples())


@pytest.mark.alone
def test_training_the_shipped_scorer_takes_a_moment():
    """About as long as a loop of a million turns, some 50 ms, so it can be done whenever a process starts."""
    examples = shipped_examples()

    def loop():
        total = 0
        for n in range(1_000_000):
            total += n

    assert quickest(lambda: NaiveBayes.train(examples)) < 3 * quickest(loop)


def quickest(work):
    """Seconds that it takes at the best of five times."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def test_at_least_nine_of_ten_held_out_examples_get_their_type():
    """Measured once, after the features were settled: 106 of 113 (0.938), lowest recall 0.83 (simple_query)."""
    report = evaluate_held_out(shipped_examples())
    assert report.examples >= 80
    assert report.accuracy >= 0.91
    assert min(report.recall.values()) >= 0.78


def test_at_least_six_of_seven_get_their_type_in_cross_validation():
    """Measured on the train split: 0.893. It is below the held-out figure, and the more careful of the two."""
    report = evaluate(each for each in shipped_examples() if each.split == "train")
    assert report.accuracy >= 0.87


def test_complexity_takes_no_shipped_example_from_another_type():
    for each in shipped_examples():
        if complexity_of(signs_of(each.text)) > 0.8:
            assert each.type == "complex_workflow", each.text


def test_the_shipped_rules_have_names_of_their_own():
    assert len({each.name for each in SHIPPED_RULES}) == len(SHIPPED_RULES)
