"""Faults of Podium's own: told to the event loop's exception handler, which logs them, and kept from all else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def report(what: str, error: BaseException) -> None:
    """Say that the engine itself did not do as it should. In a simulation that is a violation."""
    context = {"message": f"a fault of Podium's: {what}", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


def shielded(what: str, call: Callable[..., Any], *args: Any) -> None:
    """Make a call on behalf of one task or message: whatever it raises is reported, and stops no other."""
    try:
        call(*args)
    except Exception as error:
        report(what, error)
