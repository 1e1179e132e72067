"""Keys that a person presses while something is shown live."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator

try:
    import termios
    import tty
except ImportError:  # no terminal of that kind
    termios = None  # type: ignore[assignment]

QUIT = frozenset(b"qQ")


@contextlib.contextmanager
def waiting_for_quit() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits for so many seconds, and returns whether `q` was pressed meanwhile. If standard input
    is not a terminal, the function only waits."""
    if termios is None or not sys.stdin.isatty():
        yield _only_wait
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _quits_within
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _only_wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _quits_within(seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready:
            pressed = os.read(sys.stdin.fileno(), 64)
            if not pressed or QUIT.intersection(pressed):  # at the end of the input nobody is there any more
                return True
    return False
