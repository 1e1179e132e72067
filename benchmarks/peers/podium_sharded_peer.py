"""Podium on a local Ray cluster, its workflows in two shards, but for that of W3, which is one task."""

from __future__ import annotations

from functools import partial

from measuring import measure

from podium import halves, peer

if __name__ == "__main__":
    measure("Podium, Ray, two shards", "podium", "each step", partial(peer, "ray", shards=2), halves("ray", shards=2))
