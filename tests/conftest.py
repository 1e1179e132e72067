"""Options and fixtures that the tests share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("podium", settings.default, deadline=None)
settings.load_profile("podium")
"""No test fails for the time it takes: machines are shared."""


SPREAD = {"test_mutants.py", "test_simulation.py", "test_model_refusals.py"}
"""Files whose tests may run in several processes at once: they are long, and share nothing."""


def pytest_configure(config):
    config.addinivalue_line("markers", "faults: the engine is meant to meet a fault of its own")
    config.addinivalue_line("markers", "xdist_group(name): where several processes run tests, one has all of a group")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Where several processes run tests (`make test`), one has all that needs Ray: one cluster at a time is enough."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All other tests of a file stay in one process, too, with what they share."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            group, file = super()._split_scope(nodeid), nodeid.partition("::")[0]
            return group if group != nodeid or Path(file).name in SPREAD else file

    return ByFile(config, log) if config.getvalue("dist") == "loadgroup" else None


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
