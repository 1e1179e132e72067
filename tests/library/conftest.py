"""The level of the sandbox that a test runs at."""

from __future__ import annotations

import pytest

from podium.protocols.library import sandbox


@pytest.fixture
def level(request):
    if request.param not in sandbox.levels():
        pytest.skip(f"'{request.param}' does not hold on this machine")
    return request.param
