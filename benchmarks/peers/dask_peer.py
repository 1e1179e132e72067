"""Dask's distributed scheduler with two worker processes: futures chained by the client, nothing durable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster
from measuring import measure
from work import Peer, add


def part(number: int, sleep_s: float) -> int:
    if sleep_s:
        time.sleep(sleep_s)
    return number


@contextmanager
def peer() -> Iterator[Peer]:
    cluster = LocalCluster(n_workers=2, threads_per_worker=50, processes=True, host="127.0.0.1", dashboard_address=None)
    with cluster, Client(cluster) as client:

        def many(inputs: list[dict]) -> list[dict]:
            futures = inputs
            for _ in range(3):
                futures = client.map(add, futures, pure=False)
            return client.gather(futures)

        def fan(count: int, sleep_s: float) -> int:
            return client.submit(sum, client.map(part, range(count), sleep_s=sleep_s, pure=False), pure=False).result()

        yield Peer(many, fan)


if __name__ == "__main__":
    measure("Dask, processes", "distributed", "no", peer)
