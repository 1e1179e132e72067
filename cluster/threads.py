"""Threads for blocking code of users, which do not keep a program from ending.

When the interpreter ends, the thread pool of the standard library waits for all work that still runs in the pool. One
plain step that never returns would keep the program alive for ever. The threads here are daemons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue

IDLE_S = 10.0
"""Seconds that an idle thread waits for further work before it ends."""


class Threads:
    """A pool with one thread for each piece of open work, up to `most` threads. Further work waits."""

    def __init__(self, name: str, most: int = 1024) -> None:
        self._name, self._most = name, most
        self._works: SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        """Number of threads that run."""
        self._open = 0
        """Number of pieces of work that are not done."""

    def submit(self, work: Callable[[], object]) -> Future[object]:
        future: Future[object] = Future()
        with self._lock:
            self._works.put((future, work))
            self._open += 1
            needed = self._open > self._count and self._count < self._most
            self._count += needed
        if needed:
            threading.Thread(target=self._work_off, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Leave running work alone, drop waiting work, and let idle threads end."""
        with self._lock:
            count = self._count
        with suppress(Empty):
            while True:
                self._works.get_nowait()
        for _ in range(count):
            self._works.put(None)

    def _work_off(self) -> None:
        while (item := self._next()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                _settle(future, work)
            with self._lock:
                self._open -= 1
            del future, work, item

    def _next(self) -> tuple[Future[object], Callable[[], object]] | None:
        """Wait for further work and return it. None if the thread is to end; it is then no longer counted."""
        while True:
            with suppress(Empty):
                item = self._works.get(timeout=IDLE_S)
                break
            with self._lock:
                if self._works.empty():  # nobody counts on this thread: work is put under the same lock
                    self._count -= 1
                    return None
        with self._lock:
            self._count -= item is None
        return item


def _settle(future: Future[object], work: Callable[[], object]) -> None:
    try:
        value = work()
    except BaseException as error:
        with suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with suppress(InvalidStateError):
            future.set_result(value)
