"""The part that all worlds share, wherever their actors live: clocks, timers, background work, user code."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import secrets
import shlex
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import psutil

from ..actors.coordinator import Coordinator
from ..actors.host import ProtocolHost
from ..actors.resources import ResourceActor
from ..actors.standby import Standby
from ..protocols.blame import trace_of
from ..protocols.errors import EngineClosed, HookFailed, PodiumError
from ..protocols.file import Drafting
from ..protocols.protocol import ProtocolLike, resolve
from ..supervisors.ports.blobs import BlobStore
from ..supervisors.ports.journal import Journal, Rest
from ..supervisors.ports.messaging import Actor
from ..supervisors.ports.world import Level, Load, Role, Timer, World
from ..supervisors.supervisor import Supervisor
from .blobs.patient import PatientBlobs
from .blobs.stores import blobs_of
from .engine_log import LEVELS, LOG, NAME, line_of
from .importing import importing
from .log_file import LogFile
from .log_lines import keep_log_lines
from .secret_places import read_secret
from .store.address import StoreAddress
from .store.stores import store_of
from .threads import Threads

keep_log_lines()
HOOK_S = 30.0
"""Longest time that the command of a hook may take, in seconds."""
SAMPLE_S = 1.0
"""Time between two samples of the machine's load, in seconds."""

_ROLES: dict[Role, Callable[[World], Actor]] = {
    "coordinator": Coordinator,
    "resources": ResourceActor,
    "supervisor": Supervisor,
    "host": ProtocolHost,
    "standby": Standby,
}


def new_actor(role: Role, world: World) -> Actor:
    return _ROLES[role](world)


class LoopWorld:
    """The part of `World` that needs no more than an event loop and a data directory."""

    def __init__(self, address: str, place: StoreAddress, on_crash: Callable[[Exception], None]) -> None:
        self.address, self.place, self.data = address, place, place.path
        self.random = Random()
        self.loop = asyncio.get_running_loop()
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads: Threads | None = None
        self.store = store_of(place)
        self.blobs: BlobStore = blobs_of(place)
        self._let_go: list[Callable[[], None]] = []
        """Functions that release the journals that this actor opened."""
        self._logs: list[LogFile] = []
        self._engine_log: LogFile | None = None
        self.crashed = False
        self.on_leaving: Callable[[Mapping[str, float]], None] = lambda _left_s: None
        self._load: Load | None = None
        self._sample_due_at = 0.0
        self.epoch = 0
        """Epoch of the journal that this actor opened; actors that it spawns are fenced by this epoch."""

    def now(self) -> float:
        return time.time()

    def clock(self) -> tuple[str, float]:
        return boot(), time.time() - time.monotonic()

    def secret_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def monotonic(self) -> float:
        return self.loop.time()

    def load(self) -> Load:
        if self._load is None:
            self._sample()
        return self._load or Load(0.0, 0.0)

    def _sample(self) -> None:
        """Sample the load every `SAMPLE_S`. CPU and lag are since the last sample, so the first has none."""
        now = self.loop.time()
        lag_s = 0.0 if self._load is None else max(0.0, now - self._sample_due_at)
        self._load = Load(psutil.cpu_percent() / 100, psutil.virtual_memory().percent / 100, lag_s)
        self._sample_due_at = now + SAMPLE_S
        self.call_later(SAMPLE_S, self._sample)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self.loop.call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    async def all(self, works: Iterable[Awaitable[Any]]) -> list[Any]:
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def log(self, level: Level, event: str, /, **fields: object) -> None:
        self._tell(level, event, fields)

    def _tell(self, level: Level, event: str, fields: Mapping[str, object], below: str = "") -> None:
        """Write an event to the logger and to the engine's log. `below` holds further lines of the same record."""
        is_heard = LOG.isEnabledFor(LEVELS[level])
        is_kept = self._engine_log is not None and level != "debug"
        if is_heard or is_kept:
            text = line_of(self.address, self.epoch, event, fields) + (f"\n{below}" if below else "")
            if is_heard:
                facts = {"address": self.address, "epoch": self.epoch, "event": event, **fields}
                LOG.log(LEVELS[level], "%s", text, extra={"podium": facts})
            if self._engine_log is not None and is_kept:
                self._engine_log.write(f"{level} {text}")

    def keep_log(self, most_bytes: int, kept: int) -> None:
        if most_bytes:
            self._engine_log = LogFile(self.data.resolve() / "logs", NAME, most_bytes, kept)
            self._logs.append(self._engine_log)

    def background(self, work: Awaitable[Any], name: str) -> None:
        task = self.loop.create_task(_awaited(work), name=f"{self.address}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self.crash(error)

    def crash(self, error: Exception) -> None:
        if not self.crashed:
            self.crashed = True
            below = "" if isinstance(error, PodiumError) else trace_of(error)
            self._tell("error", "crashed", {"reason": str(error), "error": type(error).__name__}, below)
            self._on_crash(error)

    def leave(self) -> None:
        self.crashed = True
        self._on_crash(EngineClosed(reason="its machine is taken away"))

    async def hand_over(self) -> bool:
        return False

    async def open_journal(self, shard: str) -> Journal:
        journal, let_go = await self.store.open_journal(shard)
        self._let_go.append(let_go)
        if self.crashed:
            let_go()  # it died while the shard was opened
        self.epoch = journal.epoch
        return journal

    async def open_count(self, shard: str) -> int:
        return self.store.reader.open_count(shard)

    async def rest(self, shard: str) -> Rest:
        return self.store.reader.rest(shard)

    @property
    def blobs_setting(self) -> str:
        return f"{self.place.blobs}, below {self.place.installation}" if self.place.blobs else ""

    def blobs_for_code(self, timeout_s: float) -> Drafting:
        return PatientBlobs(self.blobs, timeout_s)

    async def named_blobs(self) -> set[str]:
        names: set[str] = await self.in_thread(lambda: {use.name for use in self.store.reader.blob_uses()})
        return names

    def folder(self, name: str) -> str:
        path = self.data.resolve() / "protocols" / quote(name, safe="")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(path)

    def open_log(self, protocol: str, most_bytes: int, kept: int) -> Callable[[str], None]:
        log = LogFile(self.data.resolve() / "logs", protocol, most_bytes, kept)
        self._logs.append(log)
        return log.write

    def load_protocol(self, ref: str, code: bytes | None, search_path: list[str]) -> ProtocolLike:
        """Import a protocol. `code` is not used: only clusters with several processes send pickles."""
        return load_from_path(ref, search_path)

    def read_secret(self, source: str) -> str:
        return read_secret(source)

    async def run_command(self, command: str, text: str) -> None:
        await run_command(command, text)

    def from_thread(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(callback)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = Threads(self.address)
        return await asyncio.wrap_future(self._threads.submit(work))

    def release(self) -> None:
        """End the background work of an actor that is gone, and release its journals, logs and threads."""
        self.crashed = True
        for task in list(self._tasks):
            task.cancel()
        for let_go in self._let_go:
            let_go()
        for log in self._logs:
            log.close()
        if self._threads is not None:
            self._threads.close()


@cache
def boot() -> str:
    """Return an id of this boot of this machine. Values of the monotonic clock compare only within one boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {psutil.boot_time():.0f}"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop: uvloop's if installed, as Ray's own actors use, else asyncio's."""
    try:
        import uvloop  # noqa: PLC0415  (not on every platform)
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def run_command(command: str, text: str) -> None:
    """See `World.run_command`. A command that still runs after `HOOK_S` is killed, with all that it started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=PIPE, stdout=DEVNULL, stderr=PIPE, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise HookFailed(command=command, problem=str(error)) from error
    try:
        _, said = await asyncio.wait_for(process.communicate(text.encode()), HOOK_S)
    except TimeoutError as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise HookFailed(command=command, problem=f"still running after {HOOK_S:g} s, and ended") from error
    if process.returncode != 0:
        last = said.decode(errors="replace").strip()[-500:]
        raise HookFailed(command=command, problem=f"ended with {process.returncode}: {last}")


def load_from_path(ref: str, search_path: list[str]) -> ProtocolLike:
    """Import a protocol. The driver's import roots are appended to `sys.path`. Raises LookupError."""
    for folder in search_path:
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()
    with importing(ref):
        return resolve(ref)
