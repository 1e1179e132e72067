"""An MCP server as a child process: messages are lines on its standard input and output.

The SDK's own transport ends the connection for a byte that is not UTF-8, holds a line of any length, and discards the
server's standard error. Here each line stands alone. A line that is too long, or is no message, fails only the call
that it answers, if it names that call. The end of the standard error is kept to explain why the server ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import (
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    RequestId,
    jsonrpc_message_adapter,
)

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams  # what the SDK's own transports give

LOG = logging.getLogger("podium.mcp")
END_S = 2.0
"""Seconds that a server has to end after its input is closed, and again after SIGTERM."""
CHUNK_BYTES = 64 * 1024
SAID_BYTES = 4 * 1024
"""Bytes kept of the end of standard error, and of each end of a line that is too long."""
_ID = re.compile(rb'"id"\s*:\s*(?:([0-9]{1,15})|"([^"\\]{1,64})")\s*[,}]')
_ANSWER = re.compile(rb'"(?:result|error)"\s*:')
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StdioServer:
    """A transport for the SDK's client. Entering it returns the streams to read from and to write to."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], max_bytes: int, on_end: Callable[[], None]
    ) -> None:
        self._command, self._env, self._max_bytes, self._on_end = command, env, max_bytes, on_end
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: list[asyncio.Task[None]] = []
        self._said = bytearray()
        self._is_left = False
        """Whether we ended the process, so that its exit code means nothing."""
        self._to_session, self._read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self._write_stream, self._from_session = anyio.create_memory_object_stream[SessionMessage](0)

    async def __aenter__(self) -> TransportStreams:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=get_default_environment() | dict(self._env),
            start_new_session=True,
        )
        self._jobs = [asyncio.create_task(work(self._process)) for work in (self._read, self._write, self._hear)]
        return self._read_stream, self._write_stream

    async def __aexit__(self, *_error: object) -> None:
        process = self._process
        if process is None:
            return
        self._is_left = process.returncode is None
        if process.stdin is not None:
            process.stdin.close()
        await _ended(process)
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for stream in (self._to_session, self._read_stream, self._write_stream, self._from_session):
            await stream.aclose()

    def why(self) -> str:
        """Return how the process ended, if it did, with the last text on its standard error; "" if there is neither."""
        code = None if self._process is None or self._is_left else self._process.returncode
        how = "" if code is None else f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
        last = _CONTROL.sub("", self._said.decode("utf-8", "replace")).strip()
        return "; ".join(part for part in (how, f"it said: {last}" if last else "") if part)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        line = _Line(self._max_bytes)
        try:
            while chunk := await process.stdout.read(CHUNK_BYTES):
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    line.add(part)
                    await self._to_session.send(self._message(line))
                    line = _Line(self._max_bytes)
                line.add(rest)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # the session has gone
        with suppress(TimeoutError):  # how it ended is known a moment after its output has
            await asyncio.wait_for(asyncio.gather(process.wait(), asyncio.shield(self._jobs[2])), 0.5)
        self._on_end()
        await self._to_session.aclose()

    def _message(self, line: _Line) -> SessionMessage | Exception:
        if line.size > self._max_bytes:
            return self._misread(line.ends(), f"an answer of {line.size} bytes; at most {self._max_bytes} are taken")
        content = line.whole()
        try:
            text = content.decode("utf-8", "replace")
            return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
        except ValueError as error:
            return self._misread(content, f"an answer that is no message: {_first_line(error)}")

    def _misread(self, content: bytes, problem: str) -> SessionMessage | Exception:
        """Return a failure of the call that a line answers. Returns a ValueError if it answers none."""
        found = _ID.search(content[:SAID_BYTES]) or _ID.search(content[-SAID_BYTES:])
        if found is None or b'"jsonrpc"' not in content or not _ANSWER.search(content):
            LOG.info("%s wrote what is no message: %r", self._command[0], content[:200])
            return ValueError(problem)
        return _failed(int(found[1]) if found[1] else found[2].decode("utf-8", "replace"), problem)

    async def _write(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        async for sent in self._from_session:
            try:
                line = sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
            except ValueError as error:
                await self._refuse(sent.message, f"cannot be written as JSON: {_first_line(error)}")
                continue
            try:
                process.stdin.write(line + b"\n")
                await process.stdin.drain()
            except OSError:
                return  # it has ended, which its output says, too

    async def _refuse(self, message: JSONRPCMessage, problem: str) -> None:
        if isinstance(message, JSONRPCRequest):
            await self._to_session.send(_failed(message.id, problem))

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        """Read standard error and keep its end. If nobody read it, the server would block once the pipe is full."""
        assert process.stderr is not None
        while chunk := await process.stderr.read(CHUNK_BYTES):
            LOG.debug("%s: %s", self._command[0], chunk)
            self._said += chunk
            del self._said[:-SAID_BYTES]


class _Line:
    """A line that is being read. Of a line that is too long only both ends are kept."""

    def __init__(self, max_bytes: int) -> None:
        self._parts: list[bytes] = []
        self._last = b""
        self._max_bytes = max_bytes
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= self._max_bytes:
            self._parts.append(part)
        else:
            if not self._last:
                self._parts = [b"".join([*self._parts, part])[:SAID_BYTES]]
            self._last = (self._last + part)[-SAID_BYTES:]

    def whole(self) -> bytes:
        return b"".join(self._parts)

    def ends(self) -> bytes:
        return b"".join(self._parts) + self._last


def _failed(id: RequestId, problem: str) -> SessionMessage:
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=PARSE_ERROR, message=problem)))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait until the process ends; after END_S end it with all that it has started, by SIGTERM and then SIGKILL."""
    for how in (None, signal.SIGTERM, signal.SIGKILL):
        if how is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, how)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)
            return
    LOG.warning("process %d of an MCP server does not end", process.pid)
