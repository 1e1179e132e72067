"""Notes each Ctrl-C, so that none is lost.

Python raises KeyboardInterrupt wherever the main thread is. A destructor or a callback of C code swallows it. Code that
waits therefore looks at the note, too.
"""

from __future__ import annotations

import signal
import threading

_came = threading.Event()


def heed() -> None:
    """Forget earlier Ctrl-C and note each from now on, if this is the main thread: no other thread gets signals."""
    _came.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _note)


def _note(_signal: int, _frame: object) -> None:
    _came.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C has come."""
    if _came.is_set():
        raise KeyboardInterrupt
