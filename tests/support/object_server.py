"""A server that speaks S3 for tests: one for each test process, one bucket for each test. It keeps all in memory."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

_numbers = count(1)
_CHILD = """
import os, sys, threading
from moto.server import main

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with the tests
main(["--host", "127.0.0.1", "--port", "0"])
"""
_SAYS = "Running on http://127.0.0.1:"


class ObjectServer:
    """A process of its own, which ends with the test process, however that ends."""

    def __init__(self) -> None:
        self._log = Path(tempfile.mkstemp(prefix="podium-moto-")[1])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        atexit.register(self.end)
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _wait_for_port(self) -> int:
        give_up_at = time.monotonic() + 30
        while _SAYS not in (said := self._log.read_text()):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"moto has not started: {said}")
            time.sleep(0.02)
        return int(said.partition(_SAYS)[2].split()[0])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.unlink(missing_ok=True)

    def ask(self, method: str, path: str, body: str = "") -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Content-Type": "text/plain"})
        answer = connection.getresponse()
        assert answer.status in (200, 204), answer.read()
        connection.close()


@cache
def server() -> ObjectServer:
    return ObjectServer()


def use(monkeypatch, url: str | None = None) -> None:
    """Let obstore find a server, the one for tests or another, with credentials."""
    for name, value in {
        "AWS_ENDPOINT_URL": url or server().url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


def new_bucket(monkeypatch) -> str:
    """Make a bucket that `monkeypatch` lets obstore find; returns its URL."""
    use(monkeypatch)
    name = f"bucket-{next(_numbers)}"
    server().ask("PUT", f"/{name}")
    return f"s3://{name}"


@contextmanager
def refusing() -> Iterator[None]:
    """Let the server refuse all credentials."""
    server().ask("POST", "/moto-api/reset-auth", "0")
    try:
        yield
    finally:
        server().ask("POST", "/moto-api/reset-auth", "inf")
