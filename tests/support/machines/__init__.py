"""Several machines on one, for tests (see the script `machines`), with a Ray node on each."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.support import ROOT

SCRIPT = Path(__file__).with_name("machines")
NET = "10.77.0"
STATE = Path("/run/podium-machines")
"""A folder that all machines share, and that goes with them."""
PORT = 6400
PATIENCE_S = 60.0


@cache
def why_not() -> str | None:
    """Return the reason why no machines can be made here, or None."""
    if os.geteuid() != 0:
        return "machines need root"
    missing = [tool for tool in ("ip", "nsenter", "unshare", "setsid", "pgrep") if shutil.which(tool) is None]
    if missing:
        return f"machines need {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "the kernel allows no namespaces"


class Machines:
    """So many machines, with a Ray node on each; the head is machine 1."""

    def __init__(self, count: int, logs: Path) -> None:
        self._count, self._logs = count, logs
        self._nodes: list[subprocess.Popen[bytes]] = []
        _call("down")
        _call("up", str(count))

    @property
    def address(self) -> str:
        return f"{NET}.1:{PORT}"

    def start_ray(self, cpus: int = 2) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        common = [f"--num-cpus={cpus}", "--disable-usage-stats", "--block"]
        for number in range(1, self._count + 1):
            here = f"--node-ip-address={NET}.{number}"
            head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
            where = head if number == 1 else [f"--address={self.address}"]
            log = (self._logs / f"node{number}.log").open("wb")
            command = self.command(number, [ray, "start", *where, here, *common], {})
            self._nodes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            if number == 1:
                self._wait_for_port()
        self._wait_for_nodes()

    def command(self, number: int, words: list[str], environment: Mapping[str, str]) -> list[str]:
        """Return the command that runs these words on a machine. What is on its /tmp is its own, and so is its home.

        It has none of the variables that other tests of this process have set for Ray, such as to listen on loopback.
        """
        unset = [word for name in os.environ if name.startswith("RAY_") for word in ("-u", name)]
        variables = {"HOME": f"/tmp/home{number}", "PYTHONPATH": str(ROOT), **environment}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        return [str(SCRIPT), "run", str(number), "env", *unset, *pairs, *words]

    def kill(self, number: int) -> None:
        """Take the power from a machine."""
        _call("kill", str(number))

    def boot(self, number: int) -> None:
        _call("boot", str(number))

    def cut(self, number: int) -> None:
        """Pull the cable of a machine."""
        _call("cut", str(number))

    def heal(self, number: int) -> None:
        _call("heal", str(number))

    def slow(self, number: int, delay_ms: int, loss_percent: int) -> None:
        _call("slow", str(number), str(delay_ms), str(loss_percent))

    def restart_ray(self) -> None:
        """Boot the head, which has lost its power, and start Ray on all machines anew, as who runs them would."""
        self.boot(1)
        for node in self._nodes:
            node.terminate()
            node.wait(PATIENCE_S)
        ray = str(Path(sys.executable).with_name("ray"))
        for number in range(1, self._count + 1):
            command = self.command(number, [ray, "stop", "--force"], {})
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE_S, check=False
            )
        self._nodes.clear()
        self.start_ray()

    def close(self) -> None:
        _call("down")
        for node in self._nodes:
            node.wait(PATIENCE_S)

    def _wait_for_port(self) -> None:
        look = f"import socket; socket.create_connection(('{NET}.1', {PORT}), 1)"
        _until(lambda: self._says(look), self._log)

    def _wait_for_nodes(self) -> None:
        look = (
            "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); "
            f"raise SystemExit(sum(n['Alive'] for n in ray.nodes()) != {self._count})"
        )
        _until(lambda: self._says(look), self._log)

    def _log(self) -> str:
        return "".join(log.read_text(errors="replace")[-1000:] for log in sorted(self._logs.glob("*.log")))

    def _says(self, code: str) -> bool:
        done = subprocess.run(
            self.command(1, [sys.executable, "-c", code], {}), capture_output=True, check=False, timeout=PATIENCE_S
        )
        return done.returncode == 0


@contextmanager
def machines(count: int) -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="podium-machines-") as logs:
        alone = os.open("/run/podium-machines.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(alone, fcntl.LOCK_EX)  # there is one bridge, and one set of machines
        made = Machines(count, Path(logs))
        try:
            made.start_ray()
            yield made
        finally:
            made.close()
            os.close(alone)


def _call(*words: str) -> None:
    environment = {**os.environ, "MACHINES_KEEP": str(ROOT)}
    subprocess.run([str(SCRIPT), *words], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S, env=environment)


def _until(holds: Callable[[], bool], told: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, f"the Ray nodes are not up: {told()}"
        time.sleep(0.2)
