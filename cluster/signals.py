"""Keeps the program's own handler of SIGTERM, although Ray replaces it to print a stack trace."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable


def keeping_sigterm(work: Callable[[], None]) -> None:
    """Do the work, then restore the handler of SIGTERM. Works on any thread, unlike `signal.signal`."""
    handler_of, set_handler = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    handler_of.restype = set_handler.restype = ctypes.c_void_p
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    before = handler_of(int(signal.SIGTERM))
    try:
        work()
    finally:
        set_handler(int(signal.SIGTERM), before)
