"""Decides which blobs are swept: those that no task names, after a grace. Pure.

A blob that nobody names is doomed first. It is deleted when it was doomed for a whole grace, and is still not named.
So between the moment in which somebody is given a key and the deletion of its blob there is at least one grace, because
nobody is given the key of a doomed blob (ports/blobs.py). Blobs younger than a grace are not even doomed, so that the
same content is rarely stored twice.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from ..ports.blobs import Blob

SWEEPS_PER_GRACE = 4
LONGEST_PAUSE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """The names of the blobs to doom, to spare, and to delete."""

    doom: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)


def sweep_of(blobs: Iterable[Blob], named: Container[str], now: float, grace_s: float) -> Sweep:
    """Decide what to do about blobs.

    Args:
        blobs: as the store listed them, before `named` was read.
        named: the names that tasks name.
        now: UTC seconds.
    """
    sweep = Sweep()
    for blob in blobs:
        is_due = blob.doomed_at is not None and now - blob.doomed_at >= grace_s
        if blob.name in named:
            if blob.doomed_at is not None:
                sweep.spare.append(blob.name)
        elif is_due:
            sweep.delete.append(blob.name)
        elif blob.doomed_at is None and now - blob.put_at >= grace_s:
            sweep.doom.append(blob.name)
    return sweep


def pause_s(grace_s: float) -> float:
    """Return the time between two sweeps, in seconds."""
    return min(LONGEST_PAUSE_S, grace_s / SWEEPS_PER_GRACE)
