"""The contract of a blob store, which has the large parts of values by content.

A blob is there, durably, before a journal entry names it. A blob that no entry names is swept (upkeep/sweeping.py): it
is *doomed* first, and deleted some time later if it is still not named. A doomed blob is never given to somebody who
puts the same content: that gets another generation. So whoever was given a key has the whole time until the deletion
to have it named.

One suite of tests runs over every implementation: tests/cluster/blobs/test_blobs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from ...protocols.stored import BlobKey, BlobSource, Buffer


class Blob(NamedTuple):
    """One blob, as the store lists it."""

    name: str
    """The name of its key."""
    size: int
    put_at: float
    """UTC seconds."""
    doomed_at: float | None = None


class Draft(Protocol):
    """A blob that is being written."""

    @property
    def is_broken(self) -> bool:
        """Whether a fault has left it unknown what was written. Then it can only be abandoned."""

    def write(self, piece: Buffer) -> None:
        """Add bytes. They may be changed afterwards."""

    def commit(self) -> BlobKey:
        """Make it a blob, durably. If the content was there already, nothing is added."""

    def abandon(self) -> None:
        """Drop what was written. No error if it was committed or abandoned before."""


class BlobStore(BlobSource, Protocol):
    """A blob store. All methods block. They raise BlobsAway if the store cannot be used at present."""

    @property
    def place(self) -> str:
        """Name of the store for messages, without passwords."""

    def new_draft(self) -> Draft: ...

    def put(self, pieces: Iterable[Buffer]) -> BlobKey:
        """Store a content, durably, and return its key. The pieces must not change meanwhile."""

    def put_file(self, path: str, most_bytes: int) -> BlobKey:
        """Store what is in a file of this machine. Raises InvalidInput if it cannot be read, or is larger."""

    def renewed(self, key: BlobKey) -> BlobKey:
        """Return a key of the same content that may be named from now on: the same one, unless it is doomed.

        Raises BlobMissing.
        """

    def read(self, name: str) -> Iterator[Buffer]:
        """Yield a content in pieces, unchecked. Raises BlobMissing."""

    def adopt(self, name: str, pieces: Iterable[Buffer]) -> None:
        """Store a content, durably, under the name that it has in another store.

        Raises BlobCorrupt if it is not the content of that name.
        """

    def size_of(self, name: str) -> int | None:
        """Return the size of a blob; None if it is not there."""

    def listing(self) -> Iterator[Blob]:
        """Yield every blob, in no order. Blobs that come or go meanwhile may be left out."""

    def doom(self, name: str, at: float) -> None:
        """Note that a blob is to be deleted, since `at` (UTC seconds)."""

    def spare(self, name: str) -> None:
        """Take that back. No error if it is not doomed."""

    def delete(self, name: str, doomed_at: float) -> None:
        """Delete a blob that is doomed since then. No error if it is not, or not any more."""

    def drop_drafts(self, before: float) -> int:
        """Delete drafts that nobody has written to since `before` (UTC seconds); returns how many."""
