"""Options and fixtures that the tests share."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("podium", settings.default, deadline=None)
settings.load_profile("podium")
"""No test fails for the time it takes: machines are shared."""


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=500, help="seeds of the simulated storm (tests/test_simulation.py)")
