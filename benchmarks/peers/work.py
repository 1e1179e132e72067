"""The work that every peer does, and how it is measured: W1, W2, W3 and W5. Standard library only: each peer runs in an
environment of its own.

A peer is a context manager that gives a `Peer`; `measure` runs it and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

FAN = 100
SLEEP_S = 0.05
WARM_UP = 20


@dataclass
class Peer:
    many: Callable[[list[dict]], list[dict]]
    """Runs one task of three steps for each input, all at once; gives the results in order."""
    fan: Callable[[int, float], int] | None = None
    """Runs one task of so many parallel steps, each of which sleeps so many seconds and gives its number; the sum."""


def add(input: dict) -> dict:
    """What each of the three steps does."""
    return {"n": input["n"] + 1}


def measure(name: str, package: str, durable: str, peer: Callable[[], AbstractContextManager[Peer]]) -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tasks", type=int, default=1_000)
    options.add_argument("--singles", type=int, default=200)
    options.add_argument("--fans", type=int, default=10)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what the peer has started
    with peer() as at_work:
        checked(at_work, 1)
        first_s = seconds_of_life()
        for _ in range(WARM_UP):
            checked(at_work, 1)
        checked(at_work, min(given.tasks, 200))
        singles = sorted(timed(lambda: checked(at_work, 1)) * 1000 for _ in range(given.singles))
        fans, naps = (fan_ms(at_work, given.fans, sleep_s) for sleep_s in (0.0, SLEEP_S))
        result = {
            "peer": name,
            "version": version(package),
            "durable": durable,
            "w1": given.tasks / timed(lambda: checked(at_work, given.tasks)),
            "w2_p50": statistics.median(singles),
            "w2_p99": singles[int(0.99 * (len(singles) - 1))],
            "w3": fans,
            "w3_sleep": naps,
            "first_s": first_s,
            "memory_mb": memory_mb(),
        }
    print(json.dumps(result), flush=True)


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


def family(first: int) -> list[int]:
    """That process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found = [first]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
