"""Starts boxes: folder, command line and order of the keeper, its report, and the levels that hold on this machine.

A launch owns one temporary folder, and the memory files that it shares with its keeper. `remove` deletes the folder;
the keeper deletes it if Podium's process died in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import marshal
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from .sandbox_box import LEVELS, Box, Level, Order, Report, ToolNotStarted, Watch
from .sandbox_filter import seccomp_program
from .sandbox_walls import bubblewrap, landlock_abi, landlock_rules

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEEPER = str(Path(__file__).with_name("sandbox_child.py"))
_OPEN_FILES = 256
_THREADS_PER_PROCESS = 16
_OWN_OF_BUBBLEWRAP = 2
"""Number of processes that bubblewrap adds to the tool's: one outside, and the first of its process namespace."""
_PROBE_S = 10.0


@dataclass(slots=True)
class Launch:
    """One box that is about to run, running or ended."""

    level: Level
    folder: str
    command: Sequence[str]
    """Command line of the keeper."""
    env: dict[str, str]
    fds: tuple[int, ...]
    """File descriptors that the keeper inherits under the same numbers. The first has the order, then the report."""
    stdin_fd: int
    """Sealed memory file with the whole stdin. A file, not a pipe, so that nobody has to feed it."""

    def report(self) -> Report | None:
        """Return the keeper's report; None if the keeper was killed before its end."""
        written: Report = marshal.loads(os.pread(self.fds[0], os.fstat(self.fds[0]).st_size, 0))
        return written if written.get("ended") else None

    def close(self) -> None:
        for fd in (self.stdin_fd, *self.fds):
            os.close(fd)

    def remove(self) -> None:
        """Delete the folder, including folders that the tool made unreadable. Blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if os.path.exists(self.folder):
            for place, folders, _ in os.walk(self.folder):
                for each in (os.path.join(place, name) for name in folders):
                    if not os.path.islink(each):
                        os.chmod(each, 0o700)
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill_strays(self) -> None:
        """Kill the processes that have this box's folder as TMPDIR. A killed keeper leaves them."""
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("TMPDIR") == self.folder:
                with contextlib.suppress(psutil.Error):
                    process.kill()


def prepare(argv: Sequence[str], box: Box, level: Level, stdin: bytes = b"") -> Launch:
    """Prepare everything for the start of the keeper. The caller must call `close` and `remove`.

    Raises:
        ToolNotStarted: there is no such program.
    """
    folder = tempfile.mkdtemp(prefix="podium-box-")
    env = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder}
    order_fd = os.memfd_create("podium-box")
    launch = Launch(
        level, folder, [sys.executable, "-I", "-S", _KEEPER, str(order_fd)], env, (order_fd,), _sealed(stdin)
    )
    try:
        program = shutil.which(argv[0], path=PATH)
        if program is None:
            raise ToolNotStarted(program=argv[0], problem="there is no such program")
        order = _order([program, *argv[1:]], box, launch)
        os.pwrite(order_fd, marshal.dumps(dict(order)), 0)
    except BaseException:
        launch.close()
        launch.remove()
        raise
    return launch


def _order(argv: list[str], box: Box, launch: Launch) -> Order:
    strength = LEVELS.index(launch.level)
    order: Order = {
        "argv": argv,
        "env": launch.env,
        "folder": launch.folder,
        "parent": os.getpid(),
        "wall_s": box.wall_s,
        "limits": _limits(box) if strength >= 1 else [],
        "tasks": box.processes * _THREADS_PER_PROCESS if launch.level in ("limits", "landlock") else 0,
        "watch": _watched(box, launch.level) if strength >= 1 else None,
        "unprivileged": launch.level in ("limits", "landlock"),  # Bubblewrap needs what it then drops itself.
        "landlock": None,
        "seccomp": None,
    }
    program = seccomp_program(box.network)
    if launch.level == "landlock":
        order["landlock"] = landlock_rules(box, launch.folder, landlock_abi())
        order["seccomp"] = program
    if launch.level == "bubblewrap":
        launch.fds += (_sealed(program),) if program else ()
        found = shutil.which("bwrap", path=PATH) or "bwrap"
        order["argv"] = [*bubblewrap(found, box, launch.folder, launch.fds[1] if program else None), *argv]
    return order


def _sealed(content: bytes) -> int:
    """Return a memory file with this content, at its beginning. It is sealed, so that no tool can change or fill it."""
    fd = os.memfd_create("podium-box", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _limits(box: Box) -> list[tuple[int, int, int]]:
    """Return resource, soft and hard limit. Processor time has one second more for tools that ignore SIGXCPU."""
    alike = {
        resource.RLIMIT_AS: box.memory_bytes,
        resource.RLIMIT_FSIZE: box.file_bytes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    return [(resource.RLIMIT_CPU, box.cpu_s, box.cpu_s + 1), *((kind, most, most) for kind, most in alike.items())]


def _watched(box: Box, level: Level) -> Watch:
    own = _OWN_OF_BUBBLEWRAP if level == "bubblewrap" else 0
    return {
        "processes": box.processes + own,
        "threads": box.processes * _THREADS_PER_PROCESS + own,
        "memory_bytes": box.memory_bytes,
    }


_PROBE = """
import os, resource, socket, sys
port, secret, level = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def denied(attempt, error):
    try:
        attempt()
    except error:
        return True
    return False
open("own", "w").write("own")
held = level == "process" or denied(lambda: bytearray(1 << 30), MemoryError)
if level in ("landlock", "bubblewrap"):
    held &= denied(lambda: open(secret).read(), OSError)
    held &= denied(lambda: open(secret, "a"), OSError)
    held &= denied(lambda: os.truncate(secret, 0), OSError)
    held &= denied(lambda: open(secret + ".new", "w"), OSError)
    held &= denied(lambda: socket.create_connection(("127.0.0.1", port), 1), OSError)
if level == "landlock":
    held &= denied(lambda: socket.socket(socket.AF_UNIX), OSError)
    held &= denied(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE), OSError)
sys.stdout.write("held" if held else "open")
"""


@functools.cache
def levels() -> tuple[Level, ...]:
    """Return the levels that really hold on this machine, weakest first, found by a real attempt at each.

    The first call in a process blocks for about a quarter of a second; later calls cost nothing.
    """
    with _bait() as (port, secret):
        return tuple(level for level in LEVELS if _holds(level, port, secret))


@contextlib.contextmanager
def _bait() -> Iterator[tuple[int, str]]:
    """Yield the port of a listener, and a file. No box may reach either of them."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryDirectory(prefix="podium-bait-") as place,
    ):
        secret = os.path.join(place, "secret")
        Path(secret).write_text("secret", encoding="utf-8")
        yield listener.getsockname()[1], secret


def _holds(level: Level, port: int, secret: str) -> bool:
    if level == "landlock" and (landlock_rules(Box(), "/", landlock_abi()) is None or seccomp_program(False) is None):
        return False
    argv = [sys.executable, "-I", "-S", "-c", _PROBE, str(port), secret, level]
    launch = prepare(argv, Box(wall_s=_PROBE_S), level)
    try:
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        ran = subprocess.run(
            launch.command, env=launch.env, pass_fds=launch.fds, stdin=launch.stdin_fd, stdout=pipe, stderr=null,
            timeout=2 * _PROBE_S, start_new_session=True, check=False,
        )  # fmt: skip
        return ran.stdout == b"held"
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        launch.close()
        launch.remove()
