"""The walls of a box as data: Landlock rules, seccomp programs, bubblewrap's command line.

Pure but for asking the kernel for its Landlock version. `sandbox_child.py` applies what is made here, in the child.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence

from .sandbox_box import Box

_ETC: tuple[str, ...] = (
    "alternatives",
    "ca-certificates",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
)
_ETC += ("localtime", "mime.types", "nsswitch.conf", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", *(f"/etc/{name}" for name in _ETC))
_PROC = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_GET_VERSION = 1
_CREATE_RULESET = 444  # The same number on every architecture.
_LEAST_ABI = 3
"""Before it (Linux 6.2) truncating a file outside is not denied, which is writing."""

# linux/landlock.h: bits in the order in which the versions brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in (0, 1, 2, 3, 14, 15))
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals

_ARCHITECTURE: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET: Mapping[str, int] = {"x86_64": 41, "aarch64": 198}
_UNCOUNTED: Mapping[str, tuple[int, ...]] = {
    "x86_64": (29, 64, 68, 240, 319, 425, 447),
    "aarch64": (194, 190, 186, 180, 279, 425, 447),
}
"""shmget, semget, msgget, mq_open, memfd_create, memfd_secret: memory that no limit counts, and the first four
outlive the tool. io_uring_setup: opens sockets past any filter."""
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 if there is none, or it is switched off."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return max(0, int(call(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def readable(box: Box) -> tuple[str, ...]:
    """All that may be read: the system's programs, Python, and what the box adds. Some may not exist."""
    python = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    resolver = (os.path.realpath("/etc/resolv.conf"),) if box.network else ()
    return tuple(dict.fromkeys((*_SYSTEM, *resolver, *python, *box.read)))


def landlock_rules(box: Box, folder: str, abi: int) -> dict[str, object] | None:
    """What the child hands to the kernel, None if the kernel's Landlock is too weak to deny all writing.

    Args:
        folder: the box's own, which may be written.
    """
    if abi < _LEAST_ABI:
        return None
    everything = (1 << (16 if abi >= 5 else 15)) - 1
    rules = [(path, _READ) for path in (*readable(box), *_PROC)]
    rules += [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES]
    rules += [(path, everything) for path in (*box.write, folder)]
    return {
        "files": everything,
        "tcp": _TCP if abi >= 4 and not box.network else 0,
        "scopes": _SCOPES if abi >= 6 else 0,
        "on_files": _ON_FILES & everything,
        "rules": rules,
        "attribute_bytes": 24 if abi >= 6 else 16 if abi >= 4 else 8,
    }


def seccomp_program(network: bool) -> bytes | None:
    """A filter that fails what Landlock and namespaces leave open; None on an unknown architecture.

    Without network `socket` fails for every family, Unix sockets too: through one, a tool would reach the
    services of this machine. Socket pairs stay.

    Returns:
        An array of struct sock_filter, native byte order.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURE:
        return None
    denied = [(number, errno.ENOSYS) for number in _UNCOUNTED[machine]]
    if not network:
        denied.append((_SOCKET[machine], errno.EACCES))
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURE[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number, error in denied:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in program)


def bubblewrap(program: str, box: Box, folder: str, seccomp_fd: int | None) -> Sequence[str]:
    """The command line that goes before the tool's own.

    Args:
        program: bubblewrap's path.
        seccomp_fd: holds the filter; bubblewrap installs it last, when it needs no sockets itself any more.
    """
    line = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    line += ["--share-net"] if box.network else []
    for path in readable(box):
        line += ["--ro-bind-try", path, path]
    line += ["--proc", "/proc", "--dev", "/dev"]
    for path in box.write:
        line += ["--bind-try", path, path]
    line += ["--bind", folder, folder, "--chdir", folder]
    line += ["--seccomp", str(seccomp_fd)] if seccomp_fd is not None else []
    return [*line, "--remount-ro", "/dev", "--remount-ro", "/", "--"]
