"""Chooses the store of an installation."""

from __future__ import annotations

from pathlib import Path

from .contract import Store
from .sqlite.store import FileStore


def store_of(data: Path) -> Store:
    """Return the store of a data directory."""
    return FileStore(data)
