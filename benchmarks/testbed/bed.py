"""A driver in a folder of its own, and everything that it started: found, killed, and counted at the end.

Whatever runs for the bed has the bed's folder as its working directory, also when whoever started it is dead: that
is how its processes are told from those of other clusters on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote

import psutil

from podium.cluster.on_ray.process_locks import ProcessLocks

from . import witness
from .load import LIMIT

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0
SETTINGS: dict[str, Any] = {
    "data": "data",
    "num_cpus": 2,
    "limits": {"llm": LIMIT},
    "lease_s": LEASE_S,
    "restart_period_s": 10,
    "restart_intensity": 10_000,
    "top_restart_intensity": 10_000,
    "max_losses": 100,
}
"""Nothing is to go down by the sheer rate of kills, and back-off is to forget soon."""
_SHARD_FILES = {".db", ".doing", ".lock", ".mark"}
_POLL_S = 0.02


ENDED_BY_RAY = b"core_worker_process.cc"
"""The last that is heard of a process which Ray's core ends while it registers with a raylet that is just dying."""


class Hang(Exception):
    """Something did not happen within its time. Says what."""


class Bed:
    def __init__(self, folder: Path, seed: int, lanes: int) -> None:
        self.folder, self.data = folder, folder / "data"
        self._seed, self._lanes = seed, lanes
        self._environment = {**os.environ, **witness.begin(folder, {"llm": LIMIT}), "PYTHONPATH": str(ROOT)}
        self._generation = 0
        self._said: SimpleQueue[dict[str, Any]]
        self.errors: list[str] = []
        """What the driver had to complain about."""
        self.driver: subprocess.Popen[bytes]

    def start(self, within_s: float = 90.0) -> None:
        """Launch a driver and wait until it works. Raises Hang."""
        self.launch()
        self.hear("up", within_s)

    def launch(self) -> None:
        """Launch a driver; one after the first finishes what is open before it does anything else."""
        options = {"settings": json.dumps(SETTINGS), "lanes": self._lanes, "seed": self._seed + self._generation}
        options["first"] = 1_000_000 * self._generation
        command = [sys.executable, "-m", "benchmarks.testbed.driver"]
        command += [f"--{name}={value}" for name, value in options.items()] + ["--resume"] * (self._generation > 0)
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log,
            )  # fmt: skip
        self._said = SimpleQueue()
        threading.Thread(target=self._listen, args=(self.driver, self._said), daemon=True).start()
        self._generation += 1

    def _listen(self, driver: subprocess.Popen[bytes], said: SimpleQueue[dict[str, Any]]) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith(b"{"):
                said.put(json.loads(line))
            else:
                self.errors.append(f"on the driver's standard output: {line!r}")

    def tell(self, do: str, **more: Any) -> None:
        assert self.driver.stdin is not None
        self.driver.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self.driver.stdin.flush()

    def hear(self, what: str, within_s: float) -> dict[str, Any]:
        """The driver's next answer of this kind; errors that it tells meanwhile are kept. Raises Hang."""
        give_up_at = time.monotonic() + within_s
        while True:
            try:
                said = self._said.get(timeout=1.0)
            except Empty:
                if self.driver.poll() is not None:
                    raise Hang(f"the driver ended with {self.driver.returncode} and said no '{what}'") from None
                if time.monotonic() > give_up_at:
                    raise Hang(f"the driver did not say '{what}' within {within_s:g} s") from None
                continue
            if said["what"] == "error":
                self.errors.append(said["text"])
            if said["what"] == what:
                return said

    # processes

    def pid_of(self, address: str, within_s: float = 30.0) -> int:
        """The process of one of our actors, waited for if it is being replaced. Raises Hang."""
        give_up_at = time.monotonic() + within_s
        while (pid := ProcessLocks(self.data).process_of(address)) is None:
            if time.monotonic() > give_up_at:
                raise Hang(f"there was no process at {address} within {within_s:g} s")
            time.sleep(_POLL_S)
        return pid

    def hosts(self, within_s: float = 30.0) -> list[str]:
        """Addresses of the protocol hosts. Raises Hang if there are none."""
        give_up_at = time.monotonic() + within_s
        while not (found := [each for each in self.addresses() if each.rpartition("-")[2].isdigit()]):
            if time.monotonic() > give_up_at:
                raise Hang(f"there was no protocol host within {within_s:g} s")
            time.sleep(_POLL_S)
        return found

    def addresses(self) -> list[str]:
        return sorted(unquote(path.name) for path in (self.data / "run").glob("*"))

    def named(self, name: str, within_s: float = 30.0, other_than: int | None = None) -> int:
        """A process that the driver started, by its name. Raises Hang."""
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at and self.driver.poll() is None:
            for process in psutil.Process(self.driver.pid).children():
                if process.pid != other_than and _is_named(process, name):
                    return process.pid
            time.sleep(_POLL_S)
        raise Hang(f"there was no {name} within {within_s:g} s")

    def was_ended_by_ray(self) -> bool:
        """Whether the driver is gone because Ray's core ended its process while it registered with a raylet."""
        return self.driver.poll() is not None and ENDED_BY_RAY in (self.folder / "driver.log").read_bytes()[-1024:]

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this bed, the driver first."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if path.joinpath("cwd").readlink() == self.folder:
                    found.append(psutil.Process(int(path.name)))
            except (OSError, psutil.NoSuchProcess):
                continue
        return sorted(found, key=lambda process: (process.pid != self.driver.pid, process.pid))

    def kill_all(self, driver: bool) -> None:
        """SIGKILL for everything at once, and again for what was just being started."""
        spared = set() if driver else {self.driver.pid}
        while victims := [process for process in self.processes() if process.pid not in spared]:
            for process in victims:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            if not driver:
                return  # the driver starts others from now on
            time.sleep(_POLL_S)
        self.driver.wait()

    def close(self, within_s: float = 60.0) -> None:
        """End the driver in order. Raises Hang."""
        self.tell("close")
        self.hear("closed", within_s)
        try:
            code = self.driver.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Hang(f"the driver said that it is closed, and was still there after {within_s:g} s") from None
        if code != 0:
            self.errors.append(f"the driver ended with {code}")

    def left_over(self, within_s: float = 10.0) -> list[str]:
        """Processes and files that are there after the end and should not be; processes get a moment to go."""
        give_up_at = time.monotonic() + within_s
        while (processes := self.processes()) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        found = [f"I11: process {process.pid} {process.name()} is left" for process in processes]
        found += [f"I11: run/{each} is held" for each in self.addresses() if ProcessLocks(self.data).process_of(each)]
        files = (self.data / "shards").iterdir()
        return found + [f"I11: shards/{path.name} is left" for path in files if path.suffix not in _SHARD_FILES]

    def dump_stacks(self) -> None:
        """Where every Python process of the bed stands, to `stacks.txt`, if py-spy is installed: after a Hang."""
        spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
        with (self.folder / "stacks.txt").open("ab") as file:
            for process in self.processes() if spy else []:
                file.write(f"== {process.pid} {process.name()}\n".encode())
                file.flush()
                command = [str(spy), "dump", "--nonblocking", "--pid", str(process.pid)]
                subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, timeout=20, check=False)

    def abandon(self) -> None:
        """After a failure: end what is left, by force."""
        self.kill_all(driver=True)


def _is_named(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
