"""Seeded storms; see support/storm.py.

pytest tests/promises/test_simulation.py --seeds 20000     for a longer run, `make soak SEEDS=200000` for a long one
"""

from __future__ import annotations

import pytest

from tests.support.seed import last_lines
from tests.support.storm import run_storm

BATCH = 25
"""Seeds per test, so that a failure is found quickly and a run shows progress."""


def pytest_generate_tests(metafunc):
    if "first" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds")
        metafunc.parametrize("first", range(0, seeds, BATCH))


@pytest.mark.parametrize("seed", [1126, 1572])
def test_what_failed_once_does_not_fail_again(seed):
    """A clock that was ahead when a blob was put; a coordinator that was lost twice within a minute."""
    run_storm(seed)


@pytest.mark.timeout(600)
def test_every_accepted_task_finishes_whatever_breaks(first):
    for seed in range(first, first + BATCH):
        try:
            run_storm(seed)
        except BaseException as error:
            told = f"seed {seed}: {type(error).__name__}: {error}"
            raise AssertionError(f"{told}\n{last_lines(seed)}") from error
