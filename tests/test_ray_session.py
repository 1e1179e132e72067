"""A session's cluster: what it takes for its pillars."""

from __future__ import annotations

import shutil
import subprocess

import psutil
import pytest

from podium.cluster.ray_session import living_pillars


@pytest.fixture
def pillar(tmp_path):
    """A child of this process under the name of Ray's control store."""
    program = tmp_path / "gcs_server"
    program.symlink_to(str(shutil.which("sleep")))
    child = subprocess.Popen([program, "60"])
    yield child
    child.kill()
    child.wait()


def test_a_pillar_that_is_dead_but_unreaped_does_not_count(pillar):
    """It did: each new cluster then seemed to be gone at once, and was left for another, without end."""
    process = psutil.Process(pillar.pid)
    while process.name() != "gcs_server":  # between fork and exec
        pass
    assert process in living_pillars()
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    assert process not in living_pillars()
