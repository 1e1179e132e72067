"""The keeper of one box: runs one tool, watches it, and leaves no process of it behind.

A stand-alone script, run by `python -I -S sandbox_child.py FD` as the leader of a session of its own. FD is a memory
file. It holds the order (marshalled, see `sandbox_launch.py`), and the keeper overwrites it with its report. The script
imports nothing of Podium, because its start is part of every tool's start.

The keeper is the subreaper of all processes that the tool starts. So each detached process becomes its child, and "no
child left" means exactly that the tool has ended. SIGUSR1 from Podium means: kill all, then exit. SIGTERM, which the
kernel sends when Podium's process dies, means the same, and to delete the box's folder. (The parent's id cannot tell
the two apart: the kernel sends the signal when the thread that forked is gone, some milliseconds before the process is
gone.) The limits are set between fork and exec, in a process with one thread.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing, contextlib and json would make each start half as long again.
    from collections.abc import Callable
    from typing import NoReturn

    from .sandbox_box import Order, Reason, Report, Walls, Watch

_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS, _AMBIENT = 1, 22, 24, 36, 38, 47
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WATCH_S = 0.02
"""Seconds between two checks of the tool's processes."""
_SWEEP_S = 6.0
"""Longest time for killing, in seconds. A process in an uninterruptible call does not die before the call returns."""
_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""Signals that the tool would inherit as ignored: Python ignores the first two, a shell may those of its background."""

_libc = ctypes.CDLL(None, use_errno=True)


class _ignoring:  # noqa: N801 - contextlib.suppress in small
    def __init__(self, *kinds: type[BaseException]) -> None:
        self.kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self.kinds)


class _RulesetAttribute(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


def main() -> NoReturn:
    order_fd = int(sys.argv[1])
    os.set_inheritable(order_fd, False)
    order: Order = marshal.loads(os.pread(order_fd, os.fstat(order_fd).st_size, 0))
    _prctl(_PDEATHSIG, signal.SIGTERM)
    _prctl(_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    if os.getppid() != order["parent"]:
        os._exit(1)
    outcome = _keep(order)
    report = marshal.dumps(dict(outcome))
    os.ftruncate(order_fd, 0)
    os.pwrite(order_fd, report, 0)
    if outcome["reason"] == "orphaned" or os.getppid() != order["parent"]:
        os.execv("/bin/rm", ["rm", "-rf", "--", order["folder"]])
    os._exit(0)


def _keep(order: Order) -> Report:
    """Run the tool to its end. When this returns, no process of the tool is left."""
    started = time.monotonic()
    tool, problem = _start(order)
    if problem:
        os.waitpid(tool, 0)
        return {"ended": True, "problem": problem, "code": None, "reason": "", "seconds": 0.0}
    # Only root may. A fork bomb leaves others little time, and RLIMIT_NPROC does not hold root's.
    with _ignoring(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    status, reason = _watch(tool, order, started + order["wall_s"])
    seconds = time.monotonic() - started
    swept = _sweep(tool)
    status = swept if status is None else status
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return {"ended": True, "problem": "", "code": code, "reason": reason, "seconds": seconds}


def _watch(tool: int, order: Order, deadline: float) -> tuple[int | None, Reason]:
    """Wait for the tool's main process, a signal, the deadline, or an exceeded limit.

    Returns:
        The wait status, None if the tool still lives; and why it has to end: "", "stopped", "orphaned", "time",
        "processes", "memory".
    """
    while True:
        remaining = max(0.0, deadline - time.monotonic())
        got = signal.sigtimedwait(_AWAITED, min(_WATCH_S, remaining) if order["watch"] else remaining)
        status = _reap(tool)[0]
        if status is not None:
            return status, ""
        if got is not None and got.si_signo != signal.SIGCHLD:
            return None, "orphaned" if got.si_signo == signal.SIGTERM else "stopped"
        if time.monotonic() >= deadline:
            return None, "time"
        exceeded = _exceeded(order["watch"]) if order["watch"] else ""
        if exceeded:
            return None, exceeded


def _reap(tool: int) -> tuple[int | None, bool]:
    """Collect the children that have ended.

    Returns:
        The status of the tool's main process if it has just ended, else None; and whether any child is left.
    """
    status = None
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, False
        if pid == 0:
            return status, True
        if pid == tool:
            status = ended


def _sweep(tool: int) -> int | None:
    """Kill all descendants.

    The tool's own process group is killed first. The kernel does this in one piece, so that no fork slips through; with
    bubblewrap this ends the whole process namespace. Processes that left the group are all stopped before the first of
    them is killed.

    Returns:
        The status of the tool's main process, if it was still to be collected.
    """
    deadline = time.monotonic() + _SWEEP_S
    with _ignoring(ProcessLookupError, PermissionError):
        os.killpg(tool, signal.SIGKILL)
    status, left = _reap(tool)
    while left and time.monotonic() < deadline:
        _stop_all(deadline)
        for pid in _descendants():
            _signal(pid, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.005)
        ended, left = _reap(tool)
        status = ended if status is None else status
    return status


def _stop_all(deadline: float) -> None:
    stopped: set[int] = set()
    while new := [pid for pid in _descendants(stop=True) if pid not in stopped]:
        stopped.update(new)
        if time.monotonic() >= deadline:
            return


def _signal(pid: int, number: int) -> None:
    with _ignoring(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants(stop: bool = False, most: int = 1 << 22) -> dict[int, int]:
    """Return the numbers of threads of all processes below this one, zombies included, by process id.

    Args:
        stop: whether each process is stopped when it is found, before its children are listed.
        most: listing ends with more processes than this, since a growing fork bomb would be followed for ever.
    """
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return _descendants_by_parent(stop)
    found: dict[int, int] = {}
    waiting = _children(os.getpid())[0]
    while waiting and len(found) <= most:
        pid = waiting.pop()
        if pid in found:
            continue
        if stop:
            _signal(pid, signal.SIGSTOP)
        children, found[pid] = _children(pid)
        waiting += children
    return found


def _children(pid: int) -> tuple[list[int], int]:
    """Return the children of a process, and the number of its threads."""
    children: list[int] = []
    threads = 0
    with _ignoring(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            threads += 1
            with _ignoring(OSError):
                children += map(int, _text(f"/proc/{pid}/task/{thread}/children").split())
    return children, threads


def _descendants_by_parent(stop: bool) -> dict[int, int]:
    """Do the same as `_descendants` on kernels without /proc/*/children, by reading every process of the machine."""
    below: dict[int, list[int]] = {}
    threads: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with _ignoring(OSError):
            fields = _text(f"/proc/{name}/stat").rpartition(")")[2].split()
            below.setdefault(int(fields[1]), []).append(int(name))
            threads[int(name)] = int(fields[17])
    found: dict[int, int] = {}
    waiting = list(below.get(os.getpid(), ()))
    while waiting:
        pid = waiting.pop()
        found[pid] = threads[pid]
        waiting += below.get(pid, ())
        if stop:
            _signal(pid, signal.SIGSTOP)
    return found


def _exceeded(watch: Watch) -> Reason:
    below = _descendants(most=watch["processes"])
    if len(below) > watch["processes"] or sum(below.values()) > watch["threads"]:
        return "processes"
    # Resident pages are quick to read, but shared ones count once for each process: the exact sum only if it matters.
    if _memory_bytes(below, _resident) > watch["memory_bytes"]:
        return "memory" if _memory_bytes(below, _proportional) > watch["memory_bytes"] else ""
    return ""


def _memory_bytes(pids: dict[int, int], of_one: Callable[[int], int]) -> int:
    total = 0
    for pid in pids:
        with _ignoring(OSError, IndexError):
            total += of_one(pid)
    return total


def _resident(pid: int) -> int:
    return int(_text(f"/proc/{pid}/statm").split()[1]) * resource.getpagesize()


def _proportional(pid: int) -> int:
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _start(order: Order) -> tuple[int, str]:
    """Fork and execute the tool.

    Returns:
        The process id, and the problem that prevented the execution; "" if there was none.
    """
    keeper = os.getpid()
    problem_read, problem_write = os.pipe()  # Closed by exec, which is how success shows.
    pid = os.fork()
    if pid == 0:
        try:
            _enclose(order, keeper)
            os.execve(order["argv"][0], order["argv"], order["env"])
        except BaseException as error:
            os.write(problem_write, f"{error or type(error).__name__}".encode()[:2000])
        os._exit(126)
    os.close(problem_write)
    with open(problem_read, encoding="utf-8", errors="replace") as problem:
        return pid, problem.read()


def _enclose(order: Order, keeper: int) -> None:
    """Give up everything that the order does not allow. Runs in the forked child."""
    os.setsid()
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(126)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    os.chdir(order["folder"])
    _limit(order["limits"])
    if order["tasks"] and os.getuid() != 0:
        _lower(resource.RLIMIT_NPROC, _tasks_of_user() + order["tasks"])
    if order["unprivileged"]:
        _drop_capabilities()
        _prctl(_NO_NEW_PRIVS, 1)
    if order["landlock"]:
        _landlock(order["landlock"])
    if order["seccomp"]:
        _seccomp(order["seccomp"])


def _limit(limits: list[tuple[int, int, int]]) -> None:
    for kind, soft, hard in limits:
        _lower(kind, soft, hard)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(kind)[1]
    highest = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        highest = min(highest, ceiling)
    resource.setrlimit(kind, (min(soft, highest), highest))


def _tasks_of_user() -> int:
    """Return the number of threads of this user on the whole machine. RLIMIT_NPROC counts these."""
    user, tasks = os.getuid(), 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with _ignoring(OSError):
            if os.stat(f"/proc/{name}").st_uid == user:
                tasks += int(_text(f"/proc/{name}/stat").rpartition(")")[2].split()[17])
    return tasks


def _drop_capabilities() -> None:
    """Drop all capabilities. Root then keeps only the ownership of root's files."""
    with _ignoring(OSError):
        _prctl(_AMBIENT, 4)
    with _ignoring(OSError):  # Ends behind the last capability; without the right to do it, at the first.
        for capability in range(64):
            _prctl(_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, nothing))


def _landlock(walls: Walls) -> None:
    attribute = _RulesetAttribute(walls["files"], walls["tcp"], walls["scopes"])
    size = ctypes.c_size_t(walls["attribute_bytes"])
    ruleset = _check(_libc.syscall(_CREATE_RULESET, ctypes.byref(attribute), size, 0))
    for path, access in walls["rules"]:
        with _ignoring(FileNotFoundError):
            _allow(ruleset, path, access, walls["on_files"])
    _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int, on_files: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(access if os.path.isdir(path) else access & on_files, target)
        _check(_libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0))
    finally:
        os.close(target)


def _seccomp(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    described = _Filter(len(program) // 8, ctypes.addressof(held))
    _prctl(_SECCOMP, 2, ctypes.addressof(described))


def _prctl(option: int, first: int, second: int = 0) -> None:
    numbers = (ctypes.c_ulong(each) for each in (first, second, 0, 0))
    _check(_libc.prctl(option, *numbers))


def _check(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned


if __name__ == "__main__":
    main()
