"""Whoever uses what will go is told so in time, and what was to go by now has gone."""

from __future__ import annotations

import ast
import inspect
import warnings

import pytest

import podium
from podium.protocols.deprecation import deprecated
from tests.support import ROOT
from tests.support.sources import MODULES, parsed


def version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def problem_of(call: ast.Call, now: tuple[int, int]) -> str | None:
    """What is wrong with one call of `deprecated` in the version `now`."""
    keywords = {each.arg: each.value for each in call.keywords}
    given = [keywords.get("since"), keywords.get("goes")]
    if not all(isinstance(each, ast.Constant) for each in given):
        return "since and goes are to be written there as texts"
    since, goes = (version(str(each.value)) for each in given if isinstance(each, ast.Constant))
    if since > now:
        return "it warns already, and says that it does so later"
    if goes <= since:
        return "it goes one minor version after it warns first, or later"
    if since >= (1, 0) and goes[1] != 0:
        return "from 1.0 on things go with a major version"
    return "it was to go by now" if now >= goes else None


def calls_in(tree: ast.Module) -> list[ast.Call]:
    return [each for each in ast.walk(tree) if isinstance(each, ast.Call) and ast.unparse(each.func) == "deprecated"]


def test_whatever_was_to_go_by_this_version_has_gone():
    now = version(podium.__version__)
    sources = [*MODULES, *(ROOT / "podium").glob("*.py")]
    found = {f"{path}:{call.lineno}": problem_of(call, now) for path in sources for call in calls_in(parsed(path))}
    assert {place: problem for place, problem in found.items() if problem} == {}


@pytest.mark.parametrize(
    ("given", "now", "problem"),
    [
        ('since="0.3", goes="0.5"', "0.4", None),
        ('since="0.9", goes="1.0"', "0.9.3", None),
        ('since="0.3", goes="0.5"', "0.5.0", "it was to go by now"),
        ('since="0.3", goes="0.5"', "1.0", "it was to go by now"),
        ('since="0.3", goes="0.3"', "0.3", "it goes one minor version after"),
        ('since="1.2", goes="0.9"', "1.3", "it goes one minor version after"),
        ('since="1.2", goes="2.0"', "1.4", None),
        ('since="1.2", goes="1.4"', "1.3", "with a major version"),
        ('since="0.6", goes="0.8"', "0.5", "says that it does so later"),
        ('since=FIRST, goes="0.8"', "0.5", "as texts"),
        ('since="0.6"', "0.6", "as texts"),
    ],
)
def test_a_deprecation_is_checked_against_the_version(given, now, problem):
    (call,) = calls_in(ast.parse(f'deprecated("`old`", {given}, instead="`new`")'))
    found = problem_of(call, version(now))
    assert found is None if problem is None else problem in str(found)


def old_way(level: int = 1) -> None:
    deprecated("`old_way`", since="0.2", goes="0.4", instead="`new_way`", level=level)


def within() -> None:
    old_way(level=2)


@pytest.mark.parametrize("use", [old_way, within])
def test_the_warning_names_the_line_that_uses_it_and_what_to_write_there(use):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        here = inspect.currentframe()
        use()
        line = here.f_lineno - 1
    assert [(each.filename, each.lineno) for each in told] == [(__file__, line)]
    assert issubclass(told[0].category, DeprecationWarning)
    said = "`old_way` is deprecated since Podium 0.2 and goes with 0.4; use `new_way` instead"
    assert str(told[0].message) == said
