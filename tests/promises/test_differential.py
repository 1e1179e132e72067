"""The engine against an interpreter of the documentation; support/differential.py has both, and takes more trees."""

from __future__ import annotations

import pytest

from tests.support.differential import case, differences, expected, real, simulated


@pytest.mark.parametrize("first", range(0, 1_000, 50))
def test_random_trees_over_odd_values_come_out_as_documented(first):
    assert differences(list(range(first, first + 50)), simulated) == []


def test_so_they_do_in_real_time():
    assert differences(list(range(1_000, 1_060)), real("inprocess")) == []


def test_the_trees_are_worth_it():
    """Most complete or fail for many reasons; few are trivial."""
    outcomes = [expected(*case(seed)) for seed in range(500)]
    codes = {outcome[1] for outcome in outcomes if outcome[0] == "failed"}
    assert 0.3 < sum(outcome[0] == "ok" for outcome in outcomes) / len(outcomes) < 0.9
    assert codes >= {"error", "expression", "too_few"}
    assert len(codes) >= 7
