"""Every planted bug is noticed by some layer of the tests; see support/mutants.py."""

from __future__ import annotations

import warnings

import pytest

from tests.support.mutants import MUTANTS, is_noticed


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of a test that has failed
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_noticed(mutant, caplog):
    caplog.set_level("CRITICAL", "podium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert is_noticed(mutant), "nobody noticed"
