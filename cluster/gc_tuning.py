"""Makes Python's cyclic garbage collector run less often, because thousands of open tasks are not garbage."""

from __future__ import annotations

import gc

USUAL = (700, 10, 10)
"""Python's default thresholds."""
RARE = (50_000, 20, 50)
_engines = 0
"""Number of open engines in this process that use our thresholds."""


def tune_process() -> None:
    """Set our thresholds. For processes that run only our own code."""
    gc.set_threshold(*RARE)


def pass_over_what_is_there() -> None:
    """Exclude all objects that exist now from garbage collection: above all modules, which live on anyway.

    A collection that scans Ray's modules stops a process for 30 to 60 ms. These objects hold next to no garbage, so
    they are not collected first, which would take as long. In a host they include the objects that the protocol's own
    `start` made: garbage cycles among those stay in memory until the process ends.
    """
    gc.freeze()


def look_rarely() -> bool:
    """Set our thresholds in a process of the user, unless the user changed Python's defaults.

    Returns whether our thresholds are set now. If so, call `look_as_usual` later; the last call restores the defaults.
    """
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
