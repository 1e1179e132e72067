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
    """The names of the blobs to doom and to spare, and the blobs to delete."""

    doom: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    delete: list[Blob] = field(default_factory=list)


def sweep_of(
    blobs: Iterable[Blob], named: Container[str], now: float, grace_s: float, clock_was_set: bool = False
) -> Sweep:
    """Decide what to do about blobs.

    Args:
        blobs: as the store listed them, before `named` was read.
        named: the names that tasks name.
        now: UTC seconds.
        clock_was_set: whether times from before mean nothing. Then what is doomed is doomed anew.
    """
    sweep = Sweep()
    for blob in blobs:
        is_doomed = blob.doomed_at is not None
        age_s = now - (blob.put_at if blob.doomed_at is None else blob.doomed_at)
        is_known = age_s >= 0 and not clock_was_set  # else the clock was set, and how long ago it was is unknown
        if blob.name in named:
            if is_doomed:
                sweep.spare.append(blob.name)
        elif is_doomed and is_known and age_s >= grace_s:
            sweep.delete.append(blob)
        elif not is_known or (age_s >= grace_s and not is_doomed):
            sweep.doom.append(blob.name)
    return sweep


CLOCK_NOISE_S = 5.0
"""Difference between two clocks that may come about without anybody setting one, within some hours."""


def was_set(before: tuple[str, float] | None, now: tuple[str, float]) -> bool:
    """Whether the wall clock was set between two readings of `World.clock`. Across boots nobody can tell."""
    return before is not None and before[0] == now[0] and abs(before[1] - now[1]) > CLOCK_NOISE_S


def pause_s(grace_s: float) -> float:
    """Return the time between two sweeps, in seconds."""
    return min(LONGEST_PAUSE_S, grace_s / SWEEPS_PER_GRACE)
