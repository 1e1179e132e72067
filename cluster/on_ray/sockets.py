"""Carries frames between two processes of one machine over a Unix socket, the faster transport of an exchange.

An actor on Ray listens on a socket file of its own as soon as it has started. Peers connect to that file. A call takes
a ninth of the time of a Ray call (0.1 against 0.9 ms), and the kernel reports the death of the other process at once. A
connection belongs to one process, so it is bound to one incarnation of the actor. Without a socket, or if nobody
listens, frames go by Ray's actor calls instead: on another machine, or while an actor starts.

On the wire, each frame and each answer follows a header: its length, and the number of the call.

Only the owner of the data directory may enter the folder of the files. A peer must first send the directory's secret
(token_file.py). A peer with a wrong secret is disconnected, and nothing that it sent is read. The files are reached
through a descriptor of their folder, because a socket's path may have only 107 bytes, and data directories are longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

from ...actors.exchange import DEFAULT_LIMITS
from ...protocols.errors import PeerLost, Unknown
from .token_file import SIZE_BYTES, token_of

LOG = logging.getLogger("podium")
FOLDER = "sockets"
"""Name of the folder of socket files in the data directory."""
SHOW_S = 10.0
"""Longest time until a new connection has sent the secret, in seconds."""
BACKLOG = 4096
"""Largest number of connections that wait to be accepted."""
_HEADER = struct.Struct("!QQ")


class _Stream(asyncio.Protocol):
    """A connection that carries numbered frames."""

    def __init__(self, max_bytes: int) -> None:
        """A peer that announces a frame of more than `max_bytes` is disconnected."""
        self._buffer, self._max_bytes = bytearray(), max_bytes
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        buffer, start = self._buffer, 0
        while len(buffer) - start >= _HEADER.size:
            length, number = _HEADER.unpack_from(buffer, start)
            if length > self._max_bytes:
                self.hang_up()
                return
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            self.take(number, bytes(memoryview(buffer)[start + _HEADER.size : end]))
            start = end
        del buffer[:start]

    def take(self, number: int, frame: bytes) -> None:
        raise NotImplementedError

    def carry(self, number: int, frame: bytes) -> None:
        """Send a frame, if the connection is still open."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_HEADER.pack(len(frame), number) + frame)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Served(_Stream):
    """The server's end of a connection: passes frames to the actor, and sends its answers back."""

    def __init__(self, take_in: Callable[[bytes, Callable[[bytes], None]], None], token: bytes) -> None:
        super().__init__(DEFAULT_LIMITS.frame_bytes)
        self._take_in, self._token = take_in, token
        self._shown: bytearray | None = bytearray()
        """The bytes of the secret received so far; None once the secret was right."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        asyncio.get_running_loop().call_later(SHOW_S, self._check_shown)

    def _check_shown(self) -> None:
        if self._shown is not None:
            self.hang_up()

    def data_received(self, data: bytes) -> None:
        if self._shown is not None:
            self._shown += data
            if len(self._shown) < SIZE_BYTES:
                return
            shown, data = bytes(self._shown[:SIZE_BYTES]), bytes(self._shown[SIZE_BYTES:])
            if not hmac.compare_digest(shown, self._token):
                LOG.warning("a connection without the secret of the data directory was cut off")
                self.hang_up()
                return
            self._shown = None
        super().data_received(data)

    def take(self, number: int, frame: bytes) -> None:
        self._take_in(frame, partial(self.carry, number))


class Wire(_Stream):
    """The client's end of a connection. It is callable, as the `Transport` of an exchange."""

    def __init__(self, address: str, token: bytes) -> None:
        super().__init__(sys.maxsize)  # what the other side answers was made here, in this data directory
        self._address, self._token = address, token
        self._waiting: dict[int, Callable[[bytes | Unknown], None]] = {}
        self._calls = 0
        self._early: list[tuple[int, bytes]] = []
        """Calls made before the event loop had taken the connection over."""
        self._lost: PeerLost | None = None

    def __call__(self, frame: bytes, then: Callable[[bytes | Unknown], None]) -> None:
        if self._lost is not None:
            asyncio.get_running_loop().call_soon(then, self._lost)
            return
        self._calls += 1
        self._waiting[self._calls] = then
        if self.transport is None:
            self._early.append((self._calls, frame))
        else:
            self.carry(self._calls, frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(self._token)  # type: ignore[union-attr]
        for number, frame in self._early:
            self.carry(number, frame)
        self._early.clear()
        if self._lost is not None:
            self.hang_up()

    def take(self, number: int, frame: bytes) -> None:
        then = self._waiting.pop(number, None)
        if then is not None:
            then(frame)

    def connection_lost(self, error: Exception | None) -> None:
        self.lose(f"its process ended the connection{f': {error}' if error else ''}")

    def lose(self, reason: str) -> None:
        """End every call that is under way, and every later one, as PeerLost."""
        if self._lost is None:
            self._lost = PeerLost(address=self._address, reason=reason)
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then(self._lost)

    def close(self) -> None:
        """Close the connection from this side. Callers that wait get no answer."""
        self._waiting.clear()
        self._early.clear()
        self._lost = self._lost or PeerLost(address=self._address, reason="this side closed the exchange")
        self.hang_up()


def connect(data: Path, address: str) -> Wire | None:
    """Connect to the process of the actor at `address`; None if it cannot be reached by socket."""
    near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(False)
    try:
        with _Entered(data / FOLDER) as folder:
            near.connect(f"{folder}/{_name(address)}")
        token = token_of(data)
    except OSError:  # nobody is there, or too many wait
        near.close()
        return None
    wire, loop = Wire(address, token), asyncio.get_running_loop()
    taking = loop.create_task(loop.create_unix_connection(lambda: wire, sock=near))
    taking.add_done_callback(partial(_taken, wire))
    return wire


def _taken(wire: Wire, taking: asyncio.Task[object]) -> None:
    if taking.cancelled():
        wire.lose("the connection was given up")
    elif (error := taking.exception()) is not None:
        wire.lose(str(error))


async def listen(
    data: Path, address: str, take_in: Callable[[bytes, Callable[[bytes], None]], None]
) -> asyncio.AbstractServer:
    """Listen at `address`, in place of any earlier process; returns the server. Raises OSError."""
    (data / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    token = token_of(data)
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _Entered(data / FOLDER) as folder:
            own = f"{folder}/{_name(address)}.{os.getpid()}"
            with suppress(FileNotFoundError):
                os.unlink(own)
            far.bind(own)
            far.listen(BACKLOG)
            far.setblocking(False)
            os.rename(own, f"{folder}/{_name(address)}")
    except OSError:
        far.close()
        raise
    return await asyncio.get_running_loop().create_unix_server(lambda: _Served(take_in, token), sock=far)


def _name(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]


class _Entered:
    """A context in which a folder has a short path."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._handle = folder, -1

    def __enter__(self) -> str:
        self._handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._handle}"

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
