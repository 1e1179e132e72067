"""Podium on a local Ray cluster."""

from __future__ import annotations

from functools import partial

from measuring import measure

from podium import halves, peer

if __name__ == "__main__":
    measure("Podium, Ray", "podium", "each step", partial(peer, "ray"), halves("ray"))
