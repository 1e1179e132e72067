"""Fixtures for the command line and for what reads and repairs data folders."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support import ROOT
from tests.support.commands import run_command
from tests.support.damaged import copy_of, fill, opened

FLOW = """
name: flow
root:
  sequence:
    - tests.sample:add
    - {each: "[input, input]", do: "tests.sample:plain", name: both}
"""


@pytest.fixture
def crashed(tmp_path):
    """A data directory whose last commits are in the log only."""

    async def work():
        journal = await opened(tmp_path / "live")
        await fill(journal)
        copy = copy_of(tmp_path / "live", tmp_path / "crashed")
        await journal.close()
        return copy

    return asyncio.run(work())


@pytest.fixture
def cli(tmp_path):
    """Run `podium` in a folder of its own; returns (exit code, stdout, stderr)."""
    (tmp_path / "flow.yaml").write_text(FLOW)
    (tmp_path / "bad.yaml").write_text("name: bad\nroot: tests.sample:fail\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_CLUSTER": "inprocess", "COLUMNS": "120"}

    def run(*words, stdin=None):
        code, out, err = run_command(words, tmp_path, environment, stdin)
        return code, out.decode(), err.decode()

    run.folder, run.environment = tmp_path, environment
    return run
