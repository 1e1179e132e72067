"""What does it cost to hand a large array from step to step, durably, against plain Ray and the disk?

W8: three steps in three processes; the first makes a float32 array, the second adds 1, the third looks at both ends.
Podium stores both arrays durably and hands on references; plain Ray passes references to its shared memory. The disk is
what writing the same bytes with fsync takes. In turns, medians. Between two runs the cached pages of what was written
before are given back: on some virtual machines, memory that was never used before costs several times as much as the
work. Then: which processes grow meanwhile, and tasks with inputs of 1 MB against the disk's own rate.

    python benchmarks/values.py [--sizes 1 10 100 1000] [--repeats 7] [--tasks 1000]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from harness import Row, machine, report, timed

import podium
from podium import Sequence, Workflow

MB = 1_000_000
WARM_UP = 2


@podium.protocol
def make(asked: dict) -> np.ndarray:
    return np.full(asked["items"], asked["value"], dtype=np.float32)


@podium.protocol
def add(array: np.ndarray) -> np.ndarray:
    return array + np.float32(1)


@podium.protocol
def total(array: np.ndarray) -> float:
    return float(array[0]) + float(array[-1])


@podium.protocol
def take(array: np.ndarray) -> int:
    return len(array)


ARRAYS = Workflow("arrays", Sequence(make, add, total))
INPUTS = Workflow("inputs", Sequence(take))


def ray_chain() -> Callable[[dict], float]:
    import ray

    @ray.remote(num_cpus=0)
    class Make:
        def run(self, asked: dict) -> np.ndarray:
            return np.full(asked["items"], asked["value"], dtype=np.float32)

    @ray.remote(num_cpus=0)
    class Add:
        def run(self, array: np.ndarray) -> np.ndarray:
            return array + np.float32(1)

    @ray.remote(num_cpus=0)
    class Total:
        def run(self, array: np.ndarray) -> float:
            return float(array[0]) + float(array[-1])

    made, added, summed = Make.remote(), Add.remote(), Total.remote()
    return lambda asked: ray.get(summed.run.remote(added.run.remote(made.run.remote(asked))))


NUMBERS = itertools.count()


def written(folder: Path, size: int) -> None:
    """Write as many bytes to a new file, durably. The file stays, as those of Podium do."""
    piece = memoryview(bytes(4 * 1024 * 1024))
    with (folder / str(next(NUMBERS))).open("wb", buffering=0) as file:
        for at in range(0, size, len(piece)):
            file.write(piece[: size - at])
        os.fsync(file.fileno())


class Growth:
    """How far the private memory of each process of this family grows meanwhile."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._before: dict[int, float] = {}
        self.peaks: dict[str, float] = {}
        """Growth in MB, by the title of the process."""
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Growth:
        me = psutil.Process()
        self._all = [me, *me.children(recursive=True)]
        self._before = {process.pid: private_mb(process) for process in self._all}
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for process in self._all:
                grown = private_mb(process) - self._before[process.pid]
                title = title_of(process)
                self.peaks[title] = max(grown, self.peaks.get(title, 0.0))


def private_mb(process: psutil.Process) -> float:
    try:
        facts = process.memory_info()
        return (facts.rss - facts.shared) / MB
    except psutil.Error:
        return 0.0


def title_of(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:60]}"
    except psutil.Error:
        return str(process.pid)


def give_back(folder: Path) -> None:
    """Drop the cached pages of all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hand_over(engine: podium.Engine, folder: Path, sizes: list[int], repeats: int) -> dict[tuple[str, int], Row]:
    plain = ray_chain()
    systems: dict[str, Callable[[dict], object]] = {
        "podium, durable": lambda asked: engine.submit(ARRAYS, asked).result(timeout_s=300),
        "plain ray": plain,
        "disk": lambda asked: (written(folder, 4 * asked["items"]), written(folder, 4 * asked["items"])),
    }
    rows = {(system, mb): Row(system, f"W8, {mb:,} MB", "ms") for mb in sizes for system in systems}
    value = 0
    for mb in sizes:
        for n in range(repeats + WARM_UP):
            for system, work in systems.items():
                value += 1
                asked = {"items": mb * MB // 4, "value": float(3 * value)}
                give_back(folder.parent)
                began = time.perf_counter()
                work(asked)
                if n >= WARM_UP:
                    rows[system, mb].values.append((time.perf_counter() - began) * 1000 / 2)
    return rows


def of_inputs(engine: podium.Engine, folder: Path, count: int) -> tuple[float, float]:
    """MB per second of tasks with inputs of 1 MB, and of the disk with as many files."""
    inputs = [np.full(MB // 4, n, dtype=np.float32) for n in range(count)]
    took_s = timed(lambda: [task.result(timeout_s=300) for task in engine.submit_many(INPUTS, inputs)])
    disk_s = timed(lambda: [written(folder, MB) for _ in range(count)])
    return count / took_s, count / disk_s


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 1000])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--tasks", type=int, default=1000)
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        podium.connect(data=data, object_store_mb=max(512, 6 * max(given.sizes))) as engine,
    ):
        folder = Path(data) / "disk"
        folder.mkdir()
        rows = hand_over(engine, folder, given.sizes, given.repeats)
        with Growth() as growth:
            engine.submit(ARRAYS, {"items": 25 * MB, "value": 0.5}).result(timeout_s=60)
        rates = {
            "podium, durable": Row("podium, durable", "inputs of 1 MB", "MB/s"),
            "disk": Row("disk", "inputs of 1 MB", "MB/s"),
        }
        engine.submit_many(INPUTS, [np.zeros(MB // 4, np.float32)] * 4)
        for _ in range(3):
            ours, disk = of_inputs(engine, folder, given.tasks)
            rates["podium, durable"].values.append(ours)
            rates["disk"].values.append(disk)
    ratios = {}
    for mb in given.sizes:
        ours, plain, disk = (rows[system, mb].median for system in ("podium, durable", "plain ray", "disk"))
        ratios[f"W8, {mb:,} MB: podium over 1.5 x plain Ray + disk (target <= 1)"] = ours / (1.5 * plain + disk)
        ratios[f"W8, {mb:,} MB: podium less the disk, over plain Ray"] = (ours - disk) / plain
    ratios["inputs of 1 MB: podium over the disk's rate (target >= 0.7)"] = (
        rates["podium, durable"].median / rates["disk"].median
    )
    for title, grown in sorted(growth.peaks.items(), key=lambda item: -item[1])[:8]:
        print(f"{grown:8.1f} MB more, private: {title}")
    print()
    report("values", [*rows.values(), *rates.values()], ratios, machine())


if __name__ == "__main__":
    main()
