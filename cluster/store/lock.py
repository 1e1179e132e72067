"""The lock file of a shard, which allows one writing process. flock holds it until the process ends or closes it.

The lock of the kernel decides; the process id in the file is for people. When a process opens a shard, the level above
has decided that its predecessor must be gone, and `cluster.lock` keeps other clusters out. So a process that still
holds the shard after a wait is a zombie: stopped, swapped out, or hanging in a system call. It is killed, once the
kernel confirms that it holds the lock. If a zombie survives, the epoch check of each commit refuses its writes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from pathlib import Path

from ...protocols.errors import DataInUse, Fenced

LOG = logging.getLogger("podium")

DIES_WITHIN_S = 10.0
"""Longest time until the kernel frees the lock of a killed process, in seconds. The process may wait for the disk."""
_POLL_S = 0.02


def take(path: Path, what: str, wait_s: float, epoch: int = 0) -> int:
    """Take the lock file at `path`; returns its file descriptor. Closing the descriptor frees the lock.

    A dying predecessor gets `wait_s` seconds. If it holds the lock after that, it is killed.

    Args:
        what: name of the locked thing, for the log and for Fenced.

    Raises:
        Fenced: the lock was held under a newer epoch than `epoch`.
        DataInUse: this process holds the lock, or another process that could not be confirmed or killed.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _check_epoch(lock, what, epoch)
        if not _wait(lock, wait_s) and not (_end_zombie(path, what, wait_s) and _wait(lock, DIES_WITHIN_S)):
            raise DataInUse(directory=str(path.parent.parent), holder=f"process {(_written(lock) or ['unknown'])[0]}")
        _check_epoch(lock, what, epoch)  # again: a newer one may have come and gone meanwhile
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {epoch}".encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _written(lock: int) -> list[str]:
    """Return the process id and epoch of the present or last holder, as texts; [] if there was none."""
    return os.pread(lock, 64, 0).decode(errors="replace").split()


def _check_epoch(lock: int, what: str, epoch: int) -> None:
    newer = int("".join(_written(lock)[1:]) or 0)
    if newer > epoch:
        raise Fenced(shard=what, epoch=epoch, newer=newer)


def try_take(path: Path) -> int | None:
    """Take the lock file at `path` if it is free, else return None. Never waits, never kills. Raises OSError."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _is_ours(lock):
        return lock
    os.close(lock)
    return None


def let_go(held: int | None) -> None:
    """Free a lock that `try_take` returned."""
    if held is not None:
        os.close(held)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds the lock file, by the kernel; None if there is none or it is unconfirmed.

    /proc/locks has the id of the process that took the lock, even when only a child still holds it. So the process must
    also have the file open.
    """
    try:
        file = path.stat()
        held = Path("/proc/locks").read_text()
    except OSError:
        return None
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in held.splitlines():
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 2536 fe:00:2146310 0 EOF; one that waits has -> behind 1:
        if fields[1] == "FLOCK" and fields[5] == place and _has_open(int(fields[4]), file):
            return int(fields[4])
    return None


def kill_holder(path: Path) -> int | None:
    """Kill the process that holds the lock file; returns its id.

    Returns None if no process holds it, the kernel does not confirm the holder, the holder is this process, or the
    kill fails.
    """
    pid = holder(path)
    if pid is None or pid == os.getpid():
        return None
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if holder(path) == pid:  # asked again with the process in hand: its number cannot have passed to another
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError as error:
        LOG.warning("process %d cannot be killed: %s", pid, error)
        return None
    finally:
        os.close(process)
    return pid


def _has_open(pid: int, file: os.stat_result) -> bool:
    try:
        return any(os.path.samestat(file, _stat(handle)) for handle in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _stat(handle: Path) -> os.stat_result:
    try:
        return handle.stat()
    except FileNotFoundError:  # a pipe or a deleted file, or closed since it was listed
        return handle.lstat()


def _wait(lock: int, wait_s: float) -> bool:
    give_up_at = time.monotonic() + wait_s
    while not _is_ours(lock):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def _is_ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_zombie(path: Path, what: str, waited_s: float) -> bool:
    """Kill the process that holds the lock and log that. False if `kill_holder` killed nothing."""
    pid = kill_holder(path)
    if pid is None:
        return False
    LOG.warning("%s was still held by process %d after %g s, which is to be gone: killed it", what, pid, waited_s)
    return True
