"""HTTP transport to an MCP server on which the failure of one call does not affect the others.

In the SDK's transport an exception in one request ends the connection, with all other calls on it. So nothing is raised
here. For a request that could not be sent, was cut off or was refused, the client returns a response with a JSON-RPC
error, which the transport passes to the call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import httpx2
from mcp_types import INTERNAL_ERROR

Delivery = Literal["not sent", "cut off", "refused", "busy", "too large"]
"""How far a failed request got: it never arrived; nobody knows; the server refused it; the server does not take it now;
its answer is larger than allowed."""
DELIVERY = "podium/delivery"
"""Key of the Delivery in the data of such an error. `retryAfter` beside it is the value of the HTTP header."""
MAX_REFUSAL_BYTES = 64 * 1024
"""Largest body that is read of an error response; a larger one counts as empty."""
_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)


class HttpClient(httpx2.AsyncClient):
    """An HTTP client that returns connection errors as responses instead of raising them."""

    def __init__(self, max_bytes: int, headers: Mapping[str, str], timeout: httpx2.Timeout) -> None:
        super().__init__(headers=headers, timeout=timeout)
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **settings)
            return await self._checked(request, response)
        except _NOT_SENT as error:
            return _instead(request, 502, "not sent", _text(error))
        except httpx2.RequestError as error:  # what was read of it cannot be decoded, or no more came
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
    """Read the whole body; None if it is larger than `max_bytes`."""
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
    """Return whether the body is a JSON-RPC error, with which the server itself gives its reason."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and isinstance(said.get("error"), dict) and "jsonrpc" in said


def _again(request: httpx2.Request, response: httpx2.Response, content: bytes) -> httpx2.Response:
    """Return the same response with its body already read."""
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
