"""Finds the cluster of an installation: the one that this machine has, or one on many machines."""

from __future__ import annotations

from typing import Any

from .cluster_file import running_cluster
from .store.address import StoreAddress
from .store.stores import store_of


def cluster_of(place: StoreAddress) -> dict[str, Any] | None:
    """Return how to join the cluster of an installation; None if there is none. Changes nothing.

    Raises InvalidSetting if the lock file cannot be opened, JournalFailed if the database cannot be read.
    """
    return running_cluster(place.path) or store_of(place).cluster()
