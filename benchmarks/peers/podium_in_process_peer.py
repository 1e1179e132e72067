"""Podium without a cluster: actors, journal and steps in this process."""

from __future__ import annotations

from functools import partial

from measuring import measure

from podium import halves, peer

if __name__ == "__main__":
    measure("Podium, in process", "podium", "each step", partial(peer, "inprocess"), halves("inprocess"))
