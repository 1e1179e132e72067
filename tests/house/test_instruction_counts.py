"""The hot paths cost no more instructions than is on record (benchmarks/guard.py)."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import guard


@pytest.mark.skipif(guard.VERSION not in json.loads(guard.BASELINE.read_text()), reason="no counts of this Python")
def test_exchange_fold_ledger_and_journal_cost_what_is_on_record():
    stored = json.loads(guard.BASELINE.read_text())[guard.VERSION]
    assert guard.problems(guard.measured(), stored) == []


def test_what_becomes_more_expensive_is_named():
    stored = {"fold": 100.0, "ledger": 100.0}
    assert guard.problems({"fold": 104.0, "ledger": 80.0}, stored) == []
    (problem,) = guard.problems({"fold": 120.0, "ledger": 100.0}, stored)
    assert "fold: 120 instructions instead of 100, 20% more" in problem
    assert "run --store" in guard.problems({"journal": 1.0}, stored)[0]
