"""Options and fixtures that the tests share."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import settings

from podium.cluster.simulation.cluster import SimulatedWorld

pytest.register_assert_rewrite("tests.support")

settings.register_profile("podium", settings.default, deadline=None)
settings.load_profile("podium")
"""No test fails for the time it takes: machines are shared."""


SPREAD = {"test_mutants.py", "test_simulation.py", "test_model_refusals.py"}
"""Files whose tests may run in several processes at once: they are long, and share nothing."""
LONG = {
    f"test_{name}.py"
    for name in (
        "builtin_tools chaos cli cli_tasks crash_sweep damage database differential docs doctor fairness file_index "
        "fingerprints forgetting holdups hooks inprocess keeper lanes leaving_ray ledger logs marks mcp mcp_faults "
        "mcp_forms mcp_tool model model_refusals model_replays mutants named_tools operation_time passivation postgres "
        "printable ray ray_faults ray_machines ray_scaling ray_session request_tools requests runtime_env sandbox "
        "sandbox_filter simulation steady streams"
    ).split()
}
"""Files that `make test-fast` leaves out: planted bugs, storms, sandboxes, processes, servers that are awaited."""


FIRST = {"test_chaos.py", "test_ray_machines.py", "test_guide.py"}
"""The longest files. They start first, so that none of them is left for one process at the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_configure(config):
    config.addinivalue_line("markers", "faults: the engine is meant to meet a fault of its own")


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--fast") and collection_path.name in LONG else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where several processes run tests (`make test`), those of a file stay in one, with what they share."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return nodeid if Path(file).name in SPREAD else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out the files that are long (tests/conftest.py)")
    parser.addoption(
        "--seeds", type=int, default=150, help="seeds of the simulated storm (tests/promises/test_simulation.py)"
    )


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


@pytest.fixture
def unreadable(monkeypatch):
    """Shards whose journals cannot be opened, with why."""
    shards = {}
    opened = SimulatedWorld.open_journal

    async def open_journal(world, shard):
        if shard in shards:
            raise shards[shard]
        return await opened(world, shard)

    monkeypatch.setattr(SimulatedWorld, "open_journal", open_journal)
    return shards
