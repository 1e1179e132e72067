"""The seccomp filter of a box: system calls that fail in it, even if Landlock and namespaces would allow them.

The filter is a program of the kernel's classic BPF, run at each system call, for x86_64 and aarch64. Calls of another
architecture (i386, x32, 32-bit ARM) end the process, because they have other numbers. Denied calls fail with EPERM. Two
kinds fail with ENOSYS instead, as on a kernel without them, so that libraries take the older way: calls for memory that
no limit counts, and calls whose arguments lie in memory, where no filter can look.

Numbers are from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.18. The filter
does not deny newer calls.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

_ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

Numbers: TypeAlias = tuple[int | None, int | None]
"""Numbers of a system call on x86_64 and on aarch64; None if the call does not exist there."""
Step: TypeAlias = tuple[int, int, int, int]
"""One instruction of the program: code, jump offsets if true and if false, operand."""

# Beyond the box: other processes, the kernel's keys, watching files, the machine itself.
_PROCESSES: Mapping[str, Numbers] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
_KEYRINGS: Mapping[str, Numbers] = {"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)}
_WATCHES: Mapping[str, Numbers] = {
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
}  # fmt: skip
_ATTRIBUTES: Mapping[str, Numbers] = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
_KERNEL: Mapping[str, Numbers] = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "syslog": (103, 116),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
}  # fmt: skip
_MOUNTS: Mapping[str, Numbers] = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "setns": (308, 268),
    "unshare": (272, 97), "open_by_handle_at": (304, 265),
}  # fmt: skip
DENIED: Mapping[str, Numbers] = {**_PROCESSES, **_KEYRINGS, **_WATCHES, **_ATTRIBUTES, **_KERNEL, **_MOUNTS}
"""Calls that fail with EPERM, whatever their arguments."""

# System V and POSIX message queues and shared memory outlive the tool, and reach those of others.
_UNCOUNTED: Mapping[str, Numbers] = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip
_UNSEEN: Mapping[str, Numbers] = {"clone3": (435, 435), "openat2": (437, 437), "io_uring_setup": (425, 425)}
"""Calls whose arguments lie in memory. io_uring opens sockets and files past any filter."""
ABSENT: Mapping[str, Numbers] = {**_UNCOUNTED, **_UNSEEN}
"""Calls that fail with ENOSYS."""

# Calls on a process (or thread) by its number: 0 is the caller itself. Name: numbers, index of that argument.
_ON_PROCESS: Mapping[str, tuple[Numbers, int]] = {
    "prlimit64": ((302, 261), 0), "sched_setaffinity": ((203, 122), 0), "sched_setscheduler": ((144, 119), 0),
    "sched_setparam": ((142, 118), 0), "sched_setattr": ((314, 274), 0),
}  # fmt: skip
# Calls on a kind of thing and its number: only (kind, 0) is the caller itself, and not its user or group.
_ON_KIND: Mapping[str, tuple[Numbers, int]] = {"setpriority": ((141, 140), 0), "ioprio_set": ((251, 30), 1)}
# Calls that change the mode of a file, anybody's that the user owns. Name: numbers, index of the mode.
_CHANGES_MODE: Mapping[str, tuple[Numbers, int]] = {
    "chmod": ((90, None), 1), "fchmod": ((91, 52), 1), "fchmodat": ((268, 53), 2), "fchmodat2": ((452, 452), 2),
}  # fmt: skip
# Calls that make a file. Name: numbers, index of the mode, and of the flags that say whether it counts.
_MAKES: Mapping[str, tuple[Numbers, int, int | None]] = {
    "creat": ((85, None), 1, None), "open": ((2, None), 2, 1), "openat": ((257, 56), 3, 2),
    "mknod": ((133, None), 1, None), "mknodat": ((259, 33), 2, None),
}  # fmt: skip
_SET_ID = 0o6000
_FOR_ALL = 0o002
"""Mode bit: writable by all. Allowed when a file is made, since the umask removes it; denied in a change of mode."""
_MAKES_FILE = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
_CLONE: Numbers = (56, 220)
_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_SOCKET: Numbers = (41, 198)
_SOCKETPAIR: Numbers = (53, 199)
_KIND_OF_SOCKET = 0xF
_NETWORK = (socket.AF_INET, socket.AF_INET6)
"""Socket families allowed with `network`. Unix sockets are not among them: they lead to services of this machine."""
_PAIRS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
"""Socket types allowed for a pair. A pair of datagram sockets could be connected anew, to any Unix socket by path."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_FAIL = 0x00050000 | errno.EPERM
_MISS = 0x00050000 | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # Offsets in struct seccomp_data.


def seccomp_program(network: bool, machine: str | None = None) -> bytes | None:
    """Return the filter; None on an architecture for which there is none.

    Args:
        network: whether sockets of the Internet's families may be opened; without it, `socket` fails for every family.
        machine: the name of the architecture as in `uname -m`; None is this machine's.

    Returns:
        An array of struct sock_filter, native byte order.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        return None
    column = list(_ARCHITECTURES).index(machine)
    program: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
    ]
    program += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for numbers, block in _blocks(network):
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, len(block), number), *block]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _blocks(network: bool) -> Iterator[tuple[Numbers, Sequence[Step]]]:
    """Yield each filtered call with the instructions that decide about it. They always end with a verdict."""
    for numbers in DENIED.values():
        yield numbers, [(_RETURN, 0, 0, _FAIL)]
    for numbers in ABSENT.values():
        yield numbers, [(_RETURN, 0, 0, _MISS)]
    for numbers, index in _ON_PROCESS.values():
        yield numbers, _only(index, (0,))
    for numbers, kind in _ON_KIND.values():
        yield numbers, [_argument(0), (_EQUAL, 1, 0, kind), (_RETURN, 0, 0, _FAIL), *_only(1, (0,))]
    for numbers, mode in _CHANGES_MODE.values():
        yield numbers, _without(mode, _SET_ID | _FOR_ALL)
    for numbers, mode, flags in _MAKES.values():
        yield numbers, _without(mode, _SET_ID, flags)
    yield _CLONE, _without(0, _NAMESPACES)
    yield _SOCKET, _only(0, _NETWORK) if network else [(_RETURN, 0, 0, _FAIL)]
    yield _SOCKETPAIR, _only(1, _PAIRS, _KIND_OF_SOCKET)


def _argument(index: int) -> Step:
    """Load the lower half of an argument. All checked arguments have 32 bits, on machines with the low byte first."""
    return _LOAD, 0, 0, _ARGUMENTS + 8 * index


def _only(index: int, values: Sequence[int], mask: int = 0xFFFFFFFF) -> list[Step]:
    """Allow the call if an argument has one of a few values; deny it otherwise."""
    hits: list[Step] = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_argument(index), (_AND, 0, 0, mask), *hits, (_RETURN, 0, 0, _FAIL), (_RETURN, 0, 0, _ALLOW)]


def _without(index: int, bits: int, flags: int | None = None) -> list[Step]:
    """Deny the call if an argument has one of some bits; with `flags`, only if these make a file."""
    verdict: list[Step] = [_argument(index), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _FAIL), (_RETURN, 0, 0, _ALLOW)]
    if flags is None:
        return verdict
    return [_argument(flags), (_ANY_BIT, 1, 0, _MAKES_FILE), (_RETURN, 0, 0, _ALLOW), *verdict]
