"""The sandbox in which Podium runs tools: foreign programs and functions, each in a box of its own.

A tool gets a new session, a clean environment, its stdin, and a temporary folder as its working directory, which is
deleted afterwards. The tool ends when its main process ends, at the wall-clock limit, or when the awaiting task is
cancelled. In each case all processes that it started are killed with SIGKILL before `run_boxed` returns, detached ones
included. The same happens when Podium's own process or the thread of the event loop dies.

There are four levels. They deny, each in addition to the levels before it:

    process     nothing. The tool may do all that Podium's user may.
    limits      processor time, memory, size of files, number of processes. No capabilities: of root, only the
                ownership of root's files is left, and setuid programs gain nothing.
    landlock    reading and writing outside the box's folders; any socket, if `network` is not given, and with it all
                but those of the Internet (no Unix sockets); signals to other processes from Linux 6.12; limits,
                priority and processors of other processes; ptrace and the memory of others; keyrings; watching files
                (inotify); setuid and setgid bits, and making files writable by all; extended attributes; shared
                memory and queues of System V; bpf, perf, userfaultfd, mounts and new namespaces; calls of a foreign
                architecture, which end the tool.
                Still allowed: seeing whether a file exists, its size and mode, and changing the other bits of the
                mode, owner and times of the user's own files. Needs Linux 6.2, on x86_64 or aarch64.
    bubblewrap  the rest of the machine is invisible: own root folder (read-only), processes, network, IPC. Landlock is
                not used, since the namespaces make it needless; the same system calls fail (sandbox_filter.py).

The box's keeper checks the number of processes and their total memory every 20 ms, because the kernel's own limit
counts per user and spares root. A fork bomb can exceed its number for that long, and is then killed as a whole. Only
`file_bytes` for each file and `wall_s` limit the disk space in the folder.

`levels` finds the available levels by trying; nothing is configured. `Box.minimum` is the weakest level at which a tool
may run. At the first two levels, and with Landlock before Linux 6.12, a tool can kill its keeper. The processes that it
left behind are then found by their environment, which a hostile program can hide.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import InvalidInput
from .sandbox_box import LEVELS, Box, Exceeded, Level, Ran, Report, SandboxTooWeak, ToolFailed, ToolNotStarted
from .sandbox_launch import Launch, levels, prepare

T = TypeVar("T")

__all__ = [
    "LEVELS",
    "Box",
    "Exceeded",
    "Level",
    "Ran",
    "SandboxTooWeak",
    "ToolFailed",
    "ToolNotStarted",
    "levels",
    "run_boxed",
    "run_function",
]

_CALL = str(Path(__file__).with_name("sandbox_call.py"))
_PLAIN = Box()
_GRACE_S = 8.0
"""Seconds beyond its own limits after which a keeper counts as dead."""
_DRAIN_S = 1.0
"""Seconds to wait for the rest of the output after the keeper's end."""
_LOOK_S = 0.003


async def run_boxed(argv: Sequence[str], box: Box = _PLAIN, stdin: bytes = b"", level: Level | None = None) -> Ran:
    """Run a program in a box, to its end. On return, no process and no temporary file is left.

    Args:
        argv: the program, by its path or by a name that is looked up in the system's folders, and its arguments.
        level: the level to run at; None is the strongest available one.

    Raises:
        SandboxTooWeak: the level is not available here, or below `box.minimum`.
        ToolNotStarted: the program does not exist or must not be executed in this box.
    """
    chosen = _choose(await asyncio.to_thread(levels), box.minimum, level)
    started = asyncio.get_running_loop().time()
    launch = prepare(argv, box, chosen, stdin)
    kept = _Kept(box.output_bytes), _Kept(box.output_bytes)
    try:
        process = await _spawn(launch, kept)
        try:
            with contextlib.suppress(TimeoutError):  # The keeper sees to the limits; this is for one that is stuck.
                await asyncio.wait_for(process.wait(), box.wall_s + _GRACE_S)
        finally:
            await _end(process, launch)
        await asyncio.wait([stream.ended for stream in kept], timeout=_DRAIN_S)
        return _told(launch, argv[0], kept, asyncio.get_running_loop().time() - started)
    finally:
        for stream in kept:
            stream.close()
        launch.close()
        cancelled = await _outlast(asyncio.get_running_loop().run_in_executor(None, launch.remove))
        if cancelled:
            raise cancelled


async def run_function(
    ref: str, value: object, box: Box = _PLAIN, search_path: tuple[str, ...] = (), level: Level | None = None
) -> object:
    """Call a Python function in a box, in a new interpreter of the same installation.

    Args:
        ref: `module:name`; an `async def` is awaited.
        value: the only argument of the function; must be JSON.
        box: `output_bytes` bounds the answer too.
        search_path: folders to import from, before the installed packages; the box may read them.

    Returns:
        The function's result, which must be JSON.

    Raises:
        ToolFailed: the function raised, did not answer, or was ended by a limit.
        InvalidInput: `value` is not JSON.
        SandboxTooWeak: as for `run_boxed`.
    """
    places = _absolute(search_path)
    try:
        order = json.dumps({"ref": ref, "value": value, "search_path": places}).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(problem=f"the input of '{ref}' is not JSON: {error}") from error
    wider = box.model_copy(update={"read": (*box.read, *places, _CALL)})
    return _answer(ref, box, await run_boxed([sys.executable, "-I", "-B", _CALL], wider, order, level))


def _absolute(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(os.path.abspath(folder) for folder in folders)


def _answer(ref: str, box: Box, ran: Ran) -> object:
    if ran.timed_out:
        message = f"'{ref}' ran out of time: {box.wall_s:g} s allowed, {ran.seconds:.1f} s used"
        raise ToolFailed(message=message, kind="TimeoutError")
    if ran.exceeded == "memory":
        raise ToolFailed(message=f"'{ref}' used more than {box.memory_bytes} bytes", kind="MemoryError")
    if ran.exceeded == "processes":
        raise ToolFailed(message=f"'{ref}' had more than {box.processes} processes", kind="ProcessLimit")
    if ran.exit_code != 0:
        ended = f"signal {ran.signal}" if ran.exit_code is None else f"exit code {ran.exit_code}"
        raise ToolFailed(message=f"'{ref}' ended with {ended}: {ran.stderr[-2000:]}", kind="ProcessDied")
    try:
        answer = json.loads(ran.stdout)
    except ValueError:
        message = f"the answer of '{ref}' is incomplete: at most {box.output_bytes} bytes are allowed"
        raise ToolFailed(message=message, kind="InvalidAnswer") from None
    match answer:
        case {"value": value}:
            return value
        case {"kind": str(kind), "message": str(message), "traceback": str(traceback)}:
            raise ToolFailed(message=message, kind=kind, traceback=traceback)
        case _:
            raise ToolFailed(message=f"'{ref}' wrote an answer of its own", kind="InvalidAnswer")


def _choose(available: tuple[Level, ...], minimum: Level, level: Level | None) -> Level:
    strongest = available[-1] if available else None
    if level is not None and level not in available:
        raise SandboxTooWeak(demanded=level, available=strongest)
    chosen = level or strongest
    if chosen is None or LEVELS.index(chosen) < LEVELS.index(minimum):
        raise SandboxTooWeak(demanded=minimum, available=chosen)
    return chosen


class _Kept(asyncio.Protocol):
    """Keeps the beginning of a stream. It reads to the end and drops all beyond the limit, so that no writer blocks.

    We make the pipe ourselves, because `Process.wait` waits for the end of the pipes that asyncio made: a process that
    holds one open would delay the killing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.content, self.truncated = limit_bytes, bytearray(), False
        read_fd, self.write_fd = os.pipe()
        self.reader = open(read_fd, "rb", buffering=0)  # noqa: SIM115 - the transport closes it
        self.transport: asyncio.BaseTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        self.transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, self.reader)

    def data_received(self, chunk: bytes) -> None:
        space = self.limit_bytes - len(self.content)
        self.content += chunk[:space]
        self.truncated |= len(chunk) > space

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close_writer(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        self.close_writer()
        if self.transport is not None:
            self.transport.close()
        else:
            self.reader.close()

    def text(self) -> str:
        return self.content.decode("utf-8", errors="replace")


async def _spawn(launch: Launch, kept: tuple[_Kept, _Kept]) -> Process:
    """Start the keeper. A cancellation meanwhile takes effect after the start, and then ends the keeper."""
    for stream in kept:
        await stream.listen()
    starting = asyncio.create_subprocess_exec(
        *launch.command,
        stdin=launch.stdin_fd,
        stdout=kept[0].write_fd,
        stderr=kept[1].write_fd,
        env=launch.env,
        pass_fds=launch.fds,
        start_new_session=True,
    )
    spawning = asyncio.ensure_future(starting)
    cancelled = await _outlast(spawning)
    for stream in kept:
        stream.close_writer()
    if cancelled:
        if not spawning.cancelled() and not spawning.exception():
            await _end(spawning.result(), launch)
        raise cancelled
    return spawning.result()


async def _end(process: Process, launch: Launch) -> None:
    """End the keeper and all processes below it."""
    if process.returncode is None:
        process.send_signal(
            signal.SIGUSR1
        )  # no SIGINT: in the background of a shell that is ignored, and would be lost
        await _gone(process)
    if process.returncode is None:
        process.kill()
        await _gone(process)
    if launch.report() is None:
        launch.kill_strays()


async def _gone(process: Process) -> None:
    """Wait at most `_GRACE_S` for the end of the process. Cancellations are ignored, since one may have led here.

    This polls, because a waiting task would itself be cancelled when the loop shuts down.
    """
    deadline = asyncio.get_running_loop().time() + _GRACE_S
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(_LOOK_S)


async def _outlast(future: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Wait until the future is done. Returns the cancellation that came meanwhile; the caller must raise it."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _told(launch: Launch, program: str, kept: tuple[_Kept, _Kept], seconds: float) -> Ran:
    """Convert the keeper's report. Without one, keeper and tool were killed, and `seconds` is the measured time."""
    killed: Report = {"ended": False, "problem": "", "code": -signal.SIGKILL, "reason": "", "seconds": seconds}
    report = launch.report() or killed
    if report["problem"]:
        raise ToolNotStarted(program=program, problem=report["problem"])
    code = report["code"] if report["code"] is not None else -signal.SIGKILL
    if launch.level == "bubblewrap" and 128 < code <= 128 + signal.NSIG - 1:
        code = 128 - code  # What bubblewrap makes of a signal, as shells do.
    return Ran(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        stdout=kept[0].text(),
        stderr=kept[1].text(),
        truncated=kept[0].truncated or kept[1].truncated,
        timed_out=report["reason"] == "time",
        exceeded=report["reason"] if report["reason"] in ("processes", "memory") else None,
        seconds=report["seconds"],
        level=launch.level,
    )
