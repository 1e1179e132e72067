"""A session's cluster: what it takes for its pillars, and how it is left."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

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


LEAVE = textwrap.dedent(
    """
    import threading, time, podium, ray

    def let_go(references):
        while references:
            references.pop()
            time.sleep(0.0001)

    with podium.connect(data="data", num_cpus=1):
        references = [ray.put(n) for n in range(60_000)]
        threading.Thread(target=let_go, args=[references], daemon=True).start()
    print("still here")
    """
)


@pytest.mark.ray
def test_references_let_go_while_ray_is_left_do_not_end_the_process(tmp_path):
    """They did, silently: also when an engine left a broken cluster to go on in another."""
    done = subprocess.run([sys.executable, "-c", LEAVE], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == "still here\n", done.stderr
