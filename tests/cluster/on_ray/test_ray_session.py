"""A session's cluster: what it takes for its pillars, and how it is left."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import podium
from podium.cluster.on_ray import joining
from podium.cluster.on_ray.folder import MOST_CHARS, new_folder, remove_folder
from podium.cluster.on_ray.process_locks import ProcessLocks
from podium.cluster.on_ray.session import living_pillars
from podium.errors import EngineClosed, SpawnFailed
from podium.supervisors.ports.world import Needs


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
        references = [ray.put(n) for n in range(15_000)]
        threading.Thread(target=let_go, args=[references], daemon=True).start()
    print("still here")
    """
)


@pytest.mark.ray
def test_references_let_go_while_ray_is_left_do_not_end_the_process(tmp_path):
    """They did, silently: also when an engine left a broken cluster to go on in another."""
    done = subprocess.run([sys.executable, "-c", LEAVE], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == "still here\n", done.stderr


# a start that takes too long


TOO_SLOW = textwrap.dedent(
    """
    import pathlib, sys, podium, psutil, ray
    from ray._private import services

    def get_node(*given, _get=services.get_node):
        folders.append(pathlib.Path("data/ray.folder").read_text())
        if len(folders) <= int(sys.argv[1]):
            raise Exception("The current node timed out during startup.")
        return _get(*given)

    def pillars():
        return sorted(each.name() for each in psutil.Process().children() if each.name() in ("gcs_server", "raylet"))

    folders, services.get_node = [], get_node
    try:
        with podium.connect(data="data", num_cpus=1) as engine:
            engine.status()
            print("up", pillars(), len(set(folders)))
    except Exception as error:
        print(type(error).__name__, pillars(), len(set(folders)))
    assert not any(pathlib.Path(folder).exists() for folder in folders)
    """
)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("slow", "said"), [(1, "up ['gcs_server', 'raylet'] 2\n"), (2, "Exception [] 2\n")], ids=["once", "always"]
)
def test_ray_is_started_again_if_it_was_too_slow_to_start(tmp_path, slow, said):
    command = [sys.executable, "-c", TOO_SLOW, str(slow)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == said, done.stderr


# beside others


OWNER = textwrap.dedent(
    """
    import os, pathlib, stat, sys, podium
    with podium.connect(data="data", num_cpus=1) as engine:
        folder = pathlib.Path("data/ray.folder").read_text()
        mode, sockets = oct(stat.S_IMODE(os.lstat(folder).st_mode)), list(pathlib.Path(folder).rglob("raylet"))
        print(folder, mode, len(sockets), flush=True)
        if len(sys.argv) > 1:
            os.kill(os.getpid(), 9)
    """
)


@pytest.mark.ray
def test_the_session_of_ray_lies_in_a_folder_of_ours_alone_and_goes_with_the_cluster(tmp_path):
    def run(*words):
        done = subprocess.run(
            [sys.executable, "-c", OWNER, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        folder, mode, sockets = done.stdout.split()
        assert (mode, int(sockets) > 0) == ("0o700", True), done.stderr
        return Path(folder)

    assert not run().exists()
    left = run("and die")
    assert left.exists()
    assert run() != left
    assert not left.exists(), "the next owner removes what a crash has left"


def test_only_what_we_made_is_removed(tmp_path):
    (tmp_path / "data").mkdir()
    for name, mode in (("precious", 0o700), ("podium-ray-open", 0o777)):
        other = tmp_path / name
        other.mkdir(mode=mode)
        other.chmod(mode)
        (tmp_path / "data" / "ray.folder").write_text(str(other))
        remove_folder(tmp_path / "data")
        assert other.exists()
        assert not (tmp_path / "data" / "ray.folder").exists()


def test_the_folder_is_short_enough_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = new_folder(tmp_path)
    assert len(str(folder)) <= MOST_CHARS
    folder.mkdir()
    remove_folder(tmp_path)
    assert not folder.parent.exists()


FOREIGN = textwrap.dedent(
    """
    import podium
    from podium import Sequence, Workflow

    @podium.protocol
    async def echo(x): return x

    with podium.connect(data="data", num_cpus=1) as engine:
        print(engine.submit(Workflow("echo", Sequence(echo)), 1).result(timeout_s=60))
    """
)


@pytest.mark.ray
def test_another_ray_that_the_environment_names_is_not_ours(tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:6399"}
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "1\n", done.stderr


def test_nobody_at_the_address_is_said_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(EngineClosed, match=r"cannot join the Ray cluster at .*6399: nobody answers there"):
        podium.connect(data=tmp_path / "data", address="127.0.0.1:6399")
    assert time.monotonic() - began < 30


def test_who_listens_and_is_no_ray_is_said_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "PROBE_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(EngineClosed, match=f"cannot join the Ray cluster at {address}: "):
            joining.check_joinable(address)


@pytest.mark.parametrize(
    "facts, said, reason",
    [
        (
            None,
            "x: Unauthenticated: RPC error: InvalidAuthToken: is missing",
            "it asks for a token: set RAY_AUTH_MODE=token",
        ),
        (None, "", "it does not answer within 10 s as a Ray cluster does"),
        (None, "first\nlast words\n", "last words"),
        ({"ray_version": "2.9.0", "python_version": "3.9.1"}, "", "it runs Ray 2.9.0 on Python 3.9.1, this is Ray"),
    ],
)
def test_why_it_cannot_be_joined_is_one_sentence(monkeypatch, facts, said, reason):
    monkeypatch.setattr(joining, "_ask", lambda _address: (facts, said))
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(EngineClosed) as refused:
        joining.check_joinable(f"127.0.0.1:{server.getsockname()[1]}")
    assert f": {reason}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.ray
def test_a_cluster_of_another_token_is_joined_with_it_and_not_without(tmp_path):
    """A client of another data directory has not the token of the cluster, unless its environment names it."""
    with podium.connect(data=tmp_path / "theirs", num_cpus=1) as engine:
        without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        address = json.loads((tmp_path / "theirs" / "cluster.json").read_text())["address"]
        assert engine.joined is False
        join = f"import podium; podium.connect(data='mine', address='{address}')"
        command, token = [sys.executable, "-c", join], str(tmp_path / "theirs" / "ray.token")
        run = partial(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        done = run(env=without)
        with_token = run(env=without | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token})
    assert with_token.returncode == 0, with_token.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("podium.protocols.errors.EngineClosed: cannot join")
    assert "it asks for a token" in done.stderr


def test_what_fits_no_machine_is_said_with_what_there_is():
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0, "node": 1}}, {"Alive": False, "Resources": {"CPU": 64}}]
    from podium.cluster.on_ray.actors import check_fits

    check_fits("a", Needs(num_cpus=2), nodes)
    check_fits("a", Needs(), nodes)
    with pytest.raises(
        SpawnFailed, match="it needs 64 CPU, 1 GPU, and no machine has that; the most that one has: 2 CPU, 0 GPU"
    ):
        check_fits("a", Needs(num_cpus=64, num_gpus=1), nodes)
    check_fits("a", Needs(num_cpus=64), [])


BUSY = textwrap.dedent(
    """
    import sys, time
    if sys.argv[1] == "computes":
        while True: pass
    time.sleep(60)
    """
)


@pytest.mark.parametrize("does, works", [("computes", True), ("sleeps", False)])
def test_a_process_that_uses_the_processor_works(tmp_path, monkeypatch, does, works):
    child = subprocess.Popen([sys.executable, "-c", BUSY, does])
    try:
        monkeypatch.setattr(ProcessLocks, "process_of", lambda *_: child.pid)
        working = ProcessLocks(tmp_path).working("host")
        time.sleep(0.5)
        assert not working(), "there is nothing to compare with yet"
        time.sleep(1.0)
        assert working() is works
    finally:
        child.kill()
        child.wait()
    assert not working()


def helpers_of_ray():
    return {
        process.pid for process in psutil.process_iter(["name"]) if (process.info["name"] or "").startswith("ray::")
    }


@pytest.mark.ray
def test_nothing_of_ray_outlives_a_driver_that_was_killed_longer_than_to_the_next(tmp_path):
    """Two of Ray's helpers did, for ever."""
    before = helpers_of_ray()
    for words in (["and die"], []):
        subprocess.run([sys.executable, "-c", OWNER, *words], cwd=tmp_path, capture_output=True, timeout=100)
    mine = [psutil.Process(pid) for pid in helpers_of_ray() - before]
    assert [process for process in mine if process.ppid() == 1] == []


TWO = textwrap.dedent(
    """
    import asyncio, podium
    from podium import Sequence, Workflow

    @podium.protocol
    async def nap(s):
        await asyncio.sleep(s)
        return s

    flow = Workflow("naps", Sequence(nap))
    first = podium.connect(data="first", num_cpus=1)
    second = podium.connect(data="second")
    assert first.submit(flow, 0).result(timeout_s=60) == second.submit(flow, 0).result(timeout_s=60) == 0
    task = second.submit(flow, 2)
    first.close()
    print(task.result(timeout_s=60), second.submit(flow, 1).result(timeout_s=60))
    second.close()
    """
)

LEFT = textwrap.dedent(
    """
    import asyncio, podium, time
    from podium import Sequence, Workflow

    @podium.protocol
    async def nap(s):
        await asyncio.sleep(s)
        return s

    flow = Workflow("naps", Sequence(nap))
    owner, other = podium.connect(data="d", num_cpus=1), podium.connect(data="d")
    task = other.submit(flow, 50)
    owner.close()
    began = time.monotonic()
    try:
        task.result(timeout_s=100)
    except podium.errors.EngineClosed as error:
        print(error, time.monotonic() - began < 10)
    other.close()
    """
)


@pytest.mark.ray
def test_an_engine_of_the_same_directory_is_told_that_the_one_that_owned_it_has_left(tmp_path):
    done = subprocess.run([sys.executable, "-c", LEFT], cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert (done.stdout, done.returncode) == ("the cluster was shut down: connect again; tasks are kept True\n", 0), (
        done.stderr
    )


@pytest.mark.ray
def test_the_engine_that_started_ray_leaves_and_the_other_of_the_process_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", TWO], cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert (done.stdout, done.returncode) == ("2 1\n", 0), done.stderr
    assert not (tmp_path / "first" / "ray.folder").exists()


LOOKS = """
import os, socket, sys
for place in sys.argv[1:]:
    for reach in (os.listdir, lambda place: os.symlink("/etc/hostname", f"{place}/debug_state.txt")):
        try:
            reach(place)
        except PermissionError:
            continue
        print("reached", place)
"""


@pytest.mark.ray
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_of_the_machine_gets_nowhere():
    with tempfile.TemporaryDirectory() as data:
        os.chmod(data, 0o755)
        with podium.connect(data=data, num_cpus=1):
            folder = Path(data, "ray.folder").read_text()
            assert os.listdir(f"{folder}/r/session_latest/logs")
            places = [folder, f"{folder}/r", f"{folder}/r/session_latest/logs", f"{data}/sockets"]
            command = ["/usr/bin/env", "python3", "-c", LOOKS, *places]
            done = subprocess.run(command, capture_output=True, text=True, user=65534, cwd="/", timeout=60)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
