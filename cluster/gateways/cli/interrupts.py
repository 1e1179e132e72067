"""Ctrl-C that is not lost: Python raises KeyboardInterrupt wherever the main thread is, and where that is a destructor
or a callback of C code it is swallowed. So it is noted, too, and whoever waits looks there."""

from __future__ import annotations

import signal
import threading
from typing import Any

_came = threading.Event()


def heed() -> None:
    """From now on, if this is the main thread: no other gets signals."""
    _came.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _note)


def _note(_signal: int, _frame: Any) -> None:
    _came.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raises KeyboardInterrupt if Ctrl-C has come."""
    if _came.is_set():
        raise KeyboardInterrupt
