"""Threads for blocking code of users, which a program can leave behind when it ends.

The standard library's pool waits, when the interpreter ends, for whatever still runs in it: one plain step that never
returns would keep the program for ever. These threads are daemons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

IDLE_S = 10.0
"""How long a thread waits for further work before it ends."""


class Threads:
    """As many threads as there is work at once, up to `most`; what is more waits."""

    def __init__(self, name: str, most: int = 1024) -> None:
        self._name, self._most = name, most
        self._works: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        """Threads that run."""
        self._open = 0
        """Works that are not done."""

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._works.put((future, work))
            self._open += 1
            needed = self._open > self._count and self._count < self._most
            self._count += needed
        if needed:
            threading.Thread(target=self._work_off, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """What runs is left alone; what waits is not begun."""
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

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Further work; None if the thread is to end, which is then counted."""
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


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        value = work()
    except BaseException as error:
        with suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with suppress(InvalidStateError):
            future.set_result(value)
