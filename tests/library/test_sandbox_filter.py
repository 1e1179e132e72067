"""The seccomp filter: what a box with walls may not do by system calls, for real at each level that has walls here, and
by an interpreter of the program for both architectures."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import socket
import struct
import subprocess

import pytest

from podium.protocols.library.sandbox import LEVELS, Box
from podium.protocols.library.sandbox_filter import ABSENT, DENIED, seccomp_program
from tests.support.boxes import WALLED, at, boxed, python

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}


def verdict(machine, number, *args, network=False, architecture=None):
    """What the kernel would make of a call."""
    program = list(struct.iter_unpack("=HBBI", seccomp_program(network, machine)))
    packed = struct.pack("<iIQ6Q", number, AUDIT[architecture or machine], 0, *args, *[0] * (6 - len(args)))
    at, held = 0, 0
    while True:
        code, jump_true, jump_false, operand = program[at]
        at += 1
        match code:
            case 0x20:
                held = struct.unpack_from("<I", packed, operand)[0]
            case 0x54:
                held &= operand
            case 0x15:
                at += jump_true if held == operand else jump_false
            case 0x35:
                at += jump_true if held >= operand else jump_false
            case 0x45:
                at += jump_true if held & operand else jump_false
            case 0x06:
                return operand


NUMBERS = {
    "x86_64": {"read": 0, "openat": 257, "fchmod": 91, "prlimit64": 302, "setpriority": 141, "ioprio_set": 251,
               "socket": 41, "socketpair": 53, "clone": 56, "mknodat": 259, "fchmodat": 268},
    "aarch64": {"read": 63, "openat": 56, "fchmod": 52, "prlimit64": 261, "setpriority": 140, "ioprio_set": 30,
                "socket": 198, "socketpair": 199, "clone": 220, "mknodat": 33, "fchmodat": 53},
}  # fmt: skip
CALLS = [
    ("read", (3, 0, 10), ALLOW),
    ("openat", (-100 % 2**64, 0, os.O_WRONLY | os.O_CREAT, 0o755), ALLOW),
    ("openat", (-100 % 2**64, 0, os.O_WRONLY | os.O_CREAT, 0o4755), EPERM),
    ("openat", (-100 % 2**64, 0, os.O_WRONLY | os.O_CREAT, 0o2755), EPERM),
    ("openat", (-100 % 2**64, 0, os.O_RDONLY, 0o6777), ALLOW),  # The mode does not count; it may be anything.
    ("openat", (-100 % 2**64, 0, 0o20000000 | os.O_WRONLY, 0o4700), EPERM),
    ("fchmod", (3, 0o1775), ALLOW),
    ("fchmod", (3, 0o777), EPERM),
    ("openat", (-100 % 2**64, 0, os.O_WRONLY | os.O_CREAT, 0o666), ALLOW),
    ("fchmod", (3, 0o4700), EPERM),
    ("fchmodat", (3, 0, 0o2700), EPERM),
    ("mknodat", (3, 0, 0o104755), EPERM),
    ("mknodat", (3, 0, 0o100755), ALLOW),
    ("prlimit64", (0, 7), ALLOW),
    ("prlimit64", (1, 7), EPERM),
    ("prlimit64", (2**31, 7), EPERM),
    ("setpriority", (0, 0, 5), ALLOW),
    ("setpriority", (0, 77, 5), EPERM),
    ("setpriority", (2, 0, 5), EPERM),  # All of the user's processes.
    ("ioprio_set", (1, 0, 0), ALLOW),
    ("ioprio_set", (3, 0, 0), EPERM),
    ("clone", (signal.SIGCHLD,), ALLOW),
    ("clone", (0x10000000 | signal.SIGCHLD,), EPERM),
    ("socketpair", (1, 1 | socket.SOCK_CLOEXEC), ALLOW),
    ("socketpair", (1, 2 | socket.SOCK_NONBLOCK), EPERM),
    ("socketpair", (1, 3), EPERM),
]


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize(("name", "args", "expected"), CALLS)
def test_the_program_decides_by_arguments_on_both_architectures(machine, name, args, expected):
    assert verdict(machine, NUMBERS[machine][name], *args) == expected


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17, 40, 38, 0, 255])
def test_sockets_are_of_the_internet_with_network_and_of_no_family_without(machine, family):
    number = NUMBERS[machine]["socket"]
    inside = family in (socket.AF_INET, socket.AF_INET6)
    assert verdict(machine, number, family, 1) == EPERM
    assert verdict(machine, number, family, 1, network=True) == (ALLOW if inside else EPERM)


@pytest.mark.parametrize("column", [0, 1])
def test_each_call_of_the_tables_fails(column):
    machine = list(NUMBERS)[column]
    for table, expected in ((DENIED, EPERM), (ABSENT, ENOSYS)):
        for name, numbers in table.items():
            if numbers[column] is not None:
                assert verdict(machine, numbers[column], 0, 0, 0, network=True) == expected, name


@pytest.mark.parametrize(("machine", "foreign"), [("x86_64", "i386"), ("x86_64", "aarch64"), ("aarch64", "arm")])
def test_calls_of_another_architecture_end_the_process(machine, foreign):
    assert verdict(machine, 3, architecture=foreign) == KILL


def test_calls_of_x32_end_the_process_and_so_does_a_number_that_is_none():
    assert verdict("x86_64", 0x40000000 + 39) == verdict("x86_64", 0x400001FF) == verdict("x86_64", -1) == KILL


def test_no_number_stands_twice_and_an_unknown_architecture_has_no_filter():
    for column in (0, 1):
        numbers = [each[column] for each in (*DENIED.values(), *ABSENT.values()) if each[column] is not None]
        assert len(numbers) == len(set(numbers))
    assert seccomp_program(False, "riscv64") is None


RAW = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    returned = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args))
    return "allowed" if returned >= 0 else errno.errorcode[ctypes.get_errno()]
"""
HERE = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)


def said(source, *args, box=None, level=None):
    ran = python(RAW + source, *args, box=box, level=level)
    assert ran.exit_code == 0, ran
    return ran.stdout.split()


@at(*WALLED)
@pytest.mark.parametrize("network", [False, True])
def test_every_call_of_the_tables_is_denied_by_the_kernel(level, network):
    numbers = [each[HERE] for each in DENIED.values() if each[HERE] is not None]
    source = f"for number in {numbers}:\n    print(call(number, 0, 0, 0, 0, 0))"
    assert set(said(source, box=Box(network=network), level=level)) == {"EPERM"}
    numbers = [each[HERE] for each in ABSENT.values() if each[HERE] is not None]
    source = f"for number in {numbers}:\n    print(call(number, 0, 0, 0, 0, 0))"
    assert set(said(source, box=Box(network=network), level=level)) == {"ENOSYS"}


@at(*WALLED)
@pytest.mark.parametrize("attempt", [
    "resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0))", "resource.prlimit(pid, resource.RLIMIT_NOFILE)",
    "resource.prlimit(os.getppid(), resource.RLIMIT_AS, (0, 0))", "os.setpriority(os.PRIO_PROCESS, pid, 19)",
    "os.setpriority(os.PRIO_USER, 0, 19)", "os.setpriority(os.PRIO_PGRP, 0, 19)", "os.sched_setaffinity(pid, {0})",
    "os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))", "os.sched_setparam(pid, os.sched_param(0))",
])  # fmt: skip
def test_another_process_keeps_its_limits_its_priority_and_its_processors(level, attempt):
    victim = subprocess.Popen(["sleep", "20"])
    try:
        source = f"import os, resource\npid = int(sys.argv[1])\ntry:\n    {attempt}\n    print('done')\n"
        source += "except OSError as error:\n    print(errno.errorcode[error.errno])"
        assert said(source, victim.pid, level=level) == ["EPERM"]
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@at(*LEVELS)
def test_a_tool_may_lower_its_own_limits_and_its_priority(level):
    source = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))
os.nice(3)
os.sched_setaffinity(0, os.sched_getaffinity(0))
print("well")"""
    assert said(source, level=level) == ["well"]


@at(*WALLED)
@pytest.mark.parametrize("network", [False, True])
def test_no_unix_socket_by_path_by_abstract_name_or_by_a_pair(level, network, tmp_path):
    place = str(tmp_path / "door")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as served, socket.socket(socket.AF_UNIX) as listening:
        served.bind(place)
        listening.bind(place + ".stream")
        listening.listen()
        served.setblocking(False)
        source = """
import socket
def attempt(what):
    try:
        what()
        print("reached")
    except OSError as error:
        print(errno.errorcode[error.errno])
def pair(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.sendto(b"in", sys.argv[1])
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    attempt(lambda: socket.socket(socket.AF_UNIX, kind).connect(sys.argv[1]))
    attempt(lambda: socket.socket(socket.AF_UNIX, kind).connect(chr(0) + "abstract"))
attempt(lambda: pair(socket.SOCK_DGRAM))
attempt(lambda: pair(socket.SOCK_RAW))
for family in (16, 17, 31, 38, 40):  # netlink, packet, bluetooth, alg, vsock
    attempt(lambda: socket.socket(family, socket.SOCK_RAW))
one, other = socket.socketpair()
one.send(b"x")
print(other.recv(1).decode())
"""
        box = Box(network=network, read=(str(tmp_path),))
        assert said(source, place, box=box, level=level) == ["EPERM"] * 13 + ["x"]
        with pytest.raises(BlockingIOError):
            served.recv(1)


@at(*WALLED)
@pytest.mark.parametrize("attempt", [
    "os.chmod(path, 0o666)",
    "os.chmod(path, 0o4755)", "os.chmod(path, 0o2700)", "os.chmod(path, 0o6777)",
    "os.fchmod(os.open(path, os.O_RDONLY), 0o4700)", "os.chmod(sys.argv[1] + '/sub', 0o2777)",
    "os.umask(0); os.close(os.open(sys.argv[1] + '/new', os.O_CREAT | os.O_WRONLY, 0o4755))",
    "os.umask(0); os.mknod(sys.argv[1] + '/new', 0o102755)",
])  # fmt: skip
def test_no_file_becomes_setuid_setgid_or_writable_by_all_even_where_it_may_write(level, attempt, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "sub").mkdir()
    source = f"import os\npath = sys.argv[1] + '/file'\ntry:\n    {attempt}\n    print('done')\n"
    source += "except OSError as error:\n    print(errno.errorcode[error.errno])"
    assert said(source, tmp_path, box=Box(write=(str(tmp_path),)), level=level) == ["EPERM"]
    assert all(path.stat().st_mode & 0o6002 == 0 for path in tmp_path.iterdir())


@at(*LEVELS)
def test_the_other_bits_of_a_mode_are_free_in_its_own_folder(level):
    source = "import os\nopen('own', 'w').close()\nos.chmod('own', 0o1755)\nprint(oct(os.stat('own').st_mode))"
    assert said(source, level=level) == ["0o101755"]


@at(*WALLED)
def test_a_thread_and_a_child_of_a_tool_are_held_too(level):
    source = """
import os, resource, threading
def attempt():
    try:
        resource.prlimit(1, resource.RLIMIT_CORE)
        print("done", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
if os.fork() == 0:
    attempt()
    os._exit(0)
os.wait()"""
    assert said(source, level=level) == ["EPERM", "EPERM"]


@at(*WALLED)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86")
def test_calls_of_i386_and_of_x32_end_the_tool(level):
    x32 = python(RAW + "call(0x40000000 + 39)", level=level)
    source = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20; int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print("allowed")"""
    i386 = python(source, level=level)
    assert x32.signal == i386.signal == signal.SIGSYS
    assert "allowed" not in i386.stdout


@at("process", "limits")
def test_what_weaker_levels_do_not_deny_is_as_the_documentation_says(level):
    victim = subprocess.Popen(["sleep", "20"])
    try:
        python("import resource, sys; resource.prlimit(int(sys.argv[1]), resource.RLIMIT_NOFILE, (9, 9))", victim.pid,
               level=level)  # fmt: skip
        assert resource.prlimit(victim.pid, resource.RLIMIT_NOFILE) == (9, 9)
    finally:
        victim.kill()
        victim.wait()


@at(*LEVELS)
def test_programs_of_every_day_run_in_the_box(level, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    line = f"cp {tmp_path}/a.txt . && tar cf x.tar a.txt && mkdir out && tar xf x.tar -C out && sort out/a.txt | wc -l"
    ran = boxed(["sh", "-c", line], Box(read=(str(tmp_path),)), level)
    assert (ran.exit_code, ran.stdout.strip()) == (0, "2"), ran
    assert python("import shutil, sys; shutil.copy(sys.argv[1], 'b'); print(open('b').read())", tmp_path / "a.txt",
                  box=Box(read=(str(tmp_path),)), level=level).exit_code == 0  # fmt: skip


@at(*LEVELS)
def test_with_network_names_are_resolved_and_the_internets_sockets_open(level):
    source = """
import asyncio, socket
print(bool(socket.getaddrinfo("localhost", 80)))
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        socket.socket(family, kind).close()
async def work():
    return "loop"
print(asyncio.run(work()))"""
    assert said(source, box=Box(network=True), level=level) == ["True", "loop"]
