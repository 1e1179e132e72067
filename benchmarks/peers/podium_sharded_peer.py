"""Podium on a local Ray cluster, the workflow of W1 and W2 in two shards."""

from __future__ import annotations

from functools import partial

from measuring import measure
from podium_work import halves, peer

if __name__ == "__main__":
    measure("Podium, Ray, two shards", "podium", "each step", partial(peer, "ray", shards=2), halves("ray"))
