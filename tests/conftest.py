"""Options and fixtures that the tests share."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=500, help="seeds of the simulated storm (tests/test_simulation.py)")
