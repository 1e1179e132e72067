"""Keeps clusters out of an installation while a command changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ....protocols.errors import DataInUse
from ...cluster_file import ClusterFile, holder, make_folder
from ...config import Settings
from ...store.stores import store_of


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep clusters out, of a database also those of other machines. Raises DataInUse while one runs."""
    make_folder(settings.data)
    file = ClusterFile(settings.data)
    if not file.take():
        raise DataInUse(directory=settings.store.place, holder=f"{holder(file.read() or {})}: podium down")
    ownership = store_of(settings.store).ownership()
    try:
        ownership.take()
        yield
    finally:
        ownership.release()
        file.release()
