"""The first two hits of every point of the crash sweep, and one in the middle; `make sweep` takes them all."""

from __future__ import annotations

import pytest

from tests.support.sweep import POINTS, Sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def hits(sweep):
    return sweep.hits()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS)
def test_an_abort_loses_nothing_and_repeats_nothing_recorded(sweep, hits, point):
    for hit in sorted({1, 2, hits[point] // 2}):
        sweep.check(point, hit)
