"""What the owner of a shard was doing when its process died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from podium.cluster.store.doing import SIZE_BYTES, Doing

DIES = """
import os, signal, sys
from pathlib import Path
from podium.cluster.store.doing import Doing
doing = Doing(Path(sys.argv[1]))
doing.begin("t-0", 3)
doing.end()
if sys.argv[2]:
    doing.begin(sys.argv[2], 7)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("id", ["", "t-1", "t-1/ ü/" + "x" * 300])
def test_it_outlives_a_process_that_is_killed_and_is_read_once(tmp_path, id):
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "w.doing"), id], check=False)
    assert died.returncode == -signal.SIGKILL
    assert Doing(tmp_path / "w.doing").before == (f"{id} 7" if id else "")
    assert Doing(tmp_path / "w.doing").before == ""


@pytest.mark.parametrize("content", [b"", b"x", bytes(SIZE_BYTES), b"\xff" * SIZE_BYTES, b"\xff" * 100_000])
def test_whatever_the_file_holds_it_is_opened(tmp_path, content):
    (tmp_path / "w.doing").write_bytes(content)
    doing = Doing(tmp_path / "w.doing")
    assert doing.before == ""
    doing.begin("t-1", 1)
    assert os.stat(tmp_path / "w.doing").st_size == SIZE_BYTES


def test_an_id_that_is_too_long_is_cut_and_harms_nothing(tmp_path):
    Doing(tmp_path / "w.doing").begin("x" * 10_000, 1)
    assert Doing(tmp_path / "w.doing").before == "x" * 4000 + " 1"
