"""How the work of a peer is measured: W1, W2, W3 and W5, or W4 with `--killed`. Standard library only.

A peer is a context manager that gives a `Peer`; `measure` runs it and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from work import STEPS, Killed, Parts, Peer, Scene, family, kill_family

FAN = 100
SLEEP_S = 0.05
WARM_UP = 20
GIVE_UP_S = 240.0
"""Longest time that the steps of W4 may take to get on."""

Making = Callable[[], AbstractContextManager[Peer]]


def measure(name: str, package: str, durable: str, peer: Making, killed: Scene | Parts | None = None) -> None:
    """With `killed` None nothing goes on by itself or with documented means, and W4 has no figures."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what the peer has started
    if isinstance(killed, Parts):
        if given.submit:
            killed.submit(Path(given.folder), given.submit)
        if given.finish:
            print(json.dumps(killed.finish(Path(given.folder), given.finish)), flush=True)
        if given.folder:
            return
        killed = in_a_child
    figures = figures_of(peer, given) if not given.killed else outcome(killed, given.killed) if killed else {}
    print(json.dumps({"peer": name, "version": version(package), "durable": durable, **figures}), flush=True)


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser()
    options.add_argument("--tasks", type=int, default=1_000)
    options.add_argument("--singles", type=int, default=200)
    options.add_argument("--fans", type=int, default=10)
    options.add_argument("--repeats", type=int, default=3, help="of W1")
    options.add_argument("--killed", type=int, help="W4 with so many tasks, and nothing else")
    halves = options.add_argument_group("the halves of W4, in processes of their own")
    halves.add_argument("--submit", type=int)
    halves.add_argument("--finish", type=int)
    halves.add_argument("--folder")
    return options.parse_args()


def figures_of(peer: Making, given: argparse.Namespace) -> dict[str, float | None]:
    with peer() as at_work:
        checked(at_work, 1)
        first_s = seconds_of_life()
        for _ in range(WARM_UP):
            checked(at_work, 1)
        singles = sorted(timed(lambda: checked(at_work, 1)) * 1000 for _ in range(given.singles))
        fans, naps = (fan_ms(at_work, given.fans, sleep_s) for sleep_s in (0.0, SLEEP_S))
        many = [timed(lambda: checked(at_work, given.tasks)) for _ in range(given.repeats + 1)]
        return {
            "w1": given.tasks / statistics.median(many[1:]),
            "w2_p50": statistics.median(singles),
            "w2_p99": singles[int(0.99 * (len(singles) - 1))],
            "w3": fans,
            "w3_sleep": naps,
            "first_s": first_s,
            "memory_mb": memory_mb(),
        }


def checked(peer: Peer, count: int) -> None:
    results = peer.many([{"n": n} for n in range(count)])
    if results != [{"n": n + 3} for n in range(count)]:
        raise SystemExit(f"wrong results: {results[:3]} …")


def fan_ms(peer: Peer, times: int, sleep_s: float) -> float | None:
    """Median; None if the peer has no parallel steps."""
    if peer.fan is None:
        return None
    fan = peer.fan

    def once() -> None:
        total = fan(FAN, sleep_s)
        if total != sum(range(FAN)):
            raise SystemExit(f"wrong sum: {total}")

    once()
    return statistics.median(timed(once) * 1000 for _ in range(times))


def outcome(scene: Scene, count: int) -> dict[str, float | None]:
    """Kill when a sixth of all steps have ended. Seconds from then until all tasks have, steps that ran twice, and
    tasks that were lost."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        witness = Path(folder) / "witness.txt"
        witness.touch()
        os.environ["WITNESS"] = str(witness)
        with scene(Path(folder)) as killed:
            killed.submit(count)
            wait_until(lambda: noted(witness, "end").total() >= count * len(STEPS) / 6)
            began = time.perf_counter()
            killed.kill()
            results = killed.finish(count)
            took_s = time.perf_counter() - began
        right = sum(result == {"n": n + len(STEPS)} for n, result in enumerate(results))
        twice = sum(times > 1 for times in noted(witness, "start").values())
    return {"w4_s": took_s, "w4_twice": twice, "w4_lost": count - right}


def noted(witness: Path, what: str) -> Counter[str]:
    """How often each step did that."""
    pairs = (line.split(" ", 1) for line in witness.read_text().splitlines())
    return Counter(place for said, place in pairs if said == what)


def wait_until(reached: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + GIVE_UP_S
    while not reached():
        if time.monotonic() > give_up_at:
            raise SystemExit("its steps do not get on")
        time.sleep(0.01)


@contextmanager
def in_a_child(folder: Path) -> Iterator[Killed]:
    """The scene of a peer in parts: this script again, twice."""
    children: list[subprocess.Popen[bytes]] = []
    script = [sys.executable, sys.argv[0], "--folder", str(folder)]

    def submit(count: int) -> None:
        children.append(subprocess.Popen([*script, "--submit", str(count)], stdout=sys.stderr))

    def kill() -> None:
        kill_family(children[0].pid)
        children[0].wait()

    def finish(count: int) -> list[dict]:
        done = subprocess.run([*script, "--finish", str(count)], stdout=subprocess.PIPE, check=True)
        results: list[dict] = json.loads(done.stdout.splitlines()[-1])
        return results

    try:
        yield Killed(submit, kill, finish)
    finally:
        for child in children:
            kill_family(child.pid)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds_of_life() -> float:
    """Since this process began, with the start of Python."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def memory_mb() -> float:
    """Of this process and all below it, shared pages shared out."""
    return sum(pss_bytes(pid) for pid in family(os.getpid())) / 1e6


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
