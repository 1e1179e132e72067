"""Dask's distributed scheduler with two worker processes: futures chained by the client, nothing durable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, LocalCluster
from measuring import measure
from work import STEPS, Killed, Peer, add, slow


def part(number: int, sleep_s: float) -> int:
    if sleep_s:
        time.sleep(sleep_s)
    return number


def slow_step(input: dict, task: int, step: str) -> dict:
    return slow(task, step, input)


@contextmanager
def cluster(threads: int) -> Iterator[Client]:
    settings = {"processes": True, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=threads, **settings) as made, Client(made) as client:
        yield client


@contextmanager
def peer() -> Iterator[Peer]:
    with cluster(threads=50) as client:

        def many(inputs: list[dict]) -> list[dict]:
            futures = inputs
            for _ in STEPS:
                futures = client.map(add, futures, pure=False)
            return client.gather(futures)

        def fan(count: int, sleep_s: float) -> int:
            return client.submit(sum, client.map(part, range(count), sleep_s=sleep_s, pure=False), pure=False).result()

        yield Peer(many, fan)


@contextmanager
def scene(folder: Path) -> Iterator[Killed]:
    """The workers are killed, and started again by their nannies; client and scheduler go on."""
    with cluster(threads=250) as client:
        futures = []

        def submit(count: int) -> None:
            futures.extend({"n": n} for n in range(count))
            for step in STEPS:
                futures[:] = client.map(slow_step, futures, range(count), step=step, pure=False)

        def kill() -> None:
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

        yield Killed(submit, kill, lambda _count: client.gather(futures))


if __name__ == "__main__":
    measure("Dask, processes", "distributed", "no", peer, scene)
