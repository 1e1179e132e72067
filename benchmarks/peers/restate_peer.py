"""Restate: its server, a service of the Python SDK on granian, and a lean HTTP client with connections that stay open.

RESTATE_SERVER=path/of/restate-server python restate_peer.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from measuring import measure
from servers import free_port, running
from work import Killed, Peer, kill_family

CONNECTIONS = 256
READY_S = 60.0
RESULT_S = 120.0


def post(url: str, body: Any) -> Any:
    """What it answers, when it works."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    give_up_at = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def result_of(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=RESULT_S) as answer:
        return json.load(answer)


class Connection:
    """One HTTP/1.1 connection: a request at a time."""

    @classmethod
    async def open(cls, port: int) -> Connection:
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def call(self, handler: str, input: dict) -> Any:
        body = json.dumps(input).encode()
        head = f"POST /peer/{handler} HTTP/1.1\r\nhost: restate\r\ncontent-type: application/json\r\n"
        self.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line.partition(":")[2] for line in answer.split("\r\n") if line.startswith("content-length"))
        result = json.loads(await self.reader.readexactly(int(length)))
        if not answer.startswith("http/1.1 200"):
            raise SystemExit(f"Restate answers: {result}")
        return result


class Client:
    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def many(self, inputs: list[dict]) -> list[dict]:
        left, results = iter(enumerate(inputs)), [{}] * len(inputs)

        async def work(connection: Connection) -> None:
            for at, input in left:
                results[at] = await connection.call("chain", input)

        count = min(CONNECTIONS, len(inputs))
        while len(self._idle) < count:
            self._idle.append(await Connection.open(self._port))
        await asyncio.gather(*(work(connection) for connection in self._idle[:count]))
        return results

    async def fan(self, count: int, sleep_s: float) -> int:
        return await self._idle[0].call("fan", {"count": count, "sleep_s": sleep_s})


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """The ports of its ingress and of its administration."""
    ingress, admin, fabric = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "RESTATE_BASE_DIR": folder,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_BIND_PORT": str(fabric),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        with running([os.environ["RESTATE_SERVER"], "--no-logo"], **settings):
            yield ingress, admin


def service(port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    serving = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1"]
    return running([*serving, "--port", str(port), "--http", "2", "--loop", "uvloop", "restate_service:app"])


def register(port: int, admin: int) -> None:
    post(f"http://127.0.0.1:{admin}/deployments", {"uri": f"http://127.0.0.1:{port}"})


@contextmanager
def peer() -> Iterator[Peer]:
    own = free_port()
    with server() as (ingress, admin), service(own), asyncio.Runner() as runner:
        register(own, admin)
        client = Client(ingress)
        yield Peer(lambda inputs: runner.run(client.many(inputs)), lambda *of: runner.run(client.fan(*of)))


@contextmanager
def scene(folder: Path) -> Iterator[Killed]:
    """The service is killed; the server, which keeps the log, goes on."""
    own, sent = free_port(), []
    with server() as (ingress, admin), ExitStack() as services:
        first = services.enter_context(service(own))
        register(own, admin)

        def submit(count: int) -> None:
            calls = (post(f"http://127.0.0.1:{ingress}/peer/slow_chain/send", {"n": n}) for n in range(count))
            sent.extend(call["invocationId"] for call in calls)

        def finish(_count: int) -> list[dict]:
            services.enter_context(service(own))
            return [result_of(f"http://127.0.0.1:{ingress}/restate/invocation/{each}/attach") for each in sent]

        yield Killed(submit, lambda: kill_family(first.pid), finish)


if __name__ == "__main__":
    measure("Restate", "restate-sdk", "each step", peer, scene)
