"""An endpoint that replies what a test gives it, byte by byte if need be, and keeps what it was asked."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What is sent in return for one request, in these pieces."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    pause_s: float = 0.0
    """Between two pieces."""


def refused(status: int, body: Any, **headers: str) -> Reply:
    said = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(
        [said], status, {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    )


class Served:
    """Replies one after the other, the last one for ever; or what a function makes of the requests so far."""

    def __init__(self, replies: Sequence[Reply] | Callable[[list[dict[str, Any]]], Reply]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.url = ""
        self._replies = replies

    def next(self, body: dict[str, Any]) -> Reply:
        self.asked.append(body)
        if callable(self._replies):
            return self._replies(self.asked)
        return self._replies[min(len(self.asked), len(self._replies)) - 1]


@contextmanager
def serving(*replies: Reply, by: Callable[[list[dict[str, Any]]], Reply] | None = None) -> Iterator[Served]:
    served = Served(by or replies)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            reply = served.next(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(reply.status)
            for name, value in {**reply.headers, "transfer-encoding": "chunked"}.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in (*reply.pieces, b""):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
                time.sleep(reply.pause_s)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
