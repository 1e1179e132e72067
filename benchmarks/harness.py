"""What the benchmarks share: timing, medians, machine facts, one JSON line and a table."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Processes that a benchmark starts keep what they compile, as those of an installed package do."""


Chain = Callable[[list[dict]], list[dict]]
"""Runs a task for each input, all at once, and returns the results in order."""


@dataclass
class Row:
    """One figure of one system: median, minimum and maximum over the repeats."""

    system: str
    figure: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def over(one: Row, other: Row) -> float:
    """The median of the ratios in each round: what slows a round slows both."""
    return statistics.median(a / b for a, b in zip(one.values, other.values, strict=True))


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def throughput(chain: Chain, count: int) -> float:
    """Tasks per second, where each task adds 3."""
    inputs = [{"n": n} for n in range(count)]
    began = time.perf_counter()
    results = chain(inputs)
    took_s = time.perf_counter() - began
    assert results == [{"n": n + 3} for n in range(count)]
    return count / took_s


def latencies_ms(chain: Chain, count: int) -> list[float]:
    """The duration of each of `count` tasks, one at a time."""
    samples = []
    for n in range(count):
        began = time.perf_counter()
        assert chain([{"n": n}]) == [{"n": n + 3}]
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fdatasync_ms(folder: str) -> float:
    """Median of 50 small writes with fdatasync, in ms: what one durable commit costs at least here."""
    path = Path(folder) / "fdatasync.probe"
    with path.open("wb") as file:
        samples = []
        for _ in range(50):
            file.write(b"x" * 100)
            file.flush()
            samples.append(timed(lambda: os.fdatasync(file.fileno())) * 1000)
    path.unlink()
    return statistics.median(samples)


def kill_everything(driver: subprocess.Popen[bytes]) -> None:
    """`kill -9` of a driver and of all its processes, those of Ray included."""
    process = psutil.Process(driver.pid)
    for each in [process, *process.children(recursive=True)]:
        each.kill()
    driver.wait()


def begun(folder: Path, environment: dict[str, str], code: str, *words: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a driver in a folder, and return it with the line that it prints when all is as it should be."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout is not None
    return driver, driver.stdout.readline().decode()


def facts_of(folder: Path, environment: dict[str, str], code: str, *words: str) -> dict[str, Any]:
    """Run a driver in a folder to its end, and return the JSON object in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def bytes_in(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def machine() -> dict[str, Any]:
    import ray

    with tempfile.TemporaryDirectory() as folder:
        sync_ms = fdatasync_ms(folder)
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_ms": round(sync_ms, 3),
        "load": round(os.getloadavg()[0], 2),
    }


def report(name: str, rows: list[Row], ratios: dict[str, float], facts: dict[str, Any]) -> None:
    """A table for people, then one JSON line for programs."""
    width = max(len(row.system) for row in rows)
    for row in rows:
        spread = f"({min(row.values):,.1f} to {max(row.values):,.1f})"
        print(f"{row.system:<{width}}  {row.figure:<22} {row.median:>10,.1f} {row.unit:<8} {spread}")
    print()
    for text, ratio in ratios.items():
        print(f"{text}: {ratio:.2f}")
    print("machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    line = {"benchmark": name, "rows": [asdict(row) for row in rows], "ratios": ratios, "machine": facts}
    print(json.dumps(line))
