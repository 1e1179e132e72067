"""Celery with Redis, which writes every command to its append-only file with fsync: chains, one worker of 100 threads.

A task is acknowledged when it has run, so that it runs again if its worker dies. At times the client misses the notice
of a result that Redis has (seen with Celery 5.5, 5.6 and 5.7): it asks again then, which costs up to a second.

    REDIS_SERVER=path/of/redis-server python celery_peer.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery.exceptions import TimeoutError
from celery.result import AsyncResult
from measuring import measure
from servers import free_port, running, wait_for
from work import STEPS, Killed, Peer, kill_family

ASK_AGAIN_S = 0.5
GIVE_UP_S = 120.0


def result_of(pending: AsyncResult) -> Any:
    """`get` looks into Redis once and then waits for a notice; when none comes it has to look again."""
    give_up_at = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return pending.get(timeout=ASK_AGAIN_S)
        except TimeoutError:
            if time.monotonic() > give_up_at:
                raise


@contextmanager
def broker() -> Iterator[None]:
    port = free_port()
    os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as folder:
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        server = [os.environ["REDIS_SERVER"], "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        with running([*server, *durable]):
            wait_for(port)
            yield


def worker() -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--loglevel", "ERROR"]
    return running([*command, "--pool", "threads", "--concurrency", "100", "--without-gossip"])


@contextmanager
def peer() -> Iterator[Peer]:
    with broker(), worker():
        from celery import chain, chord
        from celery_tasks import add, part, total

        def many(inputs: list[dict]) -> list[dict]:
            under_way = [chain(add.s(input), add.s(), add.s()).apply_async() for input in inputs]
            return [result_of(each) for each in under_way]

        def fan(count: int, sleep_s: float) -> int:
            return result_of(chord([part.s(number, sleep_s) for number in range(count)])(total.s()))

        yield Peer(many, fan)


@contextmanager
def scene(folder: Path) -> Iterator[Killed]:
    """The worker is killed; Redis goes on."""
    with broker(), ExitStack() as workers:
        from celery import chain
        from celery_tasks import slow

        first, sent = workers.enter_context(worker()), []

        def submit(count: int) -> None:
            for n in range(count):
                steps = [slow.s({"n": n}, n, STEPS[0]), *(slow.s(n, step) for step in STEPS[1:])]
                sent.append(chain(*steps).apply_async())

        def finish(_count: int) -> list[dict]:
            workers.enter_context(worker())
            return [result_of(each) for each in sent]

        yield Killed(submit, lambda: kill_family(first.pid), finish)


if __name__ == "__main__":
    measure("Celery, Redis", "celery", "broker only", peer, scene)
