"""Moves the tasks of an installation from one store to another, with every seal checked on the way.

The rows have the same columns and seals in every store, so they are carried over as they are. The target is durable
before the source is put aside. So whatever breaks off a move, the tasks are in the source, or in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from .rows import Row, blob_of, check_entry, found_row, note_of


class ShardRows(NamedTuple):
    """All rows of one shard, in the forms of rows.py, and its epoch."""

    shard: str
    epoch: int
    tasks: Iterable[Row]
    entries: Iterable[Row]
    notes: Iterable[Row]
    blobs: Iterable[Row]


class Moved(NamedTuple):
    """The number of rows that were carried over."""

    shards: int = 0
    tasks: int = 0
    entries: int = 0

    def plus(self, other: Moved) -> Moved:
        return Moved(self.shards + other.shards, self.tasks + other.tasks, self.entries + other.entries)


class Place(Protocol):
    """A store as the source or the target of a move. The caller keeps clusters out."""

    place: str

    def is_empty(self) -> bool:
        """Whether nothing was ever written there."""

    def shards(self) -> Iterator[ShardRows]:
        """Yield every shard. Raises JournalCorrupt if one is damaged."""

    def put_aside(self, stamp: str) -> str:
        """Rename what is there, so that no cluster goes on with it; returns its new name."""

    def load(self, shards: Iterator[ShardRows]) -> Moved:
        """Write all shards, durably and all together. If it raises, nothing is there."""


def carry_over(source: Place, target: Place) -> Moved:
    """Carry everything over; the source is not changed. Raises JournalCorrupt, JournalFailed."""
    return target.load(map(_checked, source.shards()))


def _checked(rows: ShardRows) -> ShardRows:
    shard = rows.shard
    return rows._replace(
        tasks=_each(rows.tasks, lambda row: found_row(shard, row)),
        entries=_each(rows.entries, lambda row: check_entry(shard, row)),
        notes=_each(rows.notes, lambda row: note_of(shard, row)),
        blobs=_each(rows.blobs, lambda row: blob_of(shard, row)),
    )


def _each(rows: Iterable[Row], check: Callable[[Row], object]) -> Iterator[Row]:
    for row in rows:
        check(row)
        yield row
