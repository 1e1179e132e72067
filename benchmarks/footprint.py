"""What does the first result cost against plain Ray: seconds from the start of the process, and memory of all?

W5: a script that runs one task of one step, and one that does `ray.init` and one call of an actor, each in a new
process, in turns; and the same task in one process, without Ray. Memory is the proportional share (PSS) of the whole
family while it waits for its end.

    python benchmarks/footprint.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
import time

import psutil
from harness import Row, machine, report

PODIUM = textwrap.dedent(
    """
    import podium, sys

    @podium.protocol
    async def add(n: int) -> int:
        return n + 1

    with podium.connect(data=sys.argv[1], cluster=sys.argv[2]) as engine:
        print(engine.submit(podium.Workflow("first", podium.Sequence(add)), 1).result(), flush=True)
        sys.stdin.read()
    """
)
RAY = textwrap.dedent(
    """
    import os, sys
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    @ray.remote
    class Add:
        async def run(self, n):
            return n + 1

    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    print(ray.get(Add.remote().run.remote(1)), flush=True)
    sys.stdin.read()
    """
)
SYSTEMS = {"podium": (PODIUM, "ray"), "plain ray": (RAY, ""), "podium, in process": (PODIUM, "inprocess")}


def first_result(code: str, cluster: str) -> tuple[float, float]:
    """Seconds until the first result, and MB of the whole family then."""
    with tempfile.TemporaryDirectory() as data:
        began = time.perf_counter()
        command = [sys.executable, "-c", code, data, cluster]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            assert run.stdout is not None and run.stdin is not None
            assert run.stdout.readline().strip() == b"2"
            took_s = time.perf_counter() - began
            family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            share = sum(process.memory_full_info().pss for process in family if process.is_running()) / 1e6
            run.stdin.close()
            run.wait(timeout=60)
        return took_s, share


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    seconds = {name: Row(name, "first result", "s") for name in SYSTEMS}
    memory = {name: Row(name, "memory", "MB") for name in SYSTEMS}
    for n in range(given.repeats + 1):
        for name, (code, cluster) in SYSTEMS.items():
            took_s, share = first_result(code, cluster)
            if n:
                seconds[name].values.append(took_s)
                memory[name].values.append(share)
    ratios = {
        "first result, podium over plain Ray (target <= 1.5, then 1.2)": seconds["podium"].median
        / seconds["plain ray"].median,
        "memory, podium over plain Ray": memory["podium"].median / memory["plain ray"].median,
    }
    report("footprint", [*seconds.values(), *memory.values()], ratios, machine())


if __name__ == "__main__":
    main()
