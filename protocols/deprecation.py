"""Deprecation of public names: each warns for at least one minor version, and says what to write instead.

The policy is in CONTRIBUTING.md. `tests/house/test_deprecation.py` finds each call of `deprecated`, and fails in the
version in which that thing was to go.
"""

from __future__ import annotations

import warnings


def deprecated(what: str, *, since: str, goes: str, instead: str, level: int = 1) -> None:
    """Warn of the use of `what`, at the line that uses it.

        deprecated("the setting `lease`", since="0.2", goes="0.4", instead="`lease_s`")

    Args:
        since: the version that warns first, as `major.minor`.
        goes: the version without it, at least one minor version later.
        instead: what to write in its place.
        level: how many of Podium's own functions there are between that line and this call; 1 is the deprecated
            function itself.
    """
    text = f"{what} is deprecated since Podium {since} and goes with {goes}; use {instead} instead"
    warnings.warn(text, DeprecationWarning, stacklevel=level + 2)
