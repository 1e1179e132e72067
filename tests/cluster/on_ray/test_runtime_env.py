"""Environments of hosts on a real Ray, with a real pip. One cluster serves all; pip works while other tests run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import sysconfig
import threading
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RuntimeEnvSetupError

import podium
from podium import Sequence, Workflow
from podium.cluster.on_ray.environments import why_not_ready
from podium.errors import InvalidDefinition, SpawnFailed
from podium.protocols.environment import PACKAGE
from podium.supervisors.ports.world import Environment, Needs
from tests import sample
from tests.support.processes import pid_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
TINY = "roman==5.2"
"""A package of one module, which nothing here needs."""
NOWHERE = "no-such-package-of-podium==9"


@podium.protocol(runtime_env={"pip": [TINY]})
def roman_numeral(n):
    import roman

    return {"text": roman.toRoman(n), "prefix": sys.prefix, "made": os.stat(sys.prefix).st_ino, "pid": os.getpid()}


@podium.protocol
def without_environment(n):
    import importlib.util

    return {"roman": importlib.util.find_spec("roman") is not None, "hue": os.environ.get("PODIUM_TEST_HUE")}


@podium.protocol(runtime_env={"env_vars": {"PODIUM_TEST_HUE": "teal"}})
def hue(n):
    return os.environ["PODIUM_TEST_HUE"]


def in_folder(**environment):
    @podium.protocol(name="inside", runtime_env=environment)
    def inside(n):
        import inner_of_podium_test

        return {"x": inner_of_podium_test.X, "cwd": os.getcwd(), "pid": os.getpid()}

    return inside


@pytest.fixture(scope="module")
def small_python(tmp_path_factory):
    """A virtual environment that borrows all packages of this one. Ray copies the one in which it runs for each pip."""
    folder = tmp_path_factory.mktemp("small")
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = sysconfig.get_path("purelib")
    own = sysconfig.get_path("purelib", "venv", {"base": folder, "platbase": folder})
    (Path(own) / "borrowed.pth").write_text(f"import site; site.addsitedir({packages!r})\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_python):
    data = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(small_python))
        with podium.connect(data=data, num_cpus=2, runtime_env_timeout_s=150) as engine:
            yield engine


class Index(ThreadingHTTPServer):
    """An index of packages that has none, and answers pip only when it is released."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.released = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def options(self):
        return ["--index-url", f"http://127.0.0.1:{self.server_port}/simple", "--retries", "0", "--timeout", "100"]


class Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self):
        self.server.asked.set()
        self.server.released.wait(100)
        self.send_error(404)

    def log_message(self, format, *args):
        """Print nothing."""


@pytest.fixture(scope="module")
def index():
    with Index() as index:
        yield index
        index.released.set()
        index.shutdown()


@pytest.fixture(scope="module", autouse=True)
def pips(engine, index):
    """Deployments for which pip works, in the background from the first test on."""

    @podium.protocol(runtime_env={"pip": {"packages": [NOWHERE], "pip_install_options": index.options}})
    def needs_what_is_nowhere(n):
        return n

    def timed(protocol, name):
        began_at = time.monotonic()
        try:
            return engine.submit(Workflow(name, Sequence(protocol)), 14).result(timeout_s=200)
        except SpawnFailed as error:
            return SimpleNamespace(error=error, took_s=time.monotonic() - began_at)

    with ThreadPoolExecutor(2) as pool:
        good, bad = pool.submit(timed, roman_numeral, "good"), pool.submit(timed, needs_what_is_nowhere, "bad")
        yield SimpleNamespace(good=good, bad=bad)


def run(engine, protocol, name):
    return engine.submit(Workflow(name, Sequence(protocol)), 1).result(timeout_s=60)


def test_other_workflows_go_on_while_pip_waits_for_its_index(engine, pips, index):
    assert index.asked.wait(60)
    assert engine.submit(Workflow("other", Sequence(sample.add)), {"n": 1}).result(timeout_s=60) == {"n": 2}
    assert not pips.bad.done()
    index.released.set()


def test_variables_reach_hosts_of_that_protocol_only(engine):
    assert run(engine, hue, "hue") == "teal"
    assert run(engine, without_environment, "none")["hue"] is None


def test_hosts_run_in_the_working_dir_and_a_changed_file_is_another_version(engine, tmp_path):
    (tmp_path / "inner_of_podium_test.py").write_text("X = 1\n")
    inside = in_folder(working_dir=tmp_path)
    first = run(engine, inside, "folder")
    (tmp_path / "inner_of_podium_test.py").write_text("X = 2\n")
    engine._core._deployed.clear()  # as in another program
    second = run(engine, inside, "folder")
    assert (first["x"], second["x"]) == (1, 2)
    assert len({first["cwd"], second["cwd"], os.getcwd()}) == 3
    assert len(engine.status().workflows["folder"].versions) == 2


def test_a_package_that_ray_has_dropped_is_sent_again(engine, tmp_path):
    from ray._private.runtime_env.packaging import package_exists
    from ray.experimental.internal_kv import _internal_kv_del

    (tmp_path / "inner_of_podium_test.py").write_text("X = 3\n")
    inside = in_folder(working_dir=tmp_path)
    first = run(engine, inside, "dropped")
    (declared,) = (
        engine.workflows()[[each.name for each in engine.workflows()].index("dropped")].definition["protocols"].values()
    )
    uri = f"gcs://podium_{declared['runtime_env']['working_dir'].removeprefix(PACKAGE)}.zip"
    assert package_exists(uri)
    _internal_kv_del(uri)
    os.kill(pid_of(engine, "supervisor/dropped"), signal.SIGKILL)
    second = run(engine, inside, "dropped")
    assert package_exists(uri)
    assert (second["x"], second["cwd"]) == (3, first["cwd"])
    assert second["pid"] != first["pid"]


def test_modules_are_importable_by_name(engine, tmp_path):
    package = tmp_path / "inner_of_podium_test"
    package.mkdir()
    (package / "__init__.py").write_text("X = 4\n")
    found = run(engine, in_folder(py_modules=[package]), "modules")
    assert (found["x"], found["cwd"]) == (4, os.getcwd())


def test_a_folder_for_all_protocols_of_an_engine(engine, tmp_path):
    (tmp_path / "inner_of_podium_test.py").write_text("X = 5\n")

    @podium.protocol
    def plain(n):
        import inner_of_podium_test

        return inner_of_podium_test.X

    with podium.connect(data=engine.settings.data, working_dir=tmp_path) as other:
        assert run(other, plain, "all") == 5
    with podium.connect(data=engine.settings.data, working_dir=tmp_path / "nowhere") as other:
        with pytest.raises(InvalidDefinition, match="nowhere: No such file"):
            run(other, plain, "all")


def test_the_packed_folder_goes_before_the_folder_of_the_program(engine, tmp_path):
    assert (Path.cwd() / "actors" / "__init__.py").exists()
    (tmp_path / "actors.py").write_text("X = 6\n")

    @podium.protocol(runtime_env={"working_dir": tmp_path})
    def plain(n):
        import actors

        return getattr(actors, "X", actors.__file__)

    assert run(engine, plain, "first") == 6


def spawn(engine, environment):
    """Start a host as a supervisor would."""
    core = engine._core
    setup = {"ref": "tests.sample:add"}
    starting = core._session._ray_world.spawn("host", "test/host-0", setup, Needs(environment=environment))
    return asyncio.run_coroutine_threadsafe(starting, core.loop).result(60)


def test_an_environment_that_takes_too_long_is_given_up(engine):
    began_at = time.monotonic()
    with pytest.raises(
        SpawnFailed, match=r"its environment \(pip\) was not ready within 1 s \(runtime_env_timeout_s\)"
    ):
        spawn(engine, Environment({"pip": {"packages": ["toolz"]}}, {}, 1.0))
    assert time.monotonic() - began_at < 20


def test_a_package_that_nobody_has_any_more_says_what_to_do(engine):
    with pytest.raises(SpawnFailed, match="deploy again from a machine that has the folder") as caught:
        spawn(engine, Environment({"working_dir": f"{PACKAGE}{'0' * 64}"}, {}, 60.0))
    assert caught.value.is_of_code


SAID = """Traceback (most recent call last):
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[7] failed with the following details.
Command '['pip', 'install', '--index-url', 'https://user:secret@there/simple']' returned non-zero exit status 1.
Last 50 lines of stdout:
    Looking in indexes: https://user:****@there/simple
    ERROR: No matching distribution found for thing
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeEnvSetupError(SAID),
            "its environment (pip) cannot be prepared:\nLooking in indexes: https://user:****@there/simple\n"
            "ERROR: No matching distribution found for thing",
        ),
        (
            RuntimeEnvSetupError("Traceback …:\n  File …\nRuntimeError: Please install virtualenv\n"),
            "its environment (pip) cannot be prepared:\nRuntimeError: Please install virtualenv",
        ),
        (
            RuntimeEnvSetupError("Failed to install runtime_env within the timeout of 7 seconds. Consider …"),
            "its environment (pip) was not ready within 7 s (runtime_env_timeout_s); Ray's logs of that machine have "
            "more (runtime_env_setup-*.log)",
        ),
        (
            TimeoutError(),
            "neither its environment (pip), which has 7 s (runtime_env_timeout_s), nor the host was ready in 127 s; "
            "Ray's logs of that machine have more (runtime_env_setup-*.log)",
        ),
    ],
)
def test_the_reason_is_what_the_installer_said_and_no_command_line(error, reason):
    environment = Environment({"pip": {"packages": ["thing"]}}, {}, 7.0)
    assert why_not_ready(environment, error, 127.0) == reason


def test_what_ray_does_not_take_is_said_at_once(engine):
    began_at = time.monotonic()
    with pytest.raises(SpawnFailed, match="ftp"):
        spawn(engine, Environment({"working_dir": "ftp://there/code.zip"}, {}, 60.0))
    assert time.monotonic() - began_at < 10


def test_a_package_that_is_nowhere_fails_the_deployment_with_what_pip_said(engine, pips):
    failed = pips.bad.result()
    assert isinstance(failed.error, SpawnFailed)
    lines = str(failed.error).splitlines()
    assert lines[0] == "supervisor/bad/needs_what_is_nowhere-0 did not start: its environment (pip) cannot be prepared:"
    assert f"ERROR: No matching distribution found for {NOWHERE}" in lines
    assert failed.took_s < 150
    assert engine.status().workflows["bad"].state == "up"


def test_pip_installs_for_hosts_of_that_protocol_only_and_once(engine, pips):
    first = pips.good.result()
    assert first["text"] == "XIV"
    assert not run(engine, without_environment, "none")["roman"]
    os.kill(first["pid"], signal.SIGKILL)
    began_at = time.monotonic()
    second = run(engine, roman_numeral, "good")
    assert second["pid"] != first["pid"]
    assert (second["prefix"], second["made"]) == (first["prefix"], first["made"])
    assert time.monotonic() - began_at < 10
