"""Which process is the actor at an address, as the kernel knows it: a file per address under `run/`, locked for life.

Ray reports an actor as dead when it was told to kill it, five seconds before a process that is stopped is really
gone, and knows nothing of the processes of a cluster that broke. A lock that the kernel takes back when the
process is gone tells the truth in both cases, and whom to kill.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from urllib.parse import quote

import psutil

from ...protocols.errors import PodiumError
from ..store import lock
from .sockets import FOLDER

_POLL_S = 0.005
WORKING_SHARE = 0.1
"""Of one processor: who uses less does not compute."""
_held: dict[str, int] = {}
"""Handles of the locks that this process holds, so that they last as long as it does."""


def announce(data: Path, address: str, epoch: int) -> None:
    """This process is the actor at `address` from now on; one that still was is killed.

    `epoch` is the one of whoever started it. Raises Fenced if somebody with a newer one did so before: the starter
    is a zombie, and what it started must not run beside its successor's.
    """
    _held[address] = lock.take(_path(data, address), address, wait_s=0.0, epoch=epoch)


async def end(data: Path, address: str, patience_s: float = 0.0) -> None:
    """Kill the process at `address`, if any, and return when it is certainly gone.

    One that is about to end by itself gets `patience_s` for it.
    """
    path = _path(data, address)
    if path.exists() and not await _is_free(path, patience_s):
        await _end(path)


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


async def end_all(data: Path) -> None:
    """Kill whatever is left of an earlier cluster on `data`."""
    for path in sorted((data / "run").glob("*")):
        await _end(path)
        path.unlink(missing_ok=True)
    for path in (data / FOLDER).glob("*"):
        path.unlink(missing_ok=True)


def process_of(data: Path, address: str) -> int | None:
    """The number of the process at `address`, None if there is none."""
    return lock.holder(_path(data, address))


def _path(data: Path, address: str) -> Path:
    return data / "run" / quote(address, safe="")


class Working:
    """Whether the process at an address has used the processor since it was last asked."""

    def __init__(self, data: Path, address: str) -> None:
        self._data, self._address = data, address
        self._last: tuple[int, float, float] | None = None
        """Process, seconds of the processor, and when that was."""

    def __call__(self) -> bool:
        pid = process_of(self._data, self._address)
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
