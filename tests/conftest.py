"""Options and fixtures that the tests share."""

from __future__ import annotations

import logging

import pytest
from hypothesis import settings

settings.register_profile("podium", settings.default, deadline=None)
settings.load_profile("podium")
"""No test fails for the time it takes: machines are shared."""


def pytest_configure(config):
    for marker in (
        "faults: the engine is meant to meet a fault of its own",
        "spread: where several processes run tests, those of this file go to all of them",
        "xdist_group(name): where several processes run tests, one has all of a group",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items):
    """Where several processes run tests (`make test`), one has all that needs Ray, which is one cluster at a time then,
    and a file stays in one process with what its tests share."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not item.get_closest_marker("spread"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=500, help="seeds of the simulated storm (tests/test_simulation.py)")


class _Faults(logging.Handler):
    """What the engine says of its own faults and of tasks that stall, in this process."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "a fault of Podium's" in text or "stalls:" in text:
            self.said.append(text)


@pytest.fixture(autouse=True)
def no_faults_of_ours(request):
    """A test in which the engine met a fault of its own, or a task stalled, fails, whatever came out. In simulations,
    which take the place of the event loop's handler, `Simulation.run` sees to the same."""
    faults = _Faults()
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.addHandler(faults)
    yield
    asyncio_log.removeHandler(faults)
    expected = request.node.get_closest_marker("faults")
    assert [text for text in faults.said if not expected] == []
