"""Signals stay the program's own, although Ray takes SIGTERM over to print where it came."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable


def keeping_sigterm(work: Callable[[], None]) -> None:
    """Do the work; what SIGTERM did before, it does after it. On any thread: Python lets only the main one set it."""
    handler_of, set_handler = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    handler_of.restype = set_handler.restype = ctypes.c_void_p
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    before = handler_of(int(signal.SIGTERM))
    try:
        work()
    finally:
        set_handler(int(signal.SIGTERM), before)
