"""The way to an MCP server over HTTP on which one call's trouble is that call's.

In the SDK's transport whatever a request raises ends the connection, with all other calls on it. So nothing is raised
here: a request that could not be sent, was cut off or refused comes back as a response that says so, as an error of
JSON-RPC, which the transport hands to the call.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx2
from mcp_types import INTERNAL_ERROR

Delivery = Literal["not sent", "cut off", "refused", "busy", "too large"]
"""What became of a request: it never arrived; nobody knows; the server did not take it; not now; its answer is more
than is taken."""
DELIVERY = "podium/delivery"
"""Key, in the data of such an error, of what became of it; `retryAfter` beside it is the header's."""
MAX_REFUSAL_BYTES = 64 * 1024
"""What is read of a response that is no success."""
_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)


class HttpClient(httpx2.AsyncClient):
    """Raises nothing for what happens on the way."""

    def __init__(self, max_bytes: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **settings)
            return await self._checked(request, response)
        except _NOT_SENT as error:
            return _instead(request, 502, "not sent", _text(error))
        except httpx2.TransportError as error:
            return _instead(request, 502, "cut off", _text(error))

    async def _checked(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        if request.method != "POST" or response.status_code == 404 or response.next_request is not None:
            return response  # 404 means a session that has ended, which the transport knows
        if response.status_code >= 400:
            return await self._refused(request, response)
        if not response.headers.get("content-type", "").lower().startswith("application/json"):
            return response
        content = await _read(response, self._max_bytes)
        if content is None:
            return _instead(request, 502, "too large", f"an answer of more than {self._max_bytes} bytes")
        return _again(request, response, content)

    async def _refused(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        content = await _read(response, MAX_REFUSAL_BYTES) or b""
        if _is_error(content):
            return _again(request, response, content)
        status = response.status_code
        text = " ".join(content.decode("utf-8", "replace").split())[:200]
        problem = f"HTTP {status} {response.reason_phrase}" + (f": {text}" if text else "")
        delivery: Delivery = "busy" if status in (429, 503) else "cut off" if status >= 500 else "refused"
        return _instead(request, status, delivery, problem, response.headers.get("retry-after"))


async def _read(response: httpx2.Response, max_bytes: int) -> bytes | None:
    """All of a body; None if it is more than that."""
    content = bytearray()
    try:
        async for part in response.aiter_bytes():
            content += part
            if len(content) > max_bytes:
                return None
    finally:
        await response.aclose()
    return bytes(content)


def _is_error(content: bytes) -> bool:
    """Whether the server says itself, in its protocol, why it does not take the request."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and isinstance(said.get("error"), dict) and "jsonrpc" in said


def _again(request: httpx2.Request, response: httpx2.Response, content: bytes) -> httpx2.Response:
    """The same response, its body read."""
    coded = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(key, value) for key, value in response.headers.multi_items() if key.lower() not in coded]
    return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def _instead(
    request: httpx2.Request, status: int, delivery: Delivery, problem: str, retry_after: str | None = None
) -> httpx2.Response:
    data = {DELIVERY: delivery, "retryAfter": retry_after}
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": INTERNAL_ERROR, "message": problem, "data": data}}
    return httpx2.Response(status, json=error, request=request)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
