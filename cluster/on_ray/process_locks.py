"""Finds and kills the process of the actor at an address, by a lock file per address in `run/`, held for life.

Ray reports an actor as dead as soon as it is told to kill it. If the process is stopped, it lives five seconds longer.
Ray also does not know the processes of a cluster that broke. The kernel frees a lock when its process is gone. So the
lock is right in both cases, and names the process to kill.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil

from ...protocols.errors import PodiumError
from ..store import lock
from .sockets import FOLDER

_POLL_S = 0.005
WORKING_SHARE = 0.1
"""Share of one processor. A process that uses less does not count as working."""
_held: dict[str, int] = {}
"""File descriptors of the locks that this process holds, by address. They stay open until the process ends."""


def folder_of(data: Path, generation: int = 0) -> Path:
    """Return the folder of the lock files of a cluster's processes."""
    return data / (f"run.{generation}" if generation else "run")


class ProcessLocks:
    """The presence of actors on this machine. The contract is in `cluster/presence.py`."""

    def __init__(self, data: Path, generation: int = 0) -> None:
        """`generation`: the number of a cluster on many machines (machine.py), which keeps its locks apart; else 0."""
        self._data, self._run = data, folder_of(data, generation)

    def announce(self, address: str, epoch: int) -> None:
        _held[address] = lock.take(self._path(address), address, wait_s=0.0, epoch=epoch)

    async def end(self, address: str, patience_s: float = 0.0) -> None:
        path = self._path(address)
        if path.exists() and not await _is_free(path, patience_s):
            await _end(path)

    async def end_below(self, prefix: str) -> None:
        """Kill all processes whose address begins with `prefix`; this process is left out."""
        for path in sorted(self._run.glob(f"{quote(prefix, safe='')}*")):
            if lock.holder(path) not in (None, os.getpid()):
                await _end(path)

    async def end_all(self) -> None:
        """Kill all processes of an earlier cluster, and remove its lock files and sockets."""
        for path in sorted([*self._data.glob("run/*"), *self._data.glob("run.*/*")]):
            await _end(path)
            path.unlink(missing_ok=True)
        for path in (self._data / FOLDER).glob("*"):
            path.unlink(missing_ok=True)

    def process_of(self, address: str) -> int | None:
        return lock.holder(self._path(address))

    def working(self, address: str) -> Callable[[], bool]:
        return _Working(self, address)

    def _path(self, address: str) -> Path:
        return self._run / quote(address, safe="")


async def _end(path: Path) -> None:
    lock.kill_holder(path)
    if not await _is_free(path, lock.DIES_WITHIN_S):
        raise PodiumError(f"process {lock.holder(path)} of {path.name} was killed, and is still there")


async def _is_free(path: Path, within_s: float) -> bool:
    give_up_at = time.monotonic() + within_s
    while (handle := lock.try_take(path)) is None:
        if time.monotonic() >= give_up_at:
            return False
        await asyncio.sleep(_POLL_S)
    os.close(handle)
    return True


class _Working:
    """A function that tells whether the process at an address has used the processor since the last call."""

    def __init__(self, locks: ProcessLocks, address: str) -> None:
        self._locks, self._address = locks, address
        self._last: tuple[int, float, float] | None = None
        """Process id, its processor seconds, and the monotonic time of the last call."""

    def __call__(self) -> bool:
        pid = self._locks.process_of(self._address)
        if pid is None:
            return False
        try:
            used = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            return False
        last, self._last = self._last, (pid, used.user + used.system, time.monotonic())
        if last is None or last[0] != pid:
            return False
        return self._last[1] - last[1] > WORKING_SHARE * (self._last[2] - last[2])
