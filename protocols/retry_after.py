"""Retry-After: the time after which a service says to come back, read from an exception.

An exception has it as `retry_after_s` or `retry_after`, or in the headers of a response: `.response.headers` (requests,
httpx, openai) or `.headers` (urllib, aiohttp), a dict or any mapping, in upper or lower case. The header is a number of
seconds or a date (RFC 9110, 10.2.3), or `retry-after-ms` of model servers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any


def retry_after_s(error: BaseException, now: float) -> float | None:
    """Return the seconds from now, 0 or more; None if the exception has no time that can be read. Never raises.

    Args:
        now: UTC seconds since 1970.
    """
    for said in _all_said(error):
        try:
            seconds = _seconds(said, now)
        except Exception:
            continue
        if seconds is not None and math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _all_said(error: BaseException) -> Iterable[object]:
    """Yield the value in each place, the plainest place first. Attributes of foreign errors may be code that fails."""
    yield _attribute(error, "retry_after_s")
    yield _attribute(error, "retry_after")
    for holder in (_attribute(error, "response"), error):
        headers = _attribute(holder, "headers")
        milliseconds = _header(headers, "retry-after-ms")
        if milliseconds is not None:
            yield timedelta(milliseconds=float(milliseconds)) if _is_number(milliseconds) else None
        yield _header(headers, "retry-after")


def _attribute(holder: object, name: str) -> object:
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _header(headers: Any, name: str) -> Any:
    """Return the value of a header by its lower-case name, from anything that has items."""
    try:
        items = headers.items() if hasattr(headers, "items") else headers
        for key, value in items:
            if _text(key).lower() == name:
                return value
    except Exception:
        return None
    return None


def _text(said: object) -> str:
    return said.decode("latin-1") if isinstance(said, bytes) else str(said)


def _is_number(said: Any) -> bool:
    try:
        return math.isfinite(float(said))
    except (TypeError, ValueError):
        return False


def _seconds(said: object, now: float) -> float | None:
    match said:
        case None | bool():
            return None
        case timedelta():
            return said.total_seconds()
        case datetime():
            return said.timestamp() - now
        case int() | float():
            return None if said < 0 else float(said)
        case _:
            return _seconds_in(_text(said).strip(), now)


def _seconds_in(text: str, now: float) -> float | None:
    if _is_number(text):
        return None if float(text) < 0 else float(text)
    return parsedate_to_datetime(text).timestamp() - now
