"""Where does the time of one step go, in microseconds of processor time?

W1 (three trivial steps per task, each step's output durable before the next starts) runs for some seconds. The time of
each process, from the kernel's account, over the steps done: the client, the supervisor, the hosts, Podium's other
actors, Ray's own processes. What the supervisor does is split by py-spy's samples of it, by the innermost frame that is
Podium's: exchange (frames out and in, their packing and sockets), admission (taking tasks in, permits, whose turn it
is), fold (what follows from an event), journal (entries and their commit, with the writing thread), dispatch, and the
loop around them.

    pip install py-spy; python benchmarks/breakdown.py [--tasks 2000] [--repeats 8]
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import psutil
from harness import Row, machine, report, throughput
from throughput import WORKFLOW

import podium
from podium.actors import exchange
from podium.cluster.on_ray.process_locks import ProcessLocks

STEPS = 3
ROOT = Path(exchange.__file__).parent.parent
ROOMS = {
    "exchange": (
        "actors/exchange.py",
        "actors/exchange_server.py",
        "cluster/on_ray/sockets.py",
        "cluster/on_ray/actors.py",
    ),
    "journal": ("cluster/store/", "supervisors/tasks/entries.py", "supervisors/tasks/events.py"),
    "fold": (
        "supervisors/tasks/fold.py",
        "supervisors/tasks/modes/",
        "supervisors/tasks/state.py",
        "supervisors/tasks/plan.py",
    ),
    "admission": (
        "supervisors/admission/intake.py",
        "supervisors/admission/admission.py",
        "supervisors/limits/account.py",
        "supervisors/limits/permit_client.py",
        "supervisors/limits/regimes.py",
        "supervisors/running/backlog.py",
        "supervisors/limits/permit_queue.py",
        "supervisors/limits/fair_queue.py",
    ),
    "dispatch": ("supervisors/", "actors/", "protocols/"),
}
"""By name: the files whose code it is. The first that fits counts; packing is of whoever called for it."""
PACKING = "protocols/values.py"


def role_of(process: psutil.Process, actors: dict[int, str]) -> str:
    if process.pid == psutil.Process().pid:
        return "client"
    address = actors.get(process.pid)
    if address is None:
        return "ray"
    if address.startswith("supervisor/"):
        return "hosts" if address.count("/") > 1 else "supervisor"
    return "other actors"


def times(actors: dict[int, str]) -> Counter[str]:
    """Processor seconds so far, by role."""
    spent: Counter[str] = Counter()
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        cpu = process.cpu_times()
        spent[role_of(process, actors)] += cpu.user + cpu.system
    return spent


def room_of(stack: str) -> str:
    """Whose code a sampled stack is in."""
    for frame in reversed(stack.split(";")):
        for room, files in ROOMS.items():
            if PACKING not in frame and any(f"{ROOT}/{file}" in frame for file in files):
                return room
    return "loop"


class Sampler:
    """py-spy on one process, for as long as the block runs. Without py-spy it samples nothing."""

    def __init__(self, pid: int, folder: str) -> None:
        self._pid, self._file = pid, Path(folder) / "stacks"
        self._spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))

    def __enter__(self) -> Sampler:
        if self._spy is not None:
            record = [
                self._spy,
                "record",
                "--pid",
                str(self._pid),
                "--format",
                "raw",
                "--rate",
                "200",
                "--full-filenames",
            ]
            self._process = subprocess.Popen(
                [*record, "--output", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._spy is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def shares(self) -> dict[str, float]:
        if not self._file.exists():
            print("py-spy is not there, or may not look at the supervisor: no split (pip install py-spy)")
            return {}
        found: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            found[room_of(stack)] += int(count)
        return {room: count / found.total() for room, count in found.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=2_000)
    options.add_argument("--repeats", type=int, default=8)
    given = options.parse_args()
    roles = {role: Row(role, "a step", "µs") for role in ("client", "supervisor", "hosts", "other actors", "ray")}
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        chain = lambda inputs: [task.result(timeout_s=120) for task in engine.submit_many(WORKFLOW, inputs)]  # noqa: E731
        throughput(chain, 500)
        place = engine.settings.data.resolve()
        addresses = [unquote(path.name) for path in (place / "run").iterdir()]
        actors = {pid: address for address in addresses if (pid := ProcessLocks(place).process_of(address)) is not None}
        pid = next(pid for pid, address in actors.items() if address == f"supervisor/{WORKFLOW.name}")
        for _ in range(given.repeats):
            before = times(actors)
            throughput(chain, given.tasks)
            after = times(actors)
            for role, row in roles.items():
                row.values.append((after[role] - before[role]) * 1e6 / (given.tasks * STEPS))
        with Sampler(pid, data) as sampler:
            for _ in range(given.repeats):
                throughput(chain, given.tasks)
        shares = sampler.shares()
    supervisor = roles["supervisor"].median
    rows = [*roles.values()]
    rows += [
        Row(f"  supervisor: {room}", "a step", "µs", [share * supervisor]) for room, share in sorted(shares.items())
    ]
    report(
        "breakdown",
        rows,
        {"supervisor's share of all": supervisor / sum(row.median for row in roles.values())},
        machine(),
    )


if __name__ == "__main__":
    main()
