"""Python's collector of cyclic garbage, told to look more rarely: thousands of open tasks are not garbage."""

from __future__ import annotations

import gc

USUAL = (700, 10, 10)
"""Python's own thresholds."""
RARE = (50_000, 20, 50)
_engines = 0
"""Open in this process, with thresholds of ours."""


def tune_process() -> None:
    """For processes of our own code alone."""
    gc.set_threshold(*RARE)


def pass_over_what_is_there() -> None:
    """What is there by now stays: modules above all. Looking at Ray's again stops a process for 30 to 60 ms.

    There is next to no garbage among it, so it is not collected first: that would take as long. In a host, what the
    protocol's own `start` has made is there, too: cycles among that are kept until the process ends.
    """
    gc.freeze()


def look_rarely() -> bool:
    """For a process that belongs to the user: only if it has Python's own thresholds. Returns whether they are ours
    now; then `look_as_usual` is to follow, and the last of these restores them."""
    global _engines
    if gc.get_threshold() != (RARE if _engines else USUAL):
        return False
    _engines += 1
    gc.set_threshold(*RARE)
    return True


def look_as_usual() -> None:
    global _engines
    _engines -= 1
    if _engines == 0 and gc.get_threshold() == RARE:
        gc.set_threshold(*USUAL)
