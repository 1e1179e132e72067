"""The walls of a box as data: Landlock rules and bubblewrap's command line. sandbox_filter.py has the seccomp filter.

Pure, except that it asks the kernel for its Landlock version. `sandbox_child.py` applies the rules, in the child.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

from .sandbox_box import Box, Walls

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
"""Least Landlock version. Older ones (before Linux 6.2) do not deny truncating a file outside, which is writing."""

# linux/landlock.h: bits in the order in which the versions brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in (0, 1, 2, 3, 14, 15))
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals


def landlock_abi() -> int:
    """Return the kernel's Landlock version; 0 if there is none, or if it is switched off."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return max(0, int(call(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def readable(box: Box) -> tuple[str, ...]:
    """Return all readable paths: the system's programs, Python, and the paths of the box. Some may not exist."""
    python = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    resolver = (os.path.realpath("/etc/resolv.conf"),) if box.network else ()
    return tuple(dict.fromkeys((*_SYSTEM, *resolver, *python, *box.read)))


def landlock_rules(box: Box, folder: str, abi: int) -> Walls | None:
    """Return the rules that the child passes to the kernel; None if its Landlock is too weak to deny all writing.

    Args:
        folder: the box's own folder, which may be written.
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


def bubblewrap(program: str, box: Box, folder: str, seccomp_fd: int | None) -> Sequence[str]:
    """Return the command line of bubblewrap, which goes before the tool's own.

    Args:
        program: bubblewrap's path.
        seccomp_fd: a file with the filter; bubblewrap installs the filter last, when it needs no sockets itself any
            more.
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
