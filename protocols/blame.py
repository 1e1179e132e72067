"""Makes a Failure of a step out of the exception that its code raised, whatever the exception's own code does.

An exception may be code of anybody: its `str()` may raise, its texts may hold characters that cannot be encoded, its
attributes may be anything. The Failure that is made here can always be packed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from .binding import InvalidOutput
from .errors import InvalidInput, PodiumError
from .outcomes import Failure
from .retry_after import retry_after_s
from .secret import black_out

MAX_TRACEBACK_CHARS = 8_000
MAX_MESSAGE_CHARS = 64_000
_OURS = ("podium.actors", "podium.cluster", "podium.protocols.binding", "concurrent.futures", "asyncio")


def failure_of(error: BaseException, now: float) -> Failure:
    """Return the failure of a step whose code raised `error`. Never raises.

    Args:
        now: UTC seconds, for a Retry-After that is a date.
    """
    kind = _said(lambda: type(error).__name__)
    if isinstance(error, InvalidInput):
        return Failure("invalid_input", sayable(error.problem), kind)
    if isinstance(error, InvalidOutput):
        return Failure("invalid_output", _said(lambda: str(error)), kind)
    return Failure(
        error.code if isinstance(error, PodiumError) else "error",
        _said(lambda: str(error)) or kind,
        kind,
        trace_of(error),
        bases=_bases(error),
        retry_after_s=retry_after_s(error, now),
    )


def fault_of(error: BaseException) -> Failure:
    """Return the failure of a step in which the engine itself raised `error`: a bug of Podium."""
    kind = _said(lambda: type(error).__name__)
    return Failure("internal", f"a fault of Podium's: {kind}: {_said(lambda: str(error))}", kind, trace_of(error))


def trace_of(error: BaseException) -> str:
    """Return the traceback as text, from the first frame of user code on. Of a long one only the end is kept."""
    text = _said(lambda: "".join(traceback.format_exception(type(error), error, _own_frames_dropped(error))))
    return black_out(text)[-MAX_TRACEBACK_CHARS:]


def sayable(text: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """Return the text with escapes for what UTF-8 cannot hold. One longer than `most` is cut, and says its length."""
    text = black_out(text).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters in all)"


def _said(say: Callable[[], object]) -> str:
    """Return the text that `say` gives; "" if the exception's own code fails in that."""
    try:
        return sayable(str(say()))
    except BaseException:
        return ""


def _bases(error: BaseException) -> tuple[str, ...]:
    """Return the names of the base classes, without those that all exceptions have."""
    above = (base.__name__ for base in type(error).__mro__[1:] if issubclass(base, BaseException))
    return tuple(sayable(name) for name in above if name not in ("Exception", "BaseException"))


def _own_frames_dropped(error: BaseException) -> Any:
    frames = error.__traceback__
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
        frames = frames.tb_next
    return frames or error.__traceback__
