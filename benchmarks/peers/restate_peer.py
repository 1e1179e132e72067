"""Restate: its server, a service of the Python SDK on granian, and a lean HTTP client with connections that stay open.

RESTATE_SERVER=path/of/restate-server python restate_peer.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from measuring import measure
from servers import free_port, running
from work import Peer

CONNECTIONS = 256
READY_S = 60.0


def post(url: str, body: Any) -> None:
    """Until it works."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    give_up_at = time.monotonic() + READY_S
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).read()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


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
def peer() -> Iterator[Peer]:
    ingress, admin, fabric, own = (free_port() for _ in range(4))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {
            "RESTATE_BASE_DIR": folder,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_BIND_PORT": str(fabric),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        stack.enter_context(running([os.environ["RESTATE_SERVER"], "--no-logo"], **settings))
        serving = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1"]
        stack.enter_context(
            running([*serving, "--port", str(own), "--http", "2", "--loop", "uvloop", "restate_service:app"])
        )
        post(f"http://127.0.0.1:{admin}/deployments", {"uri": f"http://127.0.0.1:{own}"})
        runner, client = stack.enter_context(asyncio.Runner()), Client(ingress)
        yield Peer(lambda inputs: runner.run(client.many(inputs)), lambda *of: runner.run(client.fan(*of)))


if __name__ == "__main__":
    measure("Restate", "restate-sdk", "each step", peer)
